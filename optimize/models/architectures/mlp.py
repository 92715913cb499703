"""A multilayer perceptron over any inputs: the usual first model of a table."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def build(
    sizes: Sequence[int],
    codes: Sequence[int],
    output: int,
    widths: list[int] | None = None,
    embedding: int = 8,
) -> "Perceptron":
    """A multilayer perceptron of the data's inputs and target.

    Args:
        sizes, codes, output: see `Perceptron`.
        widths: of the hidden layers; two of 64 by default.
        embedding: width of a code's vector.
    """
    return Perceptron(sizes, codes, widths or [64, 64], embedding, output)


class Perceptron(nn.Module):
    """Inputs `[N, ...]`, flattened and joined, to an output `[N, width]` or `[N]`.

    Floating-point inputs are normalised by running statistics (Ioffe and Szegedy 2015), which
    saves scaling them beforehand; whole numbers are codes, looked up in a table each.

    Args:
        sizes: values in a row of every input.
        codes: for every input the number of different codes, 0 for floating-point ones.
        widths: of the hidden layers.
        embedding: width of a code's vector.
        output: width of the output; 0: a single number, `[N]`.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        codes: Sequence[int],
        widths: Sequence[int],
        embedding: int,
        output: int,
    ) -> None:
        super().__init__()
        self.tables = nn.ModuleList(
            nn.Embedding(count, embedding) if count else nn.BatchNorm1d(size)
            for size, count in zip(sizes, codes, strict=True)
        )
        width = sum(
            size * (embedding if count else 1) for size, count in zip(sizes, codes, strict=True)
        )
        hidden: list[nn.Module] = []
        for wider in widths:
            hidden += [nn.Linear(width, wider), nn.ReLU()]
            width = wider
        self.hidden = nn.Sequential(*hidden)
        self.head = nn.Linear(width, max(1, output))
        self.squeezed = not output

    def forward(self, *inputs: Tensor) -> Tensor:
        parts = [
            table(x.flatten(1) if x.dim() > 1 else x[:, None]).flatten(1)
            for table, x in zip(self.tables, inputs, strict=True)
        ]
        answers: Tensor = self.head(self.hidden(torch.cat(parts, 1)))
        return answers.squeeze(1) if self.squeezed else answers
