"""Linear layers in the precisions that a transcriber is built from.

`nn.Linear` serves as float32. The int8 ones keep weights int8 per output row (symmetric) and
quantize activations at every call from their own range, so nothing needs calibrating and no
recording is too loud.
"""

import torch
from torch import Tensor, nn


def quantize_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Symmetric int8 per row of `[rows, columns]`: int8 values and float32 scales `[rows]`."""
    scale = weight.abs().amax(1).clamp(min=1e-8) / 127
    return torch.round(weight / scale[:, None]).to(torch.int8), scale


def pack(values: Tensor, scale: Tensor, bias: Tensor) -> torch.ScriptObject:
    """Weights laid out for the kernel of `torch.backends.quantized.engine`."""
    quantized = torch._make_per_channel_quantized_tensor(
        values, scale.double(), torch.zeros(len(scale), dtype=torch.long), 0
    )
    packed: torch.ScriptObject = torch.ops.quantized.linear_prepack(quantized, bias)
    return packed


class Int8Linear(nn.Module):
    """Int8 weights, activations quantized per call; float32 in and out.

    The packed weights save themselves as int8 and are packed again, for the engine in force,
    when the file is loaded.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        bias = torch.zeros(len(weight)) if bias is None else bias.detach()
        self.packed = pack(*quantize_rows(weight.detach()), bias)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = torch.ops.quantized.linear_dynamic(x, self.packed, False)
        return y


class FloatVocabulary(nn.Module):
    """Token embedding and output head over one float32 table `[tokens, width]`."""

    def __init__(self, table: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.register_buffer("table", table)
        self.register_buffer("bias", bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """Logits `[rows, tokens]` of hidden states `[rows, width]`."""
        return torch.nn.functional.linear(hidden, self.table, self.bias)

    @torch.jit.export
    def embed(self, tokens: Tensor) -> Tensor:
        """Embeddings `[..., width]` of int64 tokens `[...]`."""
        return self.table[tokens]


class Int8Vocabulary(nn.Module):
    """Token embedding and output head over one int8 table: saved once, packed when loaded."""

    def __init__(self, table: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.table, self.scale = quantize_rows(table.detach())
        self.bias = bias
        self.packed = pack(self.table, self.scale, bias)

    @torch.jit.export
    def __getstate__(self) -> tuple[Tensor, Tensor, Tensor, bool]:
        return self.table, self.scale, self.bias, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[Tensor, Tensor, Tensor, bool]) -> None:
        self.table, self.scale, self.bias, self.training = state
        zeros = torch.zeros(self.scale.shape[0], dtype=torch.long)
        quantized = torch._make_per_channel_quantized_tensor(
            self.table, self.scale.double(), zeros, 0
        )
        self.packed = torch.ops.quantized.linear_prepack(quantized, self.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """Logits `[rows, tokens]` of hidden states `[rows, width]`."""
        logits: Tensor = torch.ops.quantized.linear_dynamic(hidden, self.packed, False)
        return logits

    @torch.jit.export
    def embed(self, tokens: Tensor) -> Tensor:
        """Embeddings `[..., width]` of int64 tokens `[...]`."""
        return self.table[tokens].float() * self.scale[tokens].unsqueeze(-1)
