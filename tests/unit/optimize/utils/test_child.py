"""A child process, real ones: what it answers, how it ends, and that its last words arrive."""

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from optimize.utils import child
from optimize.utils.child import Child, Ended, Failed, TimedOut

MODULE = "tests.unit.optimize.utils.test_child"


def start(word: str) -> Callable[[Any], Any]:
    if word == "refuse":
        raise ValueError("no such\n model") from KeyError("weights")
    if word == "exit":
        sys.exit("out of patience")

    def answer(question: Any) -> Any:
        if question == "raise":
            raise RuntimeError("not today")
        if question == "die":
            print("a library's last line", file=sys.stderr, flush=True)
            os._exit(3)
        if question == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if question == "sleep":
            time.sleep(60)
        print("what libraries print disturbs nobody")
        return word, question, os.environ.get("WORD"), str(Path.cwd())

    return answer


def test_it_answers_and_goes_on_after_an_error() -> None:
    with Child(MODULE, "one", environment={"WORD": "two"}) as running:
        assert running.ask({"three": 3}) == ("one", {"three": 3}, "two", str(Path.cwd()))
        with pytest.raises(Failed, match="RuntimeError: not today"):
            running.ask("raise")
        assert running.ask(4)[1] == 4
    assert running._process.returncode == 0


def test_it_starts_in_a_folder_with_modules_of_our_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "optimize.py").write_text("raise SystemExit('the wrong one')")
    monkeypatch.chdir(tmp_path)
    with Child(MODULE, "one") as running:
        assert running.ask(1)[3] == str(tmp_path)


def test_what_start_raises_is_told_with_its_cause() -> None:
    with pytest.raises(Failed, match=r"^ValueError: no such model; from KeyError: 'weights'$"):
        Child(MODULE, "refuse")


@pytest.mark.parametrize(
    ("word", "question", "reason"),
    [
        ("one", "die", r"^ended with code 3 \(a library's last line\)$"),
        ("one", "kill", "^was killed: most likely memory ran out"),
        ("exit", None, r"^ended with code 1 \(out of patience\)$"),
    ],
)
def test_the_end_of_the_process_is_told(word: str, question: str, reason: str) -> None:
    with pytest.raises(Ended, match=reason), Child(MODULE, word) as running:
        running.ask(question)


def test_one_that_has_ended_is_told_when_it_is_asked() -> None:
    with Child(MODULE, "one") as running:
        running._process.kill()
        running._process.wait()
        with pytest.raises(Ended, match="was killed"):
            running.ask(1)


def test_one_that_takes_too_long_is_ended_at_once() -> None:
    start = time.monotonic()
    with (
        pytest.raises(TimedOut, match=r"^gave no answer within 0 s$"),
        Child(MODULE, "one") as running,
    ):
        running.ask("sleep", seconds=0.1)
    assert running._process.returncode == -signal.SIGKILL
    assert time.monotonic() - start < 30  # of 60 that it would sleep


if __name__ == "__main__":
    child.serve(start)
