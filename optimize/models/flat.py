"""Models whose arguments and answers are trees of tensors, as functions of named tensors.

What is traced, quantized and served takes tensors in a fixed order and returns one tensor or a
tuple of several. Trees are flattened by the rule of `optimize.utils.trees`.
"""

import inspect
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from optimize.utils import trees

OUTPUT = "output"
PREFIX = "model."
"""What `Flat` puts before the names of a model's layers."""


class Flat(nn.Module):
    """A module as a function of tensors `[N, ...]`, in the order of `inputs`.

    Args:
        model: the module.
        inputs: names; those with a dot are parts of one argument.
        outputs: names of what is returned, in order; empty: all.
    """

    def __init__(
        self, model: nn.Module, inputs: Sequence[str], outputs: Sequence[str] = ()
    ) -> None:
        super().__init__()
        self.model = model
        self.inputs, self.outputs = tuple(inputs), tuple(outputs)

    def named(self, *tensors: Tensor) -> dict[str, Tensor]:
        """The tensors among the answers by name."""
        args, kwargs = arguments(self.model, self.inputs, tensors)
        return named(self.model(*args, **kwargs))

    def forward(self, *tensors: Tensor) -> Tensor | tuple[Tensor, ...]:
        found = self.named(*tensors)
        answers = tuple(found[name] for name in self.outputs or found)
        return answers[0] if len(answers) == 1 else answers


def named(answers: Any) -> dict[str, Tensor]:
    """The tensors in a model's answer by name; `output` for a tensor alone."""
    found = trees.flatten(answers, OUTPUT, lambda item: False)
    return {name: leaf for name, leaf in found.items() if isinstance(leaf, Tensor)}


def arguments(
    model: nn.Module, names: Sequence[str], tensors: Sequence[Tensor]
) -> tuple[list[Any], dict[str, Any]]:
    """How a model is called: by name where `forward` has parameters of all these names, with one
    mapping where it takes one argument and there are several, else by position."""
    tree = trees.unflatten(names, tensors)
    parameters = inspect.signature(model.forward).parameters.values()
    known = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    if tree.keys() <= known:
        return [], tree
    positional = [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    alone = len(positional) == 1 and not any(p.kind is p.VAR_POSITIONAL for p in parameters)
    if alone and len(tree) > 1:
        return [tree], {}
    return list(tree.values()), {}


def is_plain(model: nn.Module, names: Sequence[str], answers: Any) -> bool:
    """Whether a model is such a function as it is."""
    parameters = [
        p
        for p in inspect.signature(model.forward).parameters.values()
        if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    in_order = [p.name for p in parameters[: len(names)]] == list(names)
    single = len(names) == 1 and "." not in names[0]
    tensors = answers if isinstance(answers, tuple) else (answers,)
    several = len(tensors) > 1 or isinstance(answers, Tensor)
    flat = several and all(isinstance(t, Tensor) for t in tensors) and type(tensors) is tuple
    return flat and (in_order or single)
