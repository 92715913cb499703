"""Static int8 for text encoders, on top of `optimize.lowering`."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from optimize.lowering import Lowered, lower_int8
from optimize.models.architectures.bert import BertClassifier, BertEncoder
from optimize.quantization.kernels import Choice, Kernels, fastest


def quantize(
    model: nn.Module,
    batches: Sequence[Tensor],
    max_length: int,
    temperature: float = 1.0,
    kernels: Kernels | None = None,
    table_bits: int = 8,
) -> Lowered:
    """A copy in int8; it answers for windows of at most `max_length` tokens.

    Activation ranges are fixed beforehand on the real tokens of `batches`, and padding is not
    computed at all, so an answer does not depend on what else is in its batch.

    Args:
        model: float, in eval mode; left as it is. One that is no `BertEncoder` keeps its
            positions, one that is no `BertClassifier` has no temperature.
        batches: real windows `[N, L]`, to set the activation ranges.
        max_length: positions kept.
        temperature: what the logits are divided by, inside the last layer.
        kernels: the engine and what attention computes in; by the layers' sizes if left out.
        table_bits: of the embedding table, 8 or 4.

    Returns:
        See `lower_int8`; sets this process' quantized engine.
    """
    kernels = kernels or Kernels()
    shorter = copy.deepcopy(model).eval()
    if not isinstance(shorter, BertEncoder):
        return _lowered(shorter, batches, kernels, table_bits)
    positions = shorter.embeddings.position.weight.detach()[:max_length]
    shorter.embeddings.position = nn.Embedding.from_pretrained(positions.clone())
    if isinstance(shorter, BertClassifier):
        with torch.no_grad():
            shorter.head.weight.div_(temperature)
            shorter.head.bias.div_(temperature)
    return _lowered(shorter, batches, kernels, table_bits)


def measured(
    model: nn.Module,
    batches: Sequence[Tensor],
    max_length: int,
    batch_size: int,
    table_bits: int = 8,
) -> Choice | None:
    """The fastest kernels on this machine, for a window of the median length and for
    `batch_size` windows of any; None where nothing is measured, see `kernels.fastest`."""
    windows = batches[0]
    lengths = (windows != 0).sum(1)
    middle = int(lengths.argsort(stable=True)[len(windows) // 2])
    return fastest(
        lambda tried: quantize(
            model, batches[:1], max_length, kernels=tried, table_bits=table_bits
        ),
        {
            "batch1": windows[middle : middle + 1, : int(lengths[middle])],
            f"batch{batch_size}": windows[:batch_size],
        },
        other_engine=True,
        hot=False,
    )


def _lowered(
    model: nn.Module, batches: Sequence[Tensor], kernels: Kernels, table_bits: int
) -> Lowered:
    return lower_int8(
        model,
        batches,
        engine=kernels.engine,
        attention=kernels.attention,
        table_bits=table_bits,
    )
