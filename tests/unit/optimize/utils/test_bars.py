import io
import sys

import pytest

from optimize.utils import bars


def test_a_log_gets_lines_without_carriage_returns(monkeypatch: pytest.MonkeyPatch) -> None:
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    monkeypatch.setattr(bars, "LOG_SECONDS", 0.0)
    for _ in bars.bar(range(3), title="training", unit="batch"):
        pass
    lines = log.getvalue().splitlines()
    assert "\r" not in log.getvalue()
    assert "training: batch 2 of 3 after 00:00, 00:00 left" in lines
    assert all(len(line) < 80 for line in lines)


def test_a_log_gets_nothing_of_what_takes_less_than_ten_seconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    with bars.bar(range(1000), title="training", unit="batch") as bar:
        for step in bar:
            bar.set_postfix(step=step)  # which redraws
    assert log.getvalue() == ""


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_one_line_that_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = _Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    for _ in bars.bar(range(3), title="training", unit="batch"):
        pass
    shown = terminal.getvalue()
    assert "\n" not in shown
    assert shown.startswith("\rtraining")
    assert shown.split("\r")[-1].strip() == ""
