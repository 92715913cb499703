"""Lines in a terminal of 80 columns and in a file, and JSON with nothing beside it."""

import json
import subprocess
import sys

import pytest

from optimize.utils.terminal import folded

LONG = (
    "gate     FAILED: accuracy lost 0.0312, the budget is 0.0100; agreement with the original "
    "is low"
)


def test_lines_are_broken_at_words_under_their_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    first, *rest = folded(LONG).splitlines()
    assert rest and all(len(line) <= 80 for line in (first, *rest))
    assert all(line[:9] == " " * 9 and line[9] != " " for line in rest)
    assert " ".join([first, *map(str.strip, rest)]) == LONG


def test_what_no_blank_divides_stays_in_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    path = "/a/" + "long/" * 20
    assert path in folded(f"saved in {path} for later").splitlines()[1]


def test_a_file_or_a_pipe_gets_whole_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    code = f"from optimize.utils.terminal import say; say({LONG!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == LONG + "\n"


NOISY = """\
import subprocess
from optimize.utils.terminal import json_alone, note
with json_alone() as show:
    print("a package prints")
    subprocess.run(["echo", "so does a process"], check=True)
    note("a step")
    show({"passed": True})
    print("and again")
"""


def test_json_is_alone_on_standard_output() -> None:
    done = subprocess.run([sys.executable, "-c", NOISY], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {"passed": True}
    said = {"a package prints", "so does a process", "a step", "and again"}
    assert said <= set(done.stderr.splitlines())
