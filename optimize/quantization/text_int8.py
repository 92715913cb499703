"""Static int8 for text classifiers: int8 linear layers and embedding tables, float between.

Activation ranges are fixed beforehand on real texts, never taken from the batch, so that an
answer does not depend on what else is in its batch. FBGEMM quantizes, multiplies and returns
float32 in one operator, which on transformers of this size is within noise of oneDNN's.
"""

import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from optimize.lowering.qparams import QParams, quantize_channels, quantize_rows
from optimize.models.architectures.bert import PADDING, BertClassifier, Embeddings
from optimize.pruning.vocabulary import SharedEmbedding
from optimize.utils.torchscript import silenced

ENGINE = "fbgemm"
_SAMPLES = 65536
_SHRINKS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5, 0.4)


def fit_range(values: Tensor) -> QParams:
    """The range, out of the observed one and shrunken ones, with the least squared error."""
    low, high = min(0.0, float(values.min())), max(0.0, float(values.max()))
    best, found = float("inf"), QParams(1.0, 0)
    for below in _SHRINKS:
        for above in _SHRINKS:
            candidate = QParams.covering(low * below, high * above)
            scale, zero = candidate.scale, candidate.zero_point
            quantized = ((values / scale).round() + zero).clamp(0, 255)
            error = float(((quantized - zero) * scale - values).square().mean())
            if error < best:
                best, found = error, candidate
    return found


class Int8Linear(nn.Module):
    """Fully connected layer: float32 in and out, uint8 times int8 inside."""

    def __init__(self, linear: nn.Linear, source: QParams) -> None:
        super().__init__()
        self.scale, self.zero_point = source.scale, source.zero_point
        self.weight = quantize_channels(linear.weight.detach())
        self.bias = None if linear.bias is None else linear.bias.detach().clone()
        self._pack()

    def _pack(self) -> None:
        torch.backends.quantized.engine = ENGINE
        self.packed = torch.ops.quantized.linear_prepack(self.weight, self.bias)

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "packed"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._pack()

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(
            x, self.scale, self.zero_point, self.packed
        )
        return found


class Int8Table(nn.Module):
    """Rows of an embedding table in int8, each with a scale of its own."""

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        rows, scale = quantize_rows(table)
        self.rows: Tensor
        self.scale: Tensor
        self.register_buffer("rows", rows)
        self.register_buffer("scale", scale)

    def forward(self, index: Tensor) -> Tensor:
        flat = index.flatten()
        found = self.rows.index_select(0, flat).float() * self.scale.index_select(0, flat)
        rows: Tensor = found.unflatten(0, index.shape)
        return rows


class Int8Embeddings(nn.Module):
    """Word, through the shared rows if there are any, and position; then the norm in float."""

    def __init__(self, source: Embeddings, max_length: int) -> None:
        super().__init__()
        word: Any = source.word
        shared = isinstance(word, SharedEmbedding)
        self.place: Tensor | None
        self.register_buffer("place", word.place.clone() if shared else None)
        table = word.table.weight if shared else word.weight
        self.table = Int8Table(table.detach())
        self.position: Tensor
        self.register_buffer("position", source.position.weight.detach()[:max_length].clone())
        self.norm = copy.deepcopy(source.norm)

    def forward(self, ids: Tensor) -> Tensor:
        if self.place is not None:
            rows = self.place.index_select(0, ids.flatten()).int().view_as(ids)
        else:
            rows = ids
        found: Tensor = self.norm(self.table(rows) + self.position[: ids.shape[1]])
        return found


def observe(
    model: BertClassifier, names: Iterable[str], batches: Iterable[Tensor]
) -> dict[str, QParams]:
    """The range of the inputs of each named linear layer, over the real tokens."""
    modules = dict(model.named_modules())
    kept: dict[str, list[Tensor]] = {name: [] for name in names}
    real = torch.zeros(0, dtype=torch.bool)
    generator = torch.Generator().manual_seed(0)

    def watch(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def look(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            values = inputs[0][real].flatten().float()
            ends = torch.stack([values.min(), values.max()])
            drawn = torch.randint(len(values), (_SAMPLES // 8,), generator=generator)
            kept[name].append(torch.cat([ends, values[drawn]]))

        return look

    hooks = [modules[name].register_forward_pre_hook(watch(name)) for name in kept]
    try:
        with torch.inference_mode():
            for ids in batches:
                real = ids != PADDING
                model(ids)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: fit_range(torch.cat(values)) for name, values in kept.items()}


def quantize(model: BertClassifier, batches: Iterable[Tensor], max_length: int) -> nn.Module:
    """A copy in int8; it answers for windows of at most `max_length` tokens.

    Args:
        model: float, in eval mode; left as it is.
        batches: real windows `[N, L]`, to set the activation ranges.
        max_length: positions kept.

    The process that runs it needs `torch.backends.quantized.engine = ENGINE`.
    """
    names = [
        f"layers.{i}.{part}"
        for i in range(len(model.layers))
        for part in ("attention.qkv", "attention.out", "fc1", "fc2")
    ]
    ranges = observe(model, names, batches)
    quantized = copy.deepcopy(model).eval()
    with silenced(), torch.no_grad():
        for name in names:
            parent, _, child = name.rpartition(".")
            owner = quantized.get_submodule(parent)
            setattr(owner, child, Int8Linear(getattr(owner, child), ranges[name]))
        quantized.embeddings = Int8Embeddings(quantized.embeddings, max_length)  # type: ignore[assignment]
    return quantized
