"""Interleaved timing: contestants take turns in short bursts of calls, on the wall clock.

Taking turns spreads noise on the machine equally. Anything callable can be timed, in this process
or another.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

ROUND_SECONDS = 0.12
WARM_UP_SECONDS = 0.3  # first calls are slow
LEAST = 5
SLOW_SECONDS = 1.0  # a burst this long may have fewer than LEAST times
FEW_ROUNDS = 3
PATIENCE_SECONDS = 30.0  # after this long, FEW_ROUNDS are enough

# From the duration of a burst to the seconds of each call in it
Burst = Callable[[float], list[float]]


def burst(calls: Sequence[Callable[[], object]], seconds: float) -> list[float]:
    """Time `calls` in order, repeatedly, for about `seconds`.

    Every call is timed equally often, so that slow and fast contestants are timed on the same
    mixture. There are at least LEAST times, unless the calls are slow.

    Returns:
        Seconds of each call by the wall clock.
    """
    times: list[float] = []
    began = time.perf_counter()
    while (
        not times
        or (elapsed := time.perf_counter() - began) < seconds
        or (len(times) < LEAST and elapsed < SLOW_SECONDS)
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
    """Seconds of each contestant's calls, from `rounds` turns of about `seconds` each.

    Slow contestants get fewer turns, but all get equally many.

    Args:
        contestants: by name; each is warmed up first.
        rounds: turns of each.
        seconds: duration of a turn.
        after_round: called after each round, for a progress bar.
    """
    for run in contestants.values():
        run(WARM_UP_SECONDS)
    times: dict[str, list[float]] = {name: [] for name in contestants}
    began = time.perf_counter()
    for number in range(rounds):
        if number >= FEW_ROUNDS and time.perf_counter() - began > PATIENCE_SECONDS:
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
