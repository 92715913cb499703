"""Weights that are computed anew in every call: weight and spectral normalisation, torch's pruning
masks, users' own parametrizations. Stages change weights, and such a module cannot be copied or
pickled."""

from typing import Any

from torch import nn
from torch.nn.utils import parametrize

from optimize.utils.wording import few

_TORCHS = tuple(
    f"torch.nn.utils.{name}"
    for name in ("weight_norm", "spectral_norm", "prune", "parametrizations")
)


def settle(model: nn.Module) -> str:
    """Make every computed weight a plain one, of the value that it has in eval mode.

    Returns:
        A line that says of which layers; "" if there are none.
    """
    training, found = model.training, []
    model.eval()
    for name, module in list(model.named_modules()):
        if parametrize.is_parametrized(module):
            found.append(name)
            for tensor in list(module.parametrizations):
                parametrize.remove_parametrizations(module, tensor)
        for hook in _hooks(module._forward_pre_hooks):
            found.append(name)
            hook.remove(module)
        for left in (module._state_dict_hooks, module._load_state_dict_pre_hooks):
            _hooks(left)
    model.train(training)
    if not found:
        return ""
    names = [name or "the model" for name in dict.fromkeys(found)]
    return (
        f"the weights of {few(names)} are computed (weight or spectral normalisation, a mask, a "
        "parametrization): from here on they are plain weights of that value"
    )


def _hooks(hooks: dict[int, Any]) -> list[Any]:
    """Take out the hooks of torch's functions that compute a weight before each call."""
    # torch wraps the hooks of loading
    modules = {k: getattr(getattr(h, "hook", h), "__module__", "") for k, h in hooks.items()}
    return [hooks.pop(key) for key, module in modules.items() if module in _TORCHS]
