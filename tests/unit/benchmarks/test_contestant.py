"""Contestants in real processes: what they answer, what they print, how they fail."""

import sys

import pytest

from benchmarks.contestant import Contestant, ContestantError

PROGRAM = """
from benchmarks.contestant import answer_questions

def load():
    print("a library's banner")
    {loading}

    def answer(question):
        print("noise")
        return {{"answer": 6 / question}}

    return answer

answer_questions(load)
"""


def command(loading: str = "pass") -> list[str]:
    return [sys.executable, "-c", PROGRAM.format(loading=loading)]


def test_answers_are_told_from_what_is_printed() -> None:
    contestant = Contestant(command())
    try:
        assert contestant.ask(2) == {"answer": 3.0}
        assert contestant.ask(3) == {"answer": 2.0}
    finally:
        contestant.close()
    assert contestant.process.returncode == 0


def test_one_that_does_not_load_is_an_error(tmp_path) -> None:
    with (tmp_path / "log").open("w") as log, pytest.raises(ContestantError, match="status 1"):
        Contestant(command("raise OSError('no such file')"), log=log)
    assert "no such file" in (tmp_path / "log").read_text()


def test_one_that_fails_on_a_question_is_an_error() -> None:
    contestant = Contestant(command())
    try:
        with pytest.raises(ContestantError, match="status 1"):
            contestant.ask(0)
        with pytest.raises(ContestantError):
            contestant.ask(1)
    finally:
        contestant.close()
