"""Static int8 for text encoders, on top of `optimize.lowering`."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from optimize.lowering import Lowered, lower_int8
from optimize.models.architectures.bert import BertClassifier, BertEncoder


def quantize(
    model: nn.Module,
    batches: Sequence[Tensor],
    max_length: int,
    temperature: float = 1.0,
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

    Returns:
        See `lower_int8`; sets this process' quantized engine.
    """
    shorter = copy.deepcopy(model).eval()
    if not isinstance(shorter, BertEncoder):
        return lower_int8(shorter, batches)
    positions = shorter.embeddings.position.weight.detach()[:max_length]
    shorter.embeddings.position = nn.Embedding.from_pretrained(positions.clone())
    if isinstance(shorter, BertClassifier):
        with torch.no_grad():
            shorter.head.weight.div_(temperature)
            shorter.head.bias.div_(temperature)
    return lower_int8(shorter, batches)
