"""The tensors that a card declares: what a request must bring, and made-up ones to warm up with."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from handlers.card import Card
from handlers.errors import ModelError, RequestError

# KServe's names of what torch has.
DTYPES: dict[str, torch.dtype] = {
    "BOOL": torch.bool,
    "UINT8": torch.uint8,
    "INT8": torch.int8,
    "INT16": torch.int16,
    "INT32": torch.int32,
    "INT64": torch.int64,
    "FP16": torch.float16,
    "BF16": torch.bfloat16,
    "FP32": torch.float32,
    "FP64": torch.float64,
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
_SHOWN = 4


@dataclass(frozen=True)
class TensorSpec:
    """One input.

    Attributes:
        name: as clients write it.
        dtype: of the model.
        shape: -1 where a request chooses; the first dimension counts rows.
        example: sizes that the training data had.
        low, high: the range that they had.
    """

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    example: tuple[int, ...]
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.name} {NAMES[self.dtype]} {list(self.shape)}"

    def checked(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor in the model's dtype; RequestError 422 where it does not fit.

        Whole numbers may become floats or other whole numbers that hold them, floats other floats.
        """
        sizes = list(tensor.shape)
        fits = len(sizes) == len(self.shape) and all(
            size == wanted or wanted < 0 for size, wanted in zip(sizes, self.shape, strict=True)
        )
        if not fits or 0 in sizes:
            raise RequestError(422, "bad_shape", f"{self} is taken, not {sizes}")
        if tensor.dtype == self.dtype:
            found = tensor
        else:
            if tensor.dtype == torch.bool or self.dtype == torch.bool:
                raise self._other(tensor)
            if tensor.is_floating_point() and not self.dtype.is_floating_point:
                raise self._other(tensor)
            found = tensor.to(self.dtype)
            if not self.dtype.is_floating_point and not torch.equal(found.to(tensor.dtype), tensor):
                raise RequestError(
                    422,
                    "bad_value",
                    f"{self.name} has numbers that {NAMES[self.dtype]} cannot hold",
                )
        if found.is_floating_point() and not found.isfinite().all():
            raise RequestError(
                422,
                "bad_value",
                f"{self.name} holds NaN, infinity or what {NAMES[self.dtype]} "
                "cannot hold: fill such values, or leave out these rows",
            )
        return found.contiguous()

    def _other(self, tensor: torch.Tensor) -> RequestError:
        kind = NAMES.get(tensor.dtype, str(tensor.dtype))
        return RequestError(422, "bad_type", f"{self} is taken, not {kind}")

    def ramp(self, rows: int) -> torch.Tensor:
        """Made-up rows within the range that the training data had."""
        sizes = (rows, *self.example)
        count = math.prod(self.example)
        if self.dtype.is_floating_point:
            values = torch.linspace(self.low, self.high, count, dtype=torch.float64)
        else:
            width = int(self.high) - int(self.low) + 1
            values = int(self.low) + torch.arange(count) % width
        return values.to(self.dtype).reshape(1, *self.example).expand(sizes).contiguous()


def inputs_of(card: Card) -> list[TensorSpec]:
    """The card's `input.tensors`. Raises ModelError for a card that declares none."""
    declared = card.input.get("tensors")
    try:
        specs = [_spec(entry) for entry in declared or ()]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(f"model.json: input.tensors is malformed: {error!r}") from error
    if not specs:
        raise ModelError("model.json: input.tensors must list name, datatype and shape of each")
    return specs


def outputs_of(card: Card) -> list[str]:
    """The names of what the model returns, in order. Raises ModelError if the card has none."""
    try:
        names = [str(entry["name"]) for entry in card.model.get("outputs") or ()]
    except (KeyError, TypeError) as error:
        raise ModelError(f"model.json: model.outputs is malformed: {error!r}") from error
    if not names:
        raise ModelError("model.json: model.outputs must list the name of each output")
    return names


def _spec(entry: Mapping[str, Any]) -> TensorSpec:
    shape = tuple(int(size) for size in entry["shape"])
    example = entry.get("example") or [max(size, 1) for size in shape[1:]]
    low, high = entry.get("range") or (0, 1)
    name, dtype = str(entry["name"]), DTYPES[entry["datatype"]]
    return TensorSpec(name, dtype, shape, tuple(int(n) for n in example), float(low), float(high))


def checked(
    given: Mapping[str, torch.Tensor], specs: Sequence[TensorSpec]
) -> dict[str, torch.Tensor]:
    """The tensors of a request by name, in the model's order.

    Raises RequestError: 400 for names that are missing or unknown, 422 for other shapes, dtypes,
    values, and for inputs that differ in their number of rows.
    """
    names = [spec.name for spec in specs]
    unknown = [name for name in given if name not in names]
    missing = [name for name in names if name not in given]
    if unknown or missing:
        what = f"{unknown[0][:60]!r} is no input" if unknown else f"{missing[0]!r} is missing"
        more = f" and {len(specs) - _SHOWN} more" if len(specs) > _SHOWN else ""
        taken = ", ".join(map(str, specs[:_SHOWN])) + more
        raise RequestError(400, "unknown_name", f"{what}: the model takes {taken}")
    found = {spec.name: spec.checked(given[spec.name]) for spec in specs}
    counts = {name: len(tensor) for name, tensor in found.items()}
    if len(set(counts.values())) > 1:
        raise RequestError(422, "bad_shape", f"inputs differ in their number of rows: {counts}")
    return found
