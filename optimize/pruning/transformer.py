"""Structured pruning of transformers: heads and feed-forward neurons.

Works on plain modules: a `Block` names the linear layers of one transformer layer of any model. A
head is a run of columns of the output projection, a neuron a column of the second feed-forward
matrix. The rows that produce a column are removed with it, so the pruned model is dense.

Importance is a first-order Taylor estimate of the change in loss without the column, from one
backward pass over real data (Michel et al. 2019 for heads, Molchanov et al. 2019 for neurons).
"""

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from optimize.models.architectures.bert import BertEncoder, Layer


@dataclass(frozen=True)
class Block:
    """One transformer layer.

    Attributes:
        qkv: the projections of query, key and value: one fused matrix, or three.
        out: from the heads back to the model's width.
        fc1, fc2: the feed-forward layers.
        head_size: columns of one head.
        resized: called with the number of heads that remain.
    """

    qkv: Sequence[nn.Linear]
    out: nn.Linear
    fc1: nn.Linear
    fc2: nn.Linear
    head_size: int
    resized: Callable[[int], None]

    @property
    def heads(self) -> int:
        return self.out.in_features // self.head_size

    @property
    def neurons(self) -> int:
        return self.fc2.in_features


def blocks(model: BertEncoder) -> list[Block]:
    """The layers of one of our BERT encoders."""
    layers = []
    for layer in model.layers:
        assert isinstance(layer, Layer)
        attention = layer.attention
        layers.append(
            Block(
                [attention.qkv],
                attention.out,
                layer.fc1,
                layer.fc2,
                attention.head_size,
                functools.partial(setattr, attention, "heads"),
            )
        )
    return layers


@dataclass(frozen=True)
class Importance:
    """For each block: float `[heads]` and float `[neurons]`, larger for more important ones."""

    heads: list[Tensor]
    neurons: list[Tensor]


def keep_rows(linear: nn.Linear, index: Tensor) -> None:
    """Keep only the outputs in `index`, in place."""
    linear.weight = nn.Parameter(linear.weight.detach()[index].clone())
    if linear.bias is not None:
        linear.bias = nn.Parameter(linear.bias.detach()[index].clone())
    linear.out_features = len(index)


def keep_columns(linear: nn.Linear, index: Tensor) -> None:
    """Keep only the inputs in `index`, in place."""
    linear.weight = nn.Parameter(linear.weight.detach()[:, index].clone())
    linear.in_features = len(index)


def measure(
    blocks: Sequence[Block], batches: Iterable[Tensor], loss: Callable[[Tensor, int], Tensor]
) -> Importance:
    """Taylor importance of every head and neuron, over batches of real data.

    Args:
        blocks: of the model.
        batches: its inputs.
        loss: from an input and the batch's number to a scalar to differentiate; runs the model.

    Raises:
        ValueError: no batches.
    """
    heads = [torch.zeros(block.heads) for block in blocks]
    neurons = [torch.zeros(block.neurons) for block in blocks]
    activations: dict[nn.Module, Tensor] = {}

    def record(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        inputs[0].retain_grad()
        activations[module] = inputs[0]

    watched = [layer for block in blocks for layer in (block.out, block.fc2)]
    hooks = [layer.register_forward_pre_hook(record) for layer in watched]
    count = 0
    try:
        for number, batch in enumerate(batches):
            activations.clear()
            with torch.enable_grad():
                loss(batch, number).backward()
            for position, block in enumerate(blocks):
                for layer, total, size in (
                    (block.out, heads[position], block.head_size),
                    (block.fc2, neurons[position], 1),
                ):
                    values = activations[layer]
                    assert values.grad is not None
                    effect = (values.detach() * values.grad).float().flatten(0, -2)
                    total += effect.unflatten(1, (-1, size)).sum(2).abs().sum(0)
            for layer in watched:
                layer.zero_grad(set_to_none=True)
            count += 1
    finally:
        for hook in hooks:
            hook.remove()
    if not count:
        raise ValueError("importance needs at least one batch")
    return Importance(heads, neurons)


def best(importance: Tensor, count: int) -> Tensor:
    """Positions of the `count` largest values, in ascending order."""
    return importance.topk(min(count, len(importance))).indices.sort().values


def prune(blocks: Sequence[Block], importance: Importance, *, heads: int, neurons: int) -> None:
    """Keep the most important `heads` and `neurons` of every block, in place.

    All blocks keep equally many, so that their matrices have one shape. Widths that are multiples
    of 16 suit the int8 kernels.

    Raises:
        ValueError: fewer than one of either.
    """
    if heads < 1 or neurons < 1:
        raise ValueError("at least one head and one neuron of each block must stay")
    for block, of_heads, of_neurons in zip(
        blocks, importance.heads, importance.neurons, strict=True
    ):
        head_index = best(of_heads, heads)
        columns = (head_index[:, None] * block.head_size + torch.arange(block.head_size)).flatten()
        before = block.out.in_features
        if len(block.qkv) == 1:
            keep_rows(block.qkv[0], torch.cat([columns + part * before for part in range(3)]))
        else:
            for linear in block.qkv:
                keep_rows(linear, columns)
        keep_columns(block.out, columns)
        block.resized(len(head_index))
        neuron_index = best(of_neurons, neurons)
        keep_rows(block.fc1, neuron_index)
        keep_columns(block.fc2, neuron_index)
