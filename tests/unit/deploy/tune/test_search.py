"""The search over a machine that is a formula: whether it finds what the formula says is best."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from deploy.errors import WorkerDied
from deploy.tune import search as module
from deploy.tune.chart import chart
from deploy.tune.command import show
from deploy.tune.search import Goal, Tried, confirm, pareto, score, search
from deploy.tune.settings import Settings
from deploy.tune.trial import Point

GOAL = Goal(0.05, (1, 16), seconds=0.0)
FIRST = Settings(2, 1, 4, 1)
SPACE = [Settings(w, 1, b, d) for w in (1, 2) for b in (1, 4) for d in (0, 1)]


@dataclass
class Formula:
    """Delays cost a lone client, batches help many; two workers are twice as good."""

    broken: tuple[Settings, ...] = ()

    def __post_init__(self) -> None:
        self.served: list[Settings] = []

    @contextmanager
    def serving(self, one: Settings) -> Iterator[Any]:
        self.served.append(one)
        if one in self.broken:
            raise WorkerDied("no memory", 500)

        def measure(clients: int, seconds: float, bound: float) -> Point:
            rate = 100.0 / (1 + one.max_batch_delay_ms) if clients == 1 else 100.0 * one.workers
            rate *= 1.5 if clients > 1 and one.batch_size > 1 else 1.0
            return Point(clients, rate, rate, rate, 1e3 / rate, 2e3 / rate, 0)

        yield SimpleNamespace(measure=measure)


@pytest.fixture(autouse=True)
def space(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "candidates", lambda: SPACE)


def test_the_best_is_found_and_nothing_is_tried_twice(tmp_path: Path) -> None:
    bench, said = Formula(), []
    tried = search(bench, GOAL, FIRST, tmp_path / "tune.db", 1.0, said.append)
    assert bench.served[:2] == [FIRST, Settings(2, 1, 4, 0)]
    assert sorted(bench.served) == sorted(SPACE)
    assert max(tried, key=lambda one: one.score).settings == Settings(2, 1, 4, 0)
    assert len(said) == len(SPACE)
    # A later call knows it all.
    again = Formula()
    same = search(again, GOAL, FIRST, tmp_path / "tune.db", 1.0, said.append)
    assert not again.served
    assert [one.settings for one in same] == [one.settings for one in tried]
    # So does one after the card has changed, and one with settings that no search would try.
    search(again, GOAL, Settings(2, 1, 4, 0), tmp_path / "tune.db", 1.0, said.append)
    assert not again.served
    odd = Settings(2, 1, 4, 20)
    search(again, GOAL, odd, tmp_path / "tune.db", 1.0, said.append)
    assert sorted(again.served) == sorted([*SPACE, odd])
    again.served.clear()
    # Another goal is another question.
    search(again, Goal(0.01, (1, 16), 0.0), FIRST, tmp_path / "tune.db", 1.0, said.append)
    assert sorted(again.served) == sorted(SPACE)


def test_settings_that_do_not_start_are_no_end(tmp_path: Path) -> None:
    best, said = Settings(2, 1, 4, 0), []
    bench = Formula(broken=(best,))
    tried = search(bench, GOAL, FIRST, tmp_path / "tune.db", 1.0, said.append)
    assert best not in [one.settings for one in tried] and tried
    assert bench.served.count(best) == 1
    assert any("no memory" in line for line in said)


def test_the_best_are_measured_again_by_turns(tmp_path: Path) -> None:
    bench = Formula()
    tried = [
        Tried(one, [Point(1, value, value, value, 1.0, 2.0, 0)] * 2, [value])
        for one, value in zip(SPACE, (1.0, 9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0), strict=True)
    ]
    confirm(bench, GOAL, tried, lambda line: None)
    assert bench.served == SPACE[1:4] * module.REPEATS
    assert [len(one.scores) for one in tried[:5]] == [1, 4, 4, 4, 1]


def test_score_and_pareto() -> None:
    def one(goodput: float, latency: float) -> Tried:
        few = Point(1, 100.0, 100.0, 100.0, latency, latency, 0)
        return Tried(FIRST, [few, Point(16, goodput, goodput, goodput, 1.0, 1.0, 0)], [goodput])

    slow, fast, worse, twin = one(400, 9.0), one(300, 5.0), one(290, 6.0), one(300, 5.0)
    assert pareto([slow, fast, worse, twin]) == [slow, fast, twin]
    assert score(slow.points) == pytest.approx(200.0)
    drawing = chart([slow, fast, worse], fast)
    assert drawing.count("<circle") == 3 and "2 x 1 threads, batch 4, delay 1 ms" in drawing
    said: list[str] = []
    show([slow, fast, worse], fast, GOAL, said.append)
    assert len(said) == 6 and sum(line.startswith("* ") for line in said) == 1
