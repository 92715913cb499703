"""What requests may cost, charged before anything is decoded, and shared out among a batch.

The unit is the handler's: pixels, seconds of audio, tokens. How long a unit takes is measured
while a worker starts, so that limits, batch and response timeout are known to fit together.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from handlers.errors import ModelError, RequestError

logger = logging.getLogger(__name__)

# Of the response timeout: what a part of a batch may take, and when the rest is given up.
PART, LAST = 0.25, 0.75
_LONG = 0.5  # seconds: a trial that takes longer is not repeated


@dataclass(frozen=True)
class Pace:
    """Seconds of an input on this machine: `base`, and `rate` for each unit of its cost."""

    base: float = 0.0
    rate: float = 0.0

    def seconds(self, costs: Sequence[float]) -> float:
        """The time for inputs of these costs."""
        return self.base * len(costs) + self.rate * sum(costs)


@dataclass(frozen=True)
class Budget:
    """The most that one request may cost, and what that means in time.

    Attributes:
        unit: what a cost counts, in the plural, for messages.
        request: the most units of one request.
        timeout: seconds within which TorchServe wants the whole batch answered.
    """

    unit: str
    request: float
    timeout: float
    pace: Pace = Pace()

    def charge(self, costs: Sequence[float]) -> None:
        """Raise RequestError 413 where the inputs of one request cost too much together."""
        total = sum(costs)
        if total > self.request:
            raise RequestError(
                413,
                "too_costly",
                f"{total:.0f} {self.unit} in one request, the limit is {self.request:.0f}: send "
                "several requests, or smaller inputs",
            )

    def fitted(self, inputs: int) -> "Budget":
        """The same with a limit that a request of so many inputs can reach in time."""
        left = LAST * self.timeout - self.pace.base * inputs
        if not self.pace.rate or left <= 0 or self.pace.rate * self.request <= left:
            return self
        return replace(self, request=left // self.pace.rate)

    def check(self, inputs: int, batch: int) -> None:
        """Raise ModelError where a request of so many inputs cannot be answered in time.

        A full batch of such requests may take longer: those it has no time for are told so.
        """
        worst = self.pace.base * inputs
        if self.pace.rate:
            worst += self.pace.rate * self.request
        if worst * batch > self.timeout >= worst:
            logger.warning(
                "a batch of %d requests of %.0f %s would take %.0f s, the response timeout is "
                "%.0f s: some of them will get 503",
                *(batch, self.request, self.unit, worst * batch, self.timeout),
            )
        if worst > self.timeout:
            raise ModelError(
                f"a request within the card's limits ({inputs} inputs, {self.request:.0f} "
                f"{self.unit}) would take {worst:.1f} s on this machine, the response timeout is "
                f"{self.timeout:.0f} s: lower input.max_request_{self.unit} in model.json or "
                "raise serving.response_timeout_s"
            )

    def parts(self, requests: Sequence[Sequence[float]]) -> list[list[int]]:
        """The positions of a batch's requests, the cheapest first, in parts to run together.

        Each part takes at most a quarter of the timeout, or is a single request.
        """
        taken = [self.pace.seconds(costs) for costs in requests]
        parts: list[list[int]] = []
        total = 0.0
        for position in sorted(range(len(requests)), key=taken.__getitem__):
            total += taken[position]
            if not parts or total > PART * self.timeout:
                parts.append([])
                total = taken[position]
            parts[-1].append(position)
        return parts

    def too_late(self, elapsed: float, requests: Sequence[Sequence[float]]) -> bool:
        """Whether a part that starts `elapsed` seconds into its batch would end too late."""
        seconds = sum(self.pace.seconds(costs) for costs in requests)
        return elapsed > 0 and elapsed + seconds > LAST * self.timeout


def busy() -> RequestError:
    """The error of a request that its batch has no time for."""
    return RequestError(
        503,
        "busy",
        "too much work came at the same time: send it again in a moment, or in smaller requests",
    )


def measured(
    run: Callable[[Any], object], light: tuple[float, Any], heavy: tuple[float, Any]
) -> Pace:
    """The pace at which `run` answers two inputs, each with its cost, from cheap to dear."""
    (less, first), (more, second) = light, heavy
    short, long = _seconds(run, first), _seconds(run, second)
    rate = max(0.0, long - short) / (more - less) if more > less else 0.0
    return Pace(max(0.0, short - rate * less), rate)


def _seconds(run: Callable[[Any], object], value: Any) -> float:
    """The shorter of two runs, as the first may compile; without waiting for a busy processor."""
    best = float("inf")
    for _ in range(2):
        started, worked = time.perf_counter(), time.process_time()
        run(value)
        best = min(best, time.perf_counter() - started, time.process_time() - worked)
        if best > _LONG:
            break
    return best
