"""Token embedding and output head of a decoder over one int8 table.

Each returns the likeliest tokens themselves: with greedy decoding nothing else of the logits is
needed. The table is saved once and packed for the kernel of `torch.backends.quantized.engine`
when a file is loaded.
"""

from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor, nn

from optimize.lowering.qparams import from_rows, quantize_rows

Restore = tuple[Callable[..., nn.Module], tuple[Any, ...]]


def _restored(kind: type[nn.Module], state: tuple[Any, ...]) -> nn.Module:
    """A module from its state: the one that TorchScript saves, for `pickle` and `copy` too."""
    module = kind.__new__(kind)
    nn.Module.__init__(module)
    module.__setstate__(state)
    return module


class Int8Vocabulary(nn.Module):
    """Token embedding and output head over one int8 table: saved once, packed when loaded."""

    def __init__(self, table: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.table, self.scale = quantize_rows(table.detach())
        self.bias = bias
        self.packed = torch.ops.quantized.linear_prepack(from_rows(self.table, self.scale), bias)

    @torch.jit.export
    def __getstate__(self) -> tuple[Tensor, Tensor, Tensor, bool]:
        return self.table, self.scale, self.bias, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[Tensor, Tensor, Tensor, bool]) -> None:
        self.table, self.scale, self.bias, self.training = state
        quantized = from_rows(self.table, self.scale)
        self.packed = torch.ops.quantized.linear_prepack(quantized, self.bias)

    def __reduce__(self) -> Restore:
        return _restored, (type(self), self.__getstate__())

    def forward(self, hidden: Tensor, penalty: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The likeliest token of each row, and the logarithm of its probability.

        Args:
            hidden: the decoder's, float32 `[rows, width]`.
            penalty: added to the logits, `[tokens]`.

        Returns:
            int64 `[rows]` and float32 `[rows]`.
        """
        logits: Tensor = torch.ops.quantized.linear_dynamic(hidden, self.packed, False)
        best = (logits if penalty is None else logits + penalty).max(-1)
        return best.indices, best.values - logits.logsumexp(-1)

    @torch.jit.export
    def embed(self, tokens: Tensor) -> Tensor:
        """Embeddings `[..., width]` of int64 tokens `[...]`."""
        return self.table[tokens].float() * self.scale[tokens]


class SvdSoftmaxVocabulary(nn.Module):
    """`Int8Vocabulary` whose head first looks through a narrow projection of the table.

    Logits of all tokens are estimated at `rank` of `width` columns; the likeliest few are then
    computed exactly, the rest are ruled out (SVD-softmax, Shim et al. 2017). The narrow table
    is made from the full one when the file is loaded, so it costs nothing on disk, and the full
    one needs no packed copy for the kernel.
    """

    candidates: Final[int] = 64
    parts: Final[int] = 16
    rows_at_once: Final[int] = 512

    def __init__(self, table: Tensor, bias: Tensor, hidden_basis: Tensor, basis: Tensor) -> None:
        """
        Args:
            table: float32 `[tokens, width]`.
            bias: `[tokens]`.
            hidden_basis, basis: `[width, rank]`; `table @ basis @ hidden_basis.T` approximates
                the table.
        """
        super().__init__()
        self.table, self.scale = quantize_rows(table.detach())
        self.bias, self.hidden_basis, self.basis = bias, hidden_basis, basis
        quantized, narrow_bias = self._narrow()
        self.packed = torch.ops.quantized.linear_prepack(quantized, narrow_bias)

    def _narrow(self) -> tuple[Tensor, Tensor]:
        """The narrow table as qint8, and its biases; rows added to fill the parts never win."""
        count = (self.table.shape[0] + self.parts - 1) // self.parts * self.parts
        values = torch.zeros([count, self.basis.shape[1]], dtype=torch.int8)
        scale, bias = torch.ones([count, 1]), torch.full([count], -1e9)
        bias[: self.table.shape[0]] = self.bias
        for start in range(0, self.table.shape[0], self.rows_at_once):
            end = min(start + self.rows_at_once, self.table.shape[0])
            rows = self.table[start:end].float() * self.scale[start:end]
            values[start:end], scale[start:end] = quantize_rows(torch.matmul(rows, self.basis))
        return from_rows(values, scale), bias

    @torch.jit.export
    def __getstate__(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, bool]:
        return self.table, self.scale, self.bias, self.hidden_basis, self.basis, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[Tensor, Tensor, Tensor, Tensor, Tensor, bool]) -> None:
        self.table, self.scale, self.bias = state[0], state[1], state[2]
        self.hidden_basis, self.basis, self.training = state[3], state[4], state[5]
        quantized, narrow_bias = self._narrow()
        self.packed = torch.ops.quantized.linear_prepack(quantized, narrow_bias)

    def __reduce__(self) -> Restore:
        return _restored, (type(self), self.__getstate__())

    def _likely(self, estimates: Tensor) -> Tensor:
        """Indices of the `candidates` greatest of `[rows, tokens]`, in any order.

        They lie where the greatest of every `parts`th token are among the greatest: looking
        for those first is twice as fast as one search.
        """
        parts = estimates.view(estimates.shape[0], self.parts, -1)
        places = min(self.candidates, parts.shape[2])
        place = torch.topk(parts.amax(1), places, 1, sorted=False).indices
        wide = place.unsqueeze(1).expand(-1, self.parts, -1)
        likely = parts.gather(2, wide).flatten(1)
        best = torch.topk(likely, min(self.candidates, likely.shape[1]), 1, sorted=False).indices
        part = torch.div(best, places, rounding_mode="floor")
        return place.gather(1, best % places) + part * parts.shape[2]

    def forward(self, hidden: Tensor, penalty: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """See `Int8Vocabulary`; the probability is that among the candidates."""
        narrow = torch.matmul(hidden, self.hidden_basis)
        likely = self._likely(torch.ops.quantized.linear_dynamic(narrow, self.packed, False))
        rows = self.table[likely].float()
        exact = torch.matmul(rows, hidden.unsqueeze(2)).squeeze(2) * self.scale[likely].squeeze(2)
        exact = exact + self.bias[likely]
        total = exact.logsumexp(1)
        if penalty is not None:
            exact = exact + penalty[likely]
        best = exact.max(1, keepdim=True)
        return likely.gather(1, best.indices).squeeze(1), best.values.squeeze(1) - total

    @torch.jit.export
    def embed(self, tokens: Tensor) -> Tensor:
        """Embeddings `[..., width]` of int64 tokens `[...]`."""
        return self.table[tokens].float() * self.scale[tokens]
