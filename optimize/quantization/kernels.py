"""The kernels of a lowered network, measured on this machine instead of guessed.

Which engine is faster, and whether kernels kept ready for the serving batch are worth their
copies, depends on the processor and on every layer's shape. Speed does not depend on scales, so
the variants are lowered on a few inputs and take turns.
"""

import functools
import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from optimize.evaluation import environment, timer
from optimize.lowering import Lowered
from optimize.lowering.int8 import Engine
from optimize.utils import torchscript

GAIN = 1.05  # over the guess, by the geometric mean over the loads
ROUNDS, SECONDS = 5, 0.06
FEW = 4  # inputs that set the variants' ranges
LIMIT = 20.0  # seconds after which no further variant is lowered

Build = Callable[[Engine | None, int | None], Lowered]
"""A lowered module, from the engine (None: by the layers' sizes) and the hot batch."""


@dataclass(frozen=True)
class Kernels:
    """An engine and a hot batch as `lower_int8` takes them, and what they were chosen by.

    Attributes:
        milliseconds: medians of every variant, by `batchN`.
    """

    engine: Engine
    hot_batch: int | None
    milliseconds: dict[str, dict[str, float]]

    def to_json(self) -> dict[str, Any]:
        """For the report."""
        chosen = _name(self.engine, self.hot_batch)
        return {"chosen": chosen, "milliseconds": self.milliseconds}


def fastest(build: Build, loads: Mapping[str, Tensor], other_engine: bool) -> Kernels | None:
    """Lower a network in every way that could pay, time them, and return the fastest.

    Args:
        build: makes a variant.
        loads: an input by `batchN`; the last is the serving batch.
        other_engine: whether the engine that was not guessed is right for this network, too.

    Returns:
        The guess unless another variant is GAIN times as fast; None where nothing is measured
        (`environment.may_race`).
    """
    if not environment.may_race():
        return None
    end = time.monotonic() + LIMIT
    guess = build(None, None)
    variants: dict[tuple[Engine, int | None], Lowered] = {(guess.engine, None): guess}
    batch = len(list(loads.values())[-1])
    other: Engine = "onednn" if guess.engine == "fbgemm" else "fbgemm"
    more: list[tuple[Engine, int | None]] = [(other, None)] if other_engine else []
    if batch > 1 and "onednn" in (guess.engine, *(engine for engine, _ in more)):
        more.insert(0, ("onednn", batch))
    for engine, hot_batch in more:
        if time.monotonic() < end:
            variants[engine, hot_batch] = build(engine, hot_batch)
    times = _timed(variants, loads)
    own = times[guess.engine, None]
    costs = {key: _mean_ratio(found, own) for key, found in times.items()}
    best = min(costs, key=lambda key: costs[key])
    chosen = best if costs[best] * GAIN <= 1 else (guess.engine, None)
    named = {
        _name(*key): {label: round(1e3 * seconds, 4) for label, seconds in found.items()}
        for key, found in times.items()
    }
    return Kernels(*chosen, named)


def has_groups(model: nn.Module) -> bool:
    """Whether it has grouped convolutions, whose sums FBGEMM saturates at 16 bits."""
    return any(getattr(module, "groups", 1) != 1 for module in model.modules())


def _name(engine: Engine, hot_batch: int | None) -> str:
    return engine if hot_batch is None else f"{engine}, hot batch {hot_batch}"


def _mean_ratio(found: Mapping[str, float], own: Mapping[str, float]) -> float:
    return math.exp(statistics.fmean(math.log(found[label] / own[label]) for label in own))


def _timed(
    variants: Mapping[tuple[Engine, int | None], Lowered], loads: Mapping[str, Tensor]
) -> dict[tuple[Engine, int | None], dict[str, float]]:
    """Median seconds of each variant by load, on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        first = next(iter(loads.values()))
        files: dict[tuple[Engine, int | None], torch.jit.ScriptModule] = {}
        for key, variant in variants.items():
            torch.backends.quantized.engine = key[0]
            files[key] = torchscript.script(variant, first)
        found: dict[tuple[Engine, int | None], dict[str, float]] = {key: {} for key in variants}
        for label, inputs in loads.items():
            turns = {
                str(key): functools.partial(_burst, file, key[0], inputs)
                for key, file in files.items()
            }
            values = timer.by_turns(turns, ROUNDS, SECONDS)
            for key in variants:
                found[key][label] = statistics.median(values[str(key)])
        return found
    finally:
        torch.set_num_threads(threads)


def _burst(
    file: torch.jit.ScriptModule, engine: Engine, inputs: Tensor, seconds: float
) -> list[float]:
    torch.backends.quantized.engine = engine  # fused additions look at it whenever they run
    with torch.inference_mode():
        return timer.burst([functools.partial(file, inputs)], min(seconds, SECONDS))
