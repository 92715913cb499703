"""Dead channels: their weights are all zero, or no layer reads them. Removing them is exact."""

import copy

import torch
from torch import Tensor, nn

from optimize.errors import ModelError
from optimize.pruning.graph import Coupled, coupled, fixed_layers


def remove_dead(
    model: nn.Module, example: Tensor, *, keep: tuple[str, ...] = (), round_to: int = 1
) -> tuple[nn.Module, dict[str, int]]:
    """Remove the channels whose removal changes no answer.

    A channel is dead in two cases: every layer that writes it has zero weights and bias for it,
    and its value is still zero after normalisation and activation; or every layer that reads it
    has zero weights for it. Each removal is tried on a copy, and undone if the answers change by
    more than the rounding of float32 sums.

    Args:
        model: in eval mode; left as it is.
        example: an input `[1, ...]`.
        keep: names of layers whose width must not change.
        round_to: widths stay multiples of this, even if a few dead channels remain.

    Returns:
        A new module, and the number of removed channels by the layer's name.

    Raises:
        ModelError: the model cannot be traced.
        OptionError: `keep` names a layer that is not there.
    """
    model = copy.deepcopy(model).eval()
    inputs = _probe(example)
    groups = coupled(model, example, fixed_layers(model, example, keep))
    live = _live_inputs(model, inputs)
    dead = {group.name: _dead(group, live, round_to) for group in groups}
    removed = {}
    for name in [name for name, _ in model.named_modules() if dead.get(name)]:
        trial = _without(model, example, keep, name, dead[name])
        if trial is not None and _same(model, trial, inputs):
            model, removed[name] = trial, len(dead[name])
    return model, removed


def _live_inputs(model: nn.Module, inputs: list[Tensor]) -> dict[nn.Module, Tensor]:
    """Bool per input channel of each convolution and linear layer: ever non-zero."""
    live: dict[nn.Module, Tensor] = {}

    def look(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        x = args[0].detach()
        x = x.flatten(0, -2) if isinstance(module, nn.Linear) else x.transpose(0, 1).flatten(1).t()
        non_zero = x.ne(0).any(0)
        live[module] = live[module] | non_zero if module in live else non_zero

    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    hooks = [m.register_forward_pre_hook(look) for m in layers]
    try:
        with torch.no_grad():
            for x in inputs:
                model(x)
    finally:
        for hook in hooks:
            hook.remove()
    return live


def _dead(group: Coupled, live: dict[nn.Module, Tensor], round_to: int) -> list[int]:
    """Channels that are zero for any input wherever they are read, or that are never read."""
    written, arrives = (torch.zeros(group.width, dtype=torch.bool) for _ in range(2))
    # Normalised to zero: gain and bias are both zero.
    zeroed, norms = torch.ones(group.width, dtype=torch.bool), 0
    read: Tensor | None = None
    for module, part, own, roots in group.members:
        weight = getattr(module, "weight", None)
        if not isinstance(weight, Tensor):
            continue
        bias, root = getattr(module, "bias", None), torch.tensor(roots)
        if part == "out":
            rows = weight.detach().flatten(1).ne(0).any(1)
            if isinstance(bias, Tensor):
                rows = rows | bias.detach().ne(0)
            written[root] |= rows[own]
        elif part == "in" and getattr(module, "groups", 1) == 1:
            columns = weight.detach().transpose(0, 1).flatten(1).ne(0).any(1)
            read = torch.zeros_like(written) if read is None else read
            for channel, index in zip(roots, own, strict=True):  # several may be one channel
                read[channel] |= columns[index]
                arrives[channel] |= live[module][index]
        elif part == "norm":
            norms += 1
            assert isinstance(bias, Tensor)
            zeroed[root] &= (weight.detach()[own] == 0) & (bias.detach()[own] == 0)
    if read is None:
        return []
    # Without weights a channel is constant: if it is zero for one input, it is for all.
    constant = ~written | zeroed if norms else ~written
    channels = (constant & ~arrives | ~read).nonzero().flatten().tolist()
    remaining = max(1, group.width - len(channels))
    return channels[: max(0, group.width - -(-remaining // round_to) * round_to)]


def _without(
    model: nn.Module, example: Tensor, keep: tuple[str, ...], name: str, channels: list[int]
) -> nn.Module | None:
    trial = copy.deepcopy(model)
    try:
        for group in coupled(trial, example, fixed_layers(trial, example, keep)):
            if group.name == name:
                group.remove(channels)
                return trial
    except (ModelError, RuntimeError, IndexError):
        return None
    return None


def _probe(example: Tensor) -> list[Tensor]:
    """The example and, for pixels and floats, three random inputs."""
    generator = torch.Generator().manual_seed(0)
    size = (3, *example.shape[1:])
    if example.dtype == torch.uint8:
        return [example, torch.randint(0, 256, size, generator=generator, dtype=torch.uint8)]
    if example.is_floating_point():
        return [example, torch.randn(size, generator=generator)]
    return [example]


def _same(model: nn.Module, trial: nn.Module, inputs: list[Tensor]) -> bool:
    with torch.no_grad():
        for x in inputs:
            try:
                expected, answers = model(x), trial(x)
            except RuntimeError:
                return False
            if expected.shape != answers.shape:
                return False
            if (expected - answers).abs().max() > 1e-5 * expected.abs().max().clamp(min=1e-6):
                return False
    return True
