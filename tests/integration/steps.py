"""A document's commands, run word for word in a copy of the repository; only the ports differ."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.integration.torchserve import ROOT, workplace

PORTS = {"8080": "inference_address", "8081": "management_address", "8082": "metrics_address"}
_WAIT = """
for _ in $(seq 150); do
  curl -sf -H "Authorization: Bearer $(python -m deploy token 2>/dev/null)" \
    http://127.0.0.1:8080/ping 2>/dev/null | grep -q Healthy && break; sleep 0.2
done
for _ in $(seq 150); do
  python -m deploy describe NAME 2>/dev/null | grep -q READY && break; sleep 0.2
done
"""


@contextmanager
def repository() -> Iterator[Path]:
    """The files git would give a newcomer, an environment and free ports."""
    with workplace() as place:
        config = (place / "config.properties").read_text()
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            capture_output=True,
            check=True,
        )
        for name in listed.stdout.decode().split("\0"):
            if name and (ROOT / name).is_file():
                (place / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, place / name)
        (place / "config.properties").write_text(config)
        (place / ".venv").symlink_to(sys.prefix)
        yield place


def run(place: Path, blocks: list[str], model: str) -> list[str]:
    """What each block of shell commands printed; waits for `model` after a server's start."""
    settings = dict(
        line.split("=", 1)
        for line in (place / "config.properties").read_text().splitlines()
        if "=" in line and not line.startswith("#")
    )
    script = []
    for block in blocks:
        script.append(block)
        if "torchserve --start" in block:
            script.append(_WAIT.replace("NAME", model))
    text = "set -e\n" + "\necho; echo ---\n".join(script)
    for port, key in PORTS.items():
        text = text.replace(f"127.0.0.1:{port}", settings[key].removeprefix("http://"))
    temp = place / "tmp"
    temp.mkdir()
    environment = {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": str(place),
        "TMPDIR": str(temp),
        "TEMP": str(temp),
        "OMP_NUM_THREADS": "1",
    }
    with (place / "console.log").open("wb") as console:
        shell = subprocess.Popen(
            ["bash", "-c", text],
            cwd=place,
            env=environment,
            stdout=console,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            returned = shell.wait(timeout=600)
        except subprocess.TimeoutExpired:
            said = (place / "console.log").read_text(errors="replace")
            pytest.fail(f"hangs after: {said[-3000:]}")
        finally:
            _end(shell.pid)
    output = (place / "console.log").read_text(errors="replace")
    assert returned == 0, output[-3000:]
    return output.split("\n---\n")


def _end(group: int) -> None:
    """End what the script left behind: the processes of its group, a server among them."""
    left = [p for p in psutil.process_iter() if _group(p) == group]
    for process in left:
        process.terminate()
    for survivor in psutil.wait_procs(left, timeout=20)[1]:
        survivor.kill()


def _group(process: psutil.Process) -> int | None:
    try:
        return os.getpgid(process.pid)
    except ProcessLookupError:
        return None
