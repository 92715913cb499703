"""What the stages of every text encoder share: options, and int8's calibration and kernels."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from optimize.quantization.kernels import Kernels
from optimize.quantization.text import measured
from optimize.tasks.base import Context


@dataclass(frozen=True)
class QuantizeStage:
    """Static int8.

    Attributes:
        calibration: training windows that set the activation ranges.
        table_bits: of the embedding table, 8 or 4; all else is int8.
    """

    searched: ClassVar[bool] = True
    calibration: int = 256
    table_bits: int = 8

    def __post_init__(self) -> None:
        if self.calibration < 2:
            raise ValueError("calibration must be 2 windows or more")
        if self.table_bits not in (4, 8):
            raise ValueError(f"table_bits is {self.table_bits}: an embedding table takes 8 or 4")


def trimmed(windows: Tensor) -> Tensor:
    """Windows int `[N, L]` without the columns that are padding in every row."""
    return windows[:, : int((windows != 0).sum(1).max())]


def calibration(windows: Tensor, options: QuantizeStage, seed: int) -> list[Tensor]:
    """Batches of at most 16 training windows, drawn at random, to set activation ranges with."""
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(windows), generator=generator)[: options.calibration]
    return [trimmed(windows[part]) for part in chosen.split(16)]


def fastest_kernels(
    model: nn.Module,
    batches: list[Tensor],
    longest: int,
    options: QuantizeStage,
    context: Context[Any],
) -> tuple[dict[str, Any], Kernels | None]:
    """The stage's details and the fastest kernels here; none where none are measured."""
    serving = context.recipe.serving
    found = measured(model, batches, longest, serving.batch_size, options.table_bits)
    if found is None:
        return {}, None
    context.say(f"    kernels: {found.kernels}, the fastest here")
    return {"kernels": found.to_json()}, found.kernels
