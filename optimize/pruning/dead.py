"""Dead channels: their weights are all zero, or no layer reads them. Removing them is exact."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from optimize.lowering.inputs import Inputs, as_tuple
from optimize.pruning.graph import CONVOLUTIONS, Coupled, coupled
from optimize.pruning.removal import inputs_like, same, without

_NORMS: tuple[Any, ...] = (
    nn.modules.batchnorm._NormBase,  # instance normalisation too
    nn.GroupNorm,
    nn.LayerNorm,
)


def remove_dead(
    model: nn.Module, example: Inputs, *, keep: tuple[str, ...] = (), round_to: int = 1
) -> tuple[nn.Module, dict[str, int]]:
    """Remove the channels whose removal changes no answer.

    A channel is dead in two cases: every layer that writes it has zero weights and bias for it,
    and its value is still zero after normalisation and activation; or every layer that reads it
    has zero weights for it. Removals are tried on a copy, and left out if the answers change by
    more than the rounding of float32 sums.

    Args:
        model: in eval mode; left as it is.
        example: an input `[1, ...]`; a tuple of several.
        keep: names of layers whose width must not change.
        round_to: widths stay multiples of this, even if a few dead channels remain.

    Returns:
        A new module, and the number of removed channels by the layer's name.

    Raises:
        ModelError: the model cannot be traced.
        OptionError: `keep` names a layer that is not there.
    """
    model = copy.deepcopy(model).eval()
    inputs = inputs_like(example, model)
    live = _live_inputs(model, inputs)
    dead = {group.name: _dead(group, live, round_to) for group in coupled(model, example, keep)}
    plan = {name: dead[name] for name, _ in model.named_modules() if dead.get(name)}
    smaller, done = without(
        model, example, plan, lambda smaller: same(model, smaller, inputs, 1e-5)
    )
    return smaller, {name: len(plan[name]) for name in plan if name in done}


def _live_inputs(model: nn.Module, inputs: list[Inputs]) -> dict[nn.Module, Tensor]:
    """Bool per input channel of each convolution and linear layer that runs: ever non-zero."""
    live: dict[nn.Module, Tensor] = {}

    def look(module: nn.Module, args: tuple[Any, ...]) -> None:
        if not args or not isinstance(args[0], Tensor):
            return
        channels = -1 if isinstance(module, nn.Linear) else -1 - len(module.kernel_size)  # type: ignore[arg-type]
        non_zero = args[0].detach().movedim(channels, -1).flatten(0, -2).ne(0).any(0)
        live[module] = live[module] | non_zero if module in live else non_zero

    layers = [m for m in model.modules() if isinstance(m, CONVOLUTIONS | nn.Linear)]
    hooks = [m.register_forward_pre_hook(look) for m in layers]
    try:
        with torch.no_grad():
            for x in inputs:
                model(*as_tuple(x))
    finally:
        for hook in hooks:
            hook.remove()
    return live


def _dead(group: Coupled, live: dict[nn.Module, Tensor], round_to: int) -> list[int]:
    """Channels that are zero for any input wherever they are read, or that are never read."""
    if not group.fits:
        return []
    written, arrives = (torch.zeros(group.width, dtype=torch.bool) for _ in range(2))
    # Normalised to zero: gain and bias are both zero.
    zeroed, norms = torch.ones(group.width, dtype=torch.bool), 0
    read: Tensor | None = None
    for module, part, own, roots in group.members:
        weight = getattr(module, "weight", None)
        if not isinstance(weight, Tensor):
            continue
        bias, root = getattr(module, "bias", None), torch.tensor(roots)
        transposed = bool(getattr(module, "transposed", False))
        plain = getattr(module, "groups", 1) == 1 and module in live
        if part == "out":
            rows = _any(weight, 1 if transposed else 0)[own] if plain else torch.ones(len(own)) > 0
            if isinstance(bias, Tensor):
                rows = rows | bias.detach().ne(0)[own]
            written[root] |= rows
        elif part == "in":
            read = torch.zeros_like(written) if read is None else read
            columns = _any(weight, 0 if transposed else 1) if plain else None
            for channel, index in zip(roots, own, strict=True):  # several may be one channel
                read[channel] |= columns is None or columns[index]
                arrives[channel] |= columns is None or live[module][index]
        elif isinstance(module, _NORMS) and weight.dim() == 1:
            norms += 1
            gone = weight.detach()[own] == 0
            if isinstance(bias, Tensor):
                gone = gone & (bias.detach()[own] == 0)
            zeroed[root] &= gone
    if read is None:
        return []
    # Without weights a channel is constant: if it is zero for one input, it is for all.
    constant = ~written | zeroed if norms else ~written
    channels = (constant & ~arrives | ~read).nonzero().flatten().tolist()
    remaining = max(1, group.width - len(channels))
    return channels[: max(0, group.width - -(-remaining // round_to) * round_to)]


def _any(weight: Tensor, dimension: int) -> Tensor:
    """Whether there is a weight other than zero, by the index in a dimension."""
    return weight.detach().transpose(0, dimension).flatten(1).ne(0).any(1)
