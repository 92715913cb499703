"""locks/install.sh with a pip that installs nothing: what it does when a part fails."""

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "locks" / "install.sh"
PIP = '#!/bin/sh\necho "$*" >> {log}\ncase "$*" in *{fails}*) echo boom >&2; exit 1;; esac\n'


def install(venv: Path, fails: str) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """The script's end, and the words that pip was called with."""
    (venv / "bin").mkdir(parents=True)
    log = venv / "log"
    for name, text in (("pip", PIP.format(log=log, fails=fails)), ("python", "#!/bin/sh\nexit 1")):
        (venv / "bin" / name).write_text(text)
        (venv / "bin" / name).chmod(0o755)
    words = [str(SCRIPT), str(venv), "first"]
    ended = subprocess.run(words, capture_output=True, text=True, env=dict(os.environ))
    return ended, log.read_text().splitlines()


def test_all_parts(tmp_path: Path) -> None:
    ended, _ = install(tmp_path / "venv", "nothing")
    assert ended.returncode == 0
    assert ended.stdout.count("installed  ") == 2


@pytest.mark.parametrize("fails", ["first.txt", "torch"])
def test_one_part_fails(tmp_path: Path, fails: str) -> None:
    ended, called = install(tmp_path / "venv", fails)
    assert ended.returncode == 7
    assert ended.stdout.count("installed  ") == 1 and "boom" in ended.stdout
    assert "Run the same command again" in ended.stdout.splitlines()[-1]
    # What fails with its hash is not taken without one.
    assert all("--require-hashes" in words for words in called)
