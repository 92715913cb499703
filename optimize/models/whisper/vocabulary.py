"""The vocabulary of a float32 transcriber; `lowering.kernels.vocabulary` has the int8 ones."""

import torch
from torch import Tensor, nn


class FloatVocabulary(nn.Module):
    """Token embedding and output head over one float32 table `[tokens, width]`."""

    def __init__(self, table: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.register_buffer("table", table)
        self.register_buffer("bias", bias)

    def forward(self, hidden: Tensor, penalty: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The likeliest token of each row, and the logarithm of its probability.

        Args:
            hidden: the decoder's, `[rows, width]`.
            penalty: added to the logits, `[tokens]`.

        Returns:
            int64 `[rows]` and float32 `[rows]`.
        """
        logits = torch.nn.functional.linear(hidden, self.table, self.bias)
        best = (logits if penalty is None else logits + penalty).max(-1)
        return best.indices, best.values - logits.logsumexp(-1)

    @torch.jit.export
    def embed(self, tokens: Tensor) -> Tensor:
        """Embeddings `[..., width]` of int64 tokens `[...]`."""
        return self.table[tokens]
