"""Weights of a checkpoint, in whatever form a training left them, and into which model they go."""

import argparse
import itertools
import pathlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from optimize.errors import ModelError
from optimize.models import fileformat

# Averaged weights are what a training that keeps them means to use: they come first.
KEYS = (
    "ema", "model_ema", "state_dict_ema", "ema_state_dict", "ema_model",
    "state_dict", "model_state_dict", "model", "module", "net", "network", "weights", "params",
)  # fmt: skip
# What wraps a model puts one of these before its names: DataParallel and DDP, Lightning, compile.
PREFIXES = ("module.", "model.", "net.", "network.", "_orig_mod.")
# Where our own wrappers of users' models hold the model itself.
_INNER = ("body", "model")
_SHOWN = 3


@dataclass(frozen=True)
class Weights:
    """Tensors by name, and where in the file they were found ("" for its top)."""

    tensors: dict[str, Tensor]
    path: Path
    key: str = ""
    others: tuple[str, ...] = ()


def load_checkpoint(model: nn.Module, path: Path) -> str:
    """Load a checkpoint's weights into `model`, all of them.

    Returns:
        A line that says which weights were taken and what was removed from their names; "" for a
        plain `state_dict`.

    Raises:
        ModelError: the file cannot be read, or does not fit the model.
    """
    weights = read(path)
    target, tensors, removed, left = _fitted(model, weights.tensors)
    problems = _problems(target, tensors)
    if problems:
        raise ModelError(f"checkpoint {path} does not fit the model: {problems}")
    target.load_state_dict(tensors, strict=False)
    return _described(weights, removed, left)


def read(path: Path) -> Weights:
    """The weights in a file: of safetensors, or of `torch.save`, alone or under one of `KEYS`.

    Raises:
        ModelError: it is missing, damaged or something else, or holds no weights.
    """
    kind = fileformat.of(path)
    if kind == "safetensors":
        try:
            from safetensors.torch import load_file
        except ImportError as error:
            raise ModelError(f"{path} needs the safetensors package: pip install it") from error
        try:
            return Weights(load_file(str(path)), path)
        except Exception as error:  # safetensors raises a class of its own
            raise ModelError(f"{path} is a damaged safetensors file: {error}") from error
    if kind != "torch":
        raise ModelError(f"checkpoint {path} {kind}")
    try:
        with torch.serialization.safe_globals(_harmless()):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch and pickle raise many kinds
        raise ModelError(f"checkpoint {path} {_refusal(path, error)}") from error
    return _found(content, path)


def _harmless() -> list[Any]:
    """Classes of plain values that training scripts keep beside weights, which run no code."""
    numpy_core = getattr(np, "_core", None) or np.core
    multiarray = numpy_core.multiarray
    dtypes = {type(np.dtype(kind)) for kind in "?bhilqBHILQefdgFDUSMm"}
    return [
        argparse.Namespace, np.ndarray, np.dtype, *dtypes,
        multiarray.scalar, (multiarray.scalar, "numpy.core.multiarray.scalar"),
        multiarray._reconstruct, (multiarray._reconstruct, "numpy.core.multiarray._reconstruct"),
        pathlib.PosixPath, pathlib.PurePosixPath, pathlib.Path,
    ]  # fmt: skip


def _refusal(path: Path, error: Exception) -> str:
    whole = fileformat.pickled_class(path)
    if whole is not None:
        return (
            f"is a whole module (of class {whole}), which runs its author's code when it is "
            'loaded; convert it once, where that code can be imported: python -c "import torch; '
            f"torch.save(torch.load({path.name!r}, map_location='cpu', weights_only=False)"
            ".state_dict(), 'weights.pt')\""
        )
    refused = re.search(r"GLOBAL ([\w.]+)", str(error))
    if refused:
        return (
            f"holds an object of {refused[1]} beside its weights, which runs code when it is "
            'loaded; keep the weights alone, where you trust the file: python -c "import torch; '
            f"c = torch.load({path.name!r}, map_location='cpu', weights_only=False); "
            "torch.save(c['state_dict'], 'weights.pt')\" (or the key that it has)"
        )
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return f"is damaged or cut off: {reason[:200]}"


