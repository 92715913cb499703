import statistics

import pytest

from optimize.evaluation import timer


def test_every_call_of_a_burst_is_timed_as_often_and_the_slow_one_shows() -> None:
    counts = [0, 0, 0]

    def call(number: int) -> None:
        counts[number] += 1
        sum(range(200_000 if number == 1 else 10))

    times = timer.burst([lambda: call(0), lambda: call(1), lambda: call(2)], 0.0)
    assert counts == [2, 2, 2]  # five times at least, and whole cycles
    slow, fast = times[1::3], times[0::3] + times[2::3]
    assert min(slow) > statistics.median(fast)


def test_a_burst_fills_its_time() -> None:
    times = timer.burst([lambda: sum(range(1000))], 0.3)
    assert len(times) > timer.LEAST
    assert sum(times) <= 0.3 + max(times)


def test_turns_are_taken_and_the_warm_up_is_not_counted() -> None:
    turns: list[tuple[str, float]] = []
    rounds: list[int] = []

    def contestant(name: str) -> timer.Burst:
        def run(seconds: float) -> list[float]:
            turns.append((name, seconds))
            return [len(turns), seconds]

        return run

    times = timer.by_turns(
        {"a": contestant("a"), "b": contestant("b")}, 2, 0.5, after_round=lambda: rounds.append(1)
    )
    warm = timer.WARM_UP_SECONDS
    assert turns == [("a", warm), ("b", warm), ("a", 0.5), ("b", 0.5), ("a", 0.5), ("b", 0.5)]
    assert times == {"a": [3, 0.5, 5, 0.5], "b": [4, 0.5, 6, 0.5]}
    assert len(rounds) == 2


def test_percentiles_are_milliseconds() -> None:
    assert timer.percentiles([0.001 * n for n in range(1, 22)]) == pytest.approx(
        {"p50": 11.0, "p95": 20.9}
    )
