"""The questions of `marpress init`: asked once each, again where an answer cannot be."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from optimize.draft.asked import Asked
from optimize.draft.questions import ask
from tests.unit.optimize.draft import made


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    made.table(tmp_path / "houses.csv", 10)
    (tmp_path / "net.py").write_text(made.TABLE_NET)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def answered(lines: list[str], given: Asked, *, more: bool = True) -> tuple[Asked | None, int]:
    """The answers after these lines, and how many lines were not read."""
    waiting: Iterator[str] = iter(lines)
    found = ask(given, Path(), lambda question: next(waiting), lambda line: None, more=more)
    return found, len(list(waiting))


def test_five_answers(place: Path) -> None:
    lines = ["houses.csv", "", "net.py", "0.5", "size"]
    asked = Asked("houses.csv", "net.py", None, "tensors", None, 0.005, "size")
    assert answered(lines, Asked("", "")) == (asked, 0)


def test_what_cannot_be_is_asked_again(place: Path) -> None:
    lines = ["nothing", "houses.csv", "regression", "tensors", "none.py", "net.py", "-1", "x", ""]
    found, left = answered([*lines, "fast", ""], Asked("", ""))
    assert found == Asked("houses.csv", "net.py", None, "tensors", None, 0.01, "speed")
    assert left == 0


def test_flags_are_not_asked_for(place: Path) -> None:
    given = Asked("houses.csv", "", goal="size")
    found, left = answered(["", "net.py"], given, more=False)
    assert found == Asked("houses.csv", "net.py", None, "tensors", goal="size") and left == 0


def test_enter_means_no_recipe(place: Path) -> None:
    assert answered([""], Asked("", "")) == (None, 0)