def _found(content: Any, path: Path) -> Weights:
    """The weights in what was loaded, by the first of `KEYS` that has some."""
    keys: list[str] = []
    others: list[str] = []
    while isinstance(content, Mapping) and not _is_state(content):
        named = [key for key in KEYS if _has_tensors(content.get(key))]
        if not named:
            break
        others += [str(key) for key in content if key != named[0]]
        keys.append(named[0])
        content = content[named[0]]
    if not isinstance(content, Mapping) or not _has_tensors(content, within=False):
        held = f"a {type(content).__name__}"
        if isinstance(content, Mapping):
            held = f"the keys {_first([str(k) for k in content])}" if content else "nothing"
        raise ModelError(f"checkpoint {path} holds {held}, and no weights: save model.state_dict()")
    tensors = {str(k): v for k, v in content.items() if isinstance(v, Tensor)}
    return Weights(tensors, path, ".".join(keys), tuple(others))


def _is_state(content: Mapping[Any, Any]) -> bool:
    """Whether most values are tensors, as in a `state_dict`."""
    count = sum(isinstance(value, Tensor) for value in content.values())
    return 2 * count > len(content)


def _has_tensors(content: Any, within: bool = True) -> bool:
    """Whether there are tensors in a mapping, or in one under one of `KEYS` in it."""
    if not isinstance(content, Mapping):
        return False
    if any(isinstance(value, Tensor) for value in content.values()):
        return True
    return within and any(_has_tensors(content.get(key)) for key in KEYS)


def _fitted(
    model: nn.Module, tensors: dict[str, Tensor]
) -> tuple[nn.Module, dict[str, Tensor], str, list[str]]:
    """The module that weights are for, the weights under its names, the prefix that was removed,
    and names without that prefix, which belong to something else.

    That is the combination in which most names and shapes are the module's.
    """
    best: tuple[int, nn.Module, dict[str, Tensor], str, list[str]] | None = None
    for target in _targets(model):
        shapes = {name: value.shape for name, value in target.state_dict().items()}
        for prefix in _prefixes(tensors):
            named = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
            score = sum(2 if shapes[k] == v.shape else 1 for k, v in named.items() if k in shapes)
            if best is None or score > best[0]:
                left = [name for name in tensors if not name.startswith(prefix)]
                best = score, target, named, prefix, left
    assert best is not None
    return best[1:]


def _targets(model: nn.Module) -> Iterator[nn.Module]:
    """The model, and the modules that our wrappers hold."""
    yield model
    while True:
        inner = next((m for n, m in model.named_children() if n in _INNER), None)
        others = [n for n, _ in model.named_children()]
        if (
            inner is None
            or len(others) != 1
            or next(model.parameters(recurse=False), None) is not None
        ):
            return
        yield inner
        model = inner


def _prefixes(tensors: Mapping[str, Tensor]) -> list[str]:
    """Prefixes of names, up to three of `PREFIXES`, the shortest first."""
    found = {""}
    for count in (1, 2, 3):
        for parts in itertools.product(PREFIXES, repeat=count):
            prefix = "".join(parts)
            if any(name.startswith(prefix) for name in tensors):
                found.add(prefix)
    return sorted(found, key=lambda prefix: (prefix.count("."), prefix))


def _problems(target: nn.Module, tensors: Mapping[str, Tensor]) -> str:
    """What does not fit: how many weights of each kind, and their first names."""
    wanted = target.state_dict()
    missing = [n for n in wanted if n not in tensors and not n.endswith("num_batches_tracked")]
    unexpected = [name for name in tensors if name not in wanted]
    other = [
        f"{name} {list(tensors[name].shape)} for {list(value.shape)}"
        for name, value in wanted.items()
        if name in tensors and isinstance(value, Tensor) and tensors[name].shape != value.shape
    ]
    kinds = {"missing": missing, "unexpected": unexpected, "of another shape": other}
    said = [f"{len(names)} {kind} ({_first(names)})" for kind, names in kinds.items() if names]
    if not said:
        return ""
    fitting = sum(name in tensors for name in wanted) - len(other)
    return f"{fitting} of its {len(wanted)} weights fit; {', '.join(said)}"


def _described(weights: Weights, removed: str, left: list[str]) -> str:
    parts = []
    if weights.key:
        rivals = [key for key in weights.others if key in KEYS]
        beside = f", not from {_quoted(rivals)}" if rivals else ""
        parts.append(f"from key {weights.key!r}{beside}")
    if removed:
        parts.append(f"prefix {removed!r} removed")
    if left:
        parts.append(f"{len(left)} without it left out ({_first(left)})")
    return f"weights of {weights.path.name}: {', '.join(parts)}" if parts else ""


def _quoted(names: list[str]) -> str:
    return " or ".join(repr(name) for name in names)


def _first(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
