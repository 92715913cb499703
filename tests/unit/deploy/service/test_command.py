"""`python -m deploy flask`: one request in-process, and what it refuses to start with."""

import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from deploy.__main__ import main
from deploy.archive import mar
from deploy.service import keys
from deploy.torchserve.tokens import Tokens
from tests.integration import quadrant

ROOT = Path(__file__).resolve().parents[4]


@pytest.fixture(scope="module")
def sealed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("flask")
    path = mar.seal(quadrant.make(folder / "artifacts"), folder / "model_store").path
    (folder / "a.png").write_bytes(quadrant.picture(3))
    (folder / "bad.png").write_bytes(b"no picture")
    return path


def deploy(*arguments, stdin=""):
    command = [sys.executable, "-m", "deploy", "flask", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, input=stdin, timeout=120
    )


def test_once_prints_status_and_body(sealed):
    done = deploy(sealed, "--once", sealed.parents[1] / "a.png", "--param", "top_k=1")
    assert done.returncode == 0, done.stderr
    first, body = done.stdout.splitlines()
    assert first == "200 application/json"
    assert json.loads(body)["predictions"][0]["index"] == 3
    bad = deploy(sealed, "--once", sealed.parents[1] / "bad.png")
    assert bad.returncode == 1
    assert bad.stdout.startswith("400 application/json\n")
    assert "Traceback" not in bad.stderr


def test_a_breakpoint_in_a_handler_works_without_a_new_archive(sealed, tmp_path):
    source = tmp_path / "handlers"
    shutil.copytree(ROOT / "handlers", source, ignore=shutil.ignore_patterns("__pycache__"))
    file = source / "image_classifier.py"
    text = file.read_text()
    verb = "    def postprocess(self, request: Request, results: list[torch.Tensor]) -> Any:\n"
    assert verb in text
    file.write_text(text.replace(verb, verb + "        breakpoint()\n"))
    done = deploy(
        *(sealed, "--once", sealed.parents[1] / "a.png", "--handlers", source),
        stdin="p 'labels:', self.card.labels[3]\ncontinue\n",
    )
    assert done.returncode == 0, done.stderr
    assert f"{file}(" in done.stdout, "the debugger does not show the file being edited"
    assert "('labels:', 'bottom right')" in done.stdout
    assert '"index": 3' in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nope.mar"], "no archive at nope.mar"),
        (["{}", "--once", "nope.png"], "nope.png cannot be read"),
        (["{}", "{}", "--once", "nope.png"], "one archive"),
        (["{}", "--once", "{}", "--param", "x"], "KEY=VALUE"),
        ([], "name an archive"),
        (["{}", "--workers", "0"], "--workers"),
        (["{}", "--memory-limit", "0"], "--memory-limit"),
        (["{}", "--handlers", "/"], "no base.py"),
        (["{}", "{}"], "already registered"),
        (["{}", "--host", "0.0.0.0"], "--key-file FILE"),
        (["{}", "--key-file", "nope"], "nope cannot be read"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_left(
    sealed, tmp_path, capsys, monkeypatch, arguments, words
):
    filled = [argument.format(sealed) for argument in arguments]
    workdir, temporary = tmp_path / "work", tmp_path / "temporary"
    workdir.mkdir()
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    assert main(["flask", *filled, "--workdir", str(workdir), "--port", "0"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("deploy flask: ")
    assert words in error
    assert not list(workdir.iterdir())
    assert not list(temporary.iterdir())


def test_the_key_file_is_one_that_our_client_reads(tmp_path):
    key = keys.write(tmp_path)
    path = tmp_path / "key_file.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    header = Tokens(path, "http://127.0.0.1:1").header("management")
    assert header == {"Authorization": f"Bearer {key}"}
    assert Tokens(path, "http://127.0.0.1:1").header("inference") == header
    keys.remove(tmp_path, "another server's")
    assert path.exists()
    keys.remove(tmp_path, key)
    assert not list(tmp_path.iterdir())
    key = keys.write(tmp_path, "what clients must send")
    for kind, sent in (("management", key), ("inference", "what clients must send")):
        header = Tokens(path, "http://127.0.0.1:1").header(kind)
        assert header == {"Authorization": f"Bearer {sent}"}
