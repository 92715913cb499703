"""The command line and build_mar.sh: messages and exit codes, without a server."""

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.__main__ import _explained, main
from tests.integration import quadrant
from tests.unit.deploy.torchserve.test_tokens import key_file

RUN = "import sys; from deploy.__main__ import main; sys.exit(main(sys.argv[1:]))"


def test_help_documents_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    for code in "0123467":
        assert f"  {code}  " in text
    assert max(map(len, text.splitlines())) <= 80


def test_archive_prints_path_size_and_digest(
    artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--artifacts", str(artifact.parent), "--model-store", str(tmp_path / "store")]
    assert main(["archive", "quadrant", *options]) == 0
    first = capsys.readouterr().out
    made = tmp_path / "store" / "quadrant.mar"
    assert f"path     {made}" in first
    assert f"size     {made.stat().st_size} bytes" in first
    with pytest.raises(SystemExit):
        main(["archive", "--verify", str(made)])
    assert "unrecognized arguments: --verify" in capsys.readouterr().err


def test_a_missing_artifact_is_2_and_a_failed_gate_3(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quadrant.make(tmp_path, "failed", passed=False)
    options = ["--artifacts", str(tmp_path), "--model-store", str(tmp_path / "store")]
    assert main(["archive", "nobody", *options]) == 2
    assert capsys.readouterr().err.startswith("deploy archive: no artifact at")
    assert main(["archive", "failed", *options]) == 3
    assert "--force" in capsys.readouterr().err
    assert main(["archive", "failed", "--force", *options]) == 0


def test_no_server_is_4(tmp_path: Path, capsys: pytest.CaptureFixture[str], root: Path) -> None:
    options = ["--workdir", str(tmp_path), "--config", str(root / "config.properties")]
    for words in (["status"], ["list"], ["register", "x.mar"], ["token"]):
        assert main([*words, *options]) == 4, words
        assert "deploy start" in capsys.readouterr().err
    assert main(["stop", "--workdir", str(tmp_path)]) == 0


def test_a_key_goes_into_a_file_that_only_its_owner_reads(tmp_path: Path, root: Path) -> None:
    key_file(tmp_path, 60)
    options = ["--workdir", str(tmp_path), "--config", str(root / "config.properties")]
    header = tmp_path / "header"
    header.write_text("old")
    header.chmod(0o644)
    assert main(["token", "management", "--header-file", str(header), *options]) == 0
    assert header.read_text() == "Authorization: Bearer abc\n"
    assert header.stat().st_mode & 0o777 == 0o600


def test_a_full_disk_is_7_and_leaves_nothing(artifact: Path, tmp_path: Path, root: Path) -> None:
    """A limit on the size of files stands for the disk: the system refuses to write on."""
    store = tmp_path / "store"
    words = ["archive", "quadrant", "--artifacts", str(artifact.parent), "--model-store"]
    limited = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000)); {RUN}"
    done = subprocess.run(
        [sys.executable, "-c", limited, *words, str(store)],
        cwd=root,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 7, done.stderr
    assert done.stderr.startswith("deploy archive: the system refused")
    assert len(done.stderr.splitlines()) == 1
    assert list(store.iterdir()) == []
    assert list(tmp_path.glob("marpress-*")) == []


def test_a_tgz_is_not_sent_to_the_server(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], root: Path
) -> None:
    (tmp_path / "model.tar.gz").write_bytes(b"\x1f\x8b\x08" + bytes(40))
    options = ["--model-store", str(tmp_path), "--config", str(root / "config.properties")]
    assert main(["register", "model.tar.gz", *options]) == 2
    assert "--archive-format tgz" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("code", "text"),
    [(errno.ENOSPC, "the disk is full at /x: free some"), (errno.EACCES, "denied")],
)
def test_what_the_system_refuses_is_one_sentence(code: int, text: str) -> None:
    assert text in _explained(OSError(code, os.strerror(code), "/x"))
    assert text in _explained(OSError(code, os.strerror(code), "/source", None, "/x"))


@pytest.mark.parametrize("words", [[], ["fly"], ["java"], ["scale", "x", "many"]])
def test_a_wrong_command_line_is_2(words: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2


def test_a_parameter_without_a_value_is_2(
    artifact: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = str(artifact / "samples" / "0.png")
    assert main(["predict", "x", picture, "--param", "top_k"]) == 2
    assert "KEY=VALUE" in capsys.readouterr().err


def test_a_closed_pipe_is_no_error(artifact: Path, tmp_path: Path, root: Path) -> None:
    """`python -m deploy ... | head -1`."""
    command = f"{sys.executable} -m deploy --help | true"
    done = subprocess.run(
        ["sh", "-c", command], cwd=root, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


class TestBuildMar:
    """The shell script, in a copy of the repository's layout."""

    @pytest.fixture
    def place(self, tmp_path: Path, root: Path) -> Path:
        """A folder with the script, the packages and a passed and a failed artifact."""
        for name in ("deploy", "handlers"):
            shutil.copytree(
                root / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__")
            )
        shutil.copy2(root / "build_mar.sh", tmp_path)
        quadrant.make(tmp_path / "artifacts")
        quadrant.make(tmp_path / "artifacts", "failed", passed=False)
        return tmp_path

    def run(self, place: Path, *words: str, path: str = "") -> subprocess.CompletedProcess[str]:
        # Called from elsewhere by its path, with the tests' interpreter as the system's python3.
        return subprocess.run(
            [str(place / "build_mar.sh"), *words],
            cwd="/",
            env={"PATH": path or f"{place / 'bin'}{os.pathsep}{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            check=False,
        )

    def with_python(self, place: Path, name: str) -> None:
        launcher = place / name
        launcher.parent.mkdir(parents=True)
        launcher.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        launcher.chmod(0o755)

    @pytest.mark.parametrize("python", ["bin/python3", ".venv/bin/python"])
    def test_it_builds_with_either_python(self, place: Path, python: str) -> None:
        self.with_python(place, python)
        done = self.run(place, "quadrant", "--version", "1.0")
        assert done.returncode == 0, done.stderr
        assert "model    quadrant version 1.0" in done.stdout
        assert (place / "model_store" / "quadrant.mar").is_file()

    def test_refusals_keep_their_exit_codes(self, place: Path) -> None:
        self.with_python(place, ".venv/bin/python")
        assert self.run(place, "nobody").returncode == 2
        assert self.run(place, "failed").returncode == 3
        assert self.run(place, "failed", "--force").returncode == 0

    def test_without_an_environment_it_says_so(self, place: Path) -> None:
        (place / "bin").mkdir()
        for tool in ("sh", "dirname"):
            found = shutil.which(tool)
            assert found is not None
            (place / "bin" / tool).symlink_to(found)
        done = self.run(place, "quadrant", path=str(place / "bin"))
        assert done.returncode == 2
        assert "make setup" in done.stderr

    def test_usage(self, place: Path) -> None:
        assert self.run(place).returncode == 2
        done = self.run(place, "--help")
        assert (done.returncode, done.stdout.startswith("usage: ./build_mar.sh NAME")) == (0, True)
