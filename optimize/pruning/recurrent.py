"""Recurrent layers in the dependency graph: what they read can be pruned, their state cannot.

torch-pruning follows gradients, and a recurrent layer's lead through a maze of its time steps.
While the graph is built each is replaced by one product with the weights that read its input.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class InputPruner:
    """What torch-pruning asks about a layer type (its `BasePruningFunc`), for recurrent layers."""

    pruning_dim = -1

    def prune_in_channels(self, layer: nn.RNNBase, channels: list[int]) -> nn.Module:
        """Remove channels of the input, in place."""
        kept = [i for i in range(layer.input_size) if i not in set(channels)]
        for name in ("weight_ih_l0", "weight_ih_l0_reverse"):
            if hasattr(layer, name):
                setattr(layer, name, nn.Parameter(getattr(layer, name).detach()[:, kept]))
        layer.input_size = len(kept)
        return layer

    def prune_out_channels(self, layer: nn.RNNBase, channels: list[int]) -> nn.Module:
        """Refuse: the state feeds back into the layer."""
        raise ValueError("the state of a recurrent layer cannot be pruned")

    def get_in_channels(self, layer: nn.RNNBase) -> int:
        return layer.input_size

    def get_out_channels(self, layer: nn.RNNBase) -> int:
        return (layer.proj_size or layer.hidden_size) * (2 if layer.bidirectional else 1)

    def get_in_channel_groups(self, layer: nn.RNNBase) -> int:
        return 1

    get_out_channel_groups = get_in_channel_groups


@contextmanager
def stand_ins(model: nn.Module) -> Iterator[None]:
    """Let recurrent layers answer by one product, with answers of the right shapes."""
    layers = [m for m in model.modules() if isinstance(m, nn.RNNBase)]
    for layer in layers:
        layer.forward = _product(layer)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _product(layer: nn.RNNBase) -> Any:
    def forward(x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        width = InputPruner().get_out_channels(layer)
        weight = layer.weight_ih_l0
        assert isinstance(weight, Tensor)
        rows = weight[torch.arange(width) % len(weight)]
        answers = F.linear(x, rows)
        sides = 2 if layer.bidirectional else 1
        last = answers.select(1 if layer.batch_first else 0, -1) if x.dim() == 3 else answers[-1]
        states = (
            last.unflatten(-1, (sides, -1)).movedim(-2, 0).repeat_interleave(layer.num_layers, 0)
        )
        if not isinstance(layer, nn.LSTM):
            return answers, states
        cells = states[..., :1].expand(*states.shape[:-1], layer.hidden_size)
        return answers, (states, cells)

    return forward
