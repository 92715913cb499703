"""The one stopwatch: contestants by turns in short bursts of calls, on the wall clock.

By turns, so that a noisy machine slows all alike. It times whatever can be called, in this
process or another.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

ROUND_SECONDS = 0.12
WARM_UP_SECONDS = 0.3  # first calls are slow
LEAST = 5
SLOW_SECONDS = 1.0  # a burst that took so long need not have LEAST times
FEW_ROUNDS = 3
PATIENCE_SECONDS = 30.0  # after so many, FEW_ROUNDS are enough

# Seconds to fill -> seconds of each call
Burst = Callable[[float], list[float]]


def burst(calls: Sequence[Callable[[], object]], seconds: float) -> list[float]:
    """Time `calls` one after another, over and over, for about so many seconds.

    Every call is timed as often as every other, so that slow contestants and fast ones are
    timed on the same mixture; there are LEAST times or more, unless the calls are slow.

    Returns:
        Seconds of each call by the wall clock.
    """
    times: list[float] = []
    begun = time.perf_counter()
    while (
        not times
        or (spent := time.perf_counter() - begun) < seconds
        or (len(times) < LEAST and spent < SLOW_SECONDS)
    ):
        for call in calls:
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
    return times


def by_turns(
    contestants: Mapping[str, Burst],
    rounds: int,
    seconds: float = ROUND_SECONDS,
    *,
    after_round: Callable[[], object] = lambda: None,
) -> dict[str, list[float]]:
    """Seconds of each contestant's calls, from `rounds` turns of about `seconds` each; of slow
    ones fewer turns, as many for all.

    Args:
        contestants: by name; each is warmed up first.
        rounds: turns of each.
        seconds: of a turn.
        after_round: called after each round, for a progress bar.
    """
    for run in contestants.values():
        run(WARM_UP_SECONDS)
    times: dict[str, list[float]] = {name: [] for name in contestants}
    begun = time.perf_counter()
    for number in range(rounds):
        if number >= FEW_ROUNDS and time.perf_counter() - begun > PATIENCE_SECONDS:
            break
        for name, run in contestants.items():
            times[name] += run(seconds)
        after_round()
    return times


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """`{"p50": ms, "p95": ms}` of at least two calls."""
    return {
        "p50": round(statistics.median(seconds) * 1e3, 4),
        "p95": round(statistics.quantiles(seconds, n=20)[18] * 1e3, 4),
    }
