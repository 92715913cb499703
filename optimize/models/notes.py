"""What is to be said of a model that was brought: a line each, printed by whoever runs a recipe."""

from weakref import WeakKeyDictionary

from torch import nn

_NOTES: WeakKeyDictionary[nn.Module, list[str]] = WeakKeyDictionary()


def note(model: nn.Module, text: str) -> None:
    """Keep a line about `model`; an empty one is none."""
    if text:
        _NOTES.setdefault(model, []).append(text)


def notes_of(model: nn.Module) -> list[str]:
    """The lines about a model and the modules in it."""
    return [text for module in model.modules() for text in _NOTES.get(module, [])]
