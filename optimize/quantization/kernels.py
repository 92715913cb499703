"""The kernels of a lowered network, measured on this machine instead of guessed.

Which engine is faster, whether kernels kept ready for the serving batch are worth their copies and
whether attention is faster in bfloat16 depends on the processor and on every layer's shape. Speed
does not depend on scales, so the variants are lowered on a few inputs and take turns.
"""

import functools
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from optimize.evaluation import environment, timer
from optimize.lowering import Lowered
from optimize.lowering.int8 import Attention, Engine
from optimize.lowering.kernels.attention import TokenAttention, UniformAttention
from optimize.utils import torchscript

GAIN = 1.05  # over the guess, by the geometric mean over the loads
ROUNDS, SECONDS = 5, 0.06
FEW = 4  # inputs that set the variants' ranges
LIMIT = 20.0  # seconds after the guess, when no further variant is lowered


@dataclass(frozen=True)
class Kernels:
    """A way to lower a network, as `lower_int8` takes it.

    Attributes:
        engine: None for the one that the layers' sizes suggest.
        hot_batch: batch size that kernels are kept ready for, None for none.
        attention: what attention computes in, with oneDNN.
    """

    engine: Engine | None = None
    hot_batch: int | None = None
    attention: Attention = "bf16"

    def __str__(self) -> str:
        hot = f", hot batch {self.hot_batch}" if self.hot_batch else ""
        return f"{self.engine}{hot}{', fp32 attention' if self.attention == 'fp32' else ''}"


@dataclass(frozen=True)
class Choice:
    """The kernels chosen, and the medians of every variant in milliseconds, by `batchN`."""

    kernels: Kernels
    milliseconds: dict[str, dict[str, float]]

    def to_json(self) -> dict[str, Any]:
        """For the report."""
        return {"chosen": str(self.kernels), "milliseconds": self.milliseconds}


def fastest(
    build: Callable[[Kernels], Lowered],
    loads: Mapping[str, Tensor],
    *,
    other_engine: bool,
    hot: bool = True,
) -> Choice | None:
    """Lower a network in every way that could pay, time them, and return the fastest.

    Args:
        build: makes a variant.
        loads: an input by `batchN`; the last is the serving batch.
        other_engine: whether the engine that was not guessed is right for this network, too.
        hot: whether to try kernels kept ready for the serving batch.

    Returns:
        The guess unless another variant is GAIN times as fast; None where nothing is measured
        (`environment.may_race`).
    """
    if not environment.may_race():
        return None
    lowered = build(Kernels())
    end = time.monotonic() + LIMIT
    guess = Kernels(lowered.engine)
    variants = {guess: lowered}
    batch = len(list(loads.values())[-1]) if hot else 1
    for kernels in _others(guess, lowered, batch, other_engine):
        if time.monotonic() < end:
            variants[kernels] = build(kernels)
    times = _timed(variants, loads)
    costs = {key: _mean_ratio(found, times[guess]) for key, found in times.items()}
    best = min(costs, key=lambda key: costs[key])
    named = {
        str(key): {label: round(1e3 * seconds, 4) for label, seconds in found.items()}
        for key, found in times.items()
    }
    return Choice(best if costs[best] * GAIN <= 1 else guess, named)


def _others(guess: Kernels, lowered: Lowered, batch: int, other_engine: bool) -> Iterator[Kernels]:
    """What to try beside the guess, the most promising first."""
    onednn = other_engine or guess.engine == "onednn"
    attends = any(isinstance(m, TokenAttention | UniformAttention) for m in lowered.modules())
    if onednn and batch > 1:
        yield Kernels("onednn", batch)
    if other_engine:
        yield Kernels("onednn" if guess.engine == "fbgemm" else "fbgemm")
    if onednn and attends:
        yield Kernels("onednn", attention="fp32")


def has_groups(model: nn.Module) -> bool:
    """Whether it has grouped convolutions, whose sums FBGEMM saturates at 16 bits."""
    return any(getattr(module, "groups", 1) != 1 for module in model.modules())


def _mean_ratio(found: Mapping[str, float], own: Mapping[str, float]) -> float:
    return math.exp(statistics.fmean(math.log(found[label] / own[label]) for label in own))


def _timed(
    variants: Mapping[Kernels, Lowered], loads: Mapping[str, Tensor]
) -> dict[Kernels, dict[str, float]]:
    """Median seconds of each variant by load, on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        first = next(iter(loads.values()))
        files = {}
        for key, variant in variants.items():
            torch.backends.quantized.engine = variant.engine
            files[key] = torchscript.script(variant, first)
        found: dict[Kernels, dict[str, float]] = {key: {} for key in variants}
        for label, inputs in loads.items():
            turns = {
                str(key): functools.partial(_burst, file, variants[key].engine, inputs)
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
