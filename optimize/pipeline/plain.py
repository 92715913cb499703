"""Modules as plain data: their structure as JSON, their tensors by name; no code runs on reading.

Only modules made of torch's and this project's own classes, of tensors and of plain values can be
written so: a pruned network with its new widths is one, a captured graph or a user's class is not.
"""

import importlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

_OURS = ("torch.nn.modules.", "optimize.")
_INTERNAL = frozenset(nn.Module().__dict__)
# A class of ours with one of these does more on loading than to take its values back.
_OWN_WAY = {"__getstate__", "__setstate__", "__reduce__", "__reduce_ex__"}
_WRITTEN = {"training", "_parameters", "_buffers", "_non_persistent_buffers_set", "_modules"}


class NotPlain(Exception):
    """The module holds something that is no plain data; `str` names it."""


def pack(roots: Mapping[str, nn.Module]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Several modules with what they share.

    Args:
        roots: modules by name; they may be the same object, or share parts.

    Returns:
        A JSON value, and the tensors that it names, contiguous and each in memory of its own.

    Raises:
        NotPlain: one of them cannot be written so.
    """
    packer = _Packer()
    places = {name: packer.module(module) for name, module in roots.items()}
    return {"roots": places, "modules": packer.modules, "tensors": packer.layouts}, packer.tensors


def unpack(written: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, nn.Module]:
    """The modules that `pack` was given, new ones of the same values and memory layouts.

    Raises:
        NotPlain, AttributeError, ImportError, IndexError, KeyError, TypeError: this is nothing
            that `pack` returned, or is of an earlier version.
    """
    leaves = {name: _leaf(tensors[name], layout) for name, layout in written["tensors"].items()}
    modules = [_empty(entry["class"]) for entry in written["modules"]]
    for module, entry in zip(modules, written["modules"], strict=True):
        module.__dict__.update({k: _value(v) for k, v in entry["attributes"].items()})
        module.training = bool(entry["training"])
        for kind in ("parameters", "buffers"):
            held = getattr(module, f"_{kind}")
            held.update({k: None if v is None else leaves[v] for k, v in entry[kind].items()})
        module._non_persistent_buffers_set.update(entry["not_persistent"])
        children = entry["children"].items()
        module._modules.update({k: None if v is None else modules[v] for k, v in children})
    return {name: modules[place] for name, place in written["roots"].items()}


class _Packer:
    """Numbers modules and tensors as it meets them; one that is met again keeps its number."""

    def __init__(self) -> None:
        self.modules: list[dict[str, Any]] = []
        self.tensors: dict[str, Tensor] = {}
        self.layouts: dict[str, dict[str, Any]] = {}
        self._seen: dict[int, int] = {}
        self._names: dict[int, str] = {}

    def module(self, module: nn.Module) -> int:
        if id(module) in self._seen:
            return self._seen[id(module)]
        kind = type(module)
        name = f"{kind.__module__}:{kind.__qualname__}"
        if not name.startswith(_OURS) or _class(name) is not kind:
            raise NotPlain(f"the class {kind.__module__}.{kind.__qualname__}")
        if any(_OWN_WAY & vars(base).keys() for base in kind.__mro__ if _is_ours(base)):
            raise NotPlain(f"{kind.__qualname__}, which says itself how it is saved")
        state = module.__dict__
        for key in _INTERNAL - _WRITTEN:
            if key.endswith("hooks") and state.get(key):
                raise NotPlain(f"hooks of {kind.__qualname__}")
        place = self._seen[id(module)] = len(self.modules)
        entry: dict[str, Any] = {"class": name, "training": module.training}
        self.modules.append(entry)
        entry["attributes"] = {
            key: _written(value, f"{kind.__qualname__}.{key}")
            for key, value in state.items()
            if key not in _INTERNAL
        }
        entry["parameters"] = {k: self.tensor(v) for k, v in module._parameters.items()}
        entry["buffers"] = {k: self.tensor(v) for k, v in module._buffers.items()}
        entry["not_persistent"] = sorted(module._non_persistent_buffers_set)
        entry["children"] = {
            k: None if v is None else self.module(v) for k, v in module._modules.items()
        }
        return place

    def tensor(self, tensor: Tensor | None) -> str | None:
        if tensor is None:
            return None
        if id(tensor) in self._names:
            return self._names[id(tensor)]
        if type(tensor) not in (Tensor, nn.Parameter) or tensor.is_quantized or _unusual(tensor):
            raise NotPlain(f"a tensor of the class {type(tensor).__name__}, {tensor.dtype}")
        name = self._names[id(tensor)] = f"t{len(self.tensors)}"
        detached = tensor.detach().cpu()
        packed = detached.clone(memory_format=torch.contiguous_format)
        self.tensors[name] = packed
        self.layouts[name] = {
            "parameter": isinstance(tensor, nn.Parameter),
            "requires_grad": tensor.requires_grad,
            "stride": None if detached.stride() == packed.stride() else [*detached.stride()],
        }
        return name


def _is_ours(kind: type) -> bool:
    return kind.__module__.startswith("optimize.")


def _unusual(tensor: Tensor) -> bool:
    return tensor.layout is not torch.strided or tensor.is_complex()


def _leaf(tensor: Tensor, layout: Mapping[str, Any]) -> Tensor:
    if layout["stride"] is not None:
        strided = torch.empty_strided(tensor.shape, layout["stride"], dtype=tensor.dtype)
        tensor = strided.copy_(tensor)
    if layout["parameter"]:
        return nn.Parameter(tensor, requires_grad=layout["requires_grad"])
    return tensor.requires_grad_(layout["requires_grad"]) if layout["requires_grad"] else tensor


def _class(name: str) -> Any:
    """The class `module:Qualified.Name`; only ever one of torch's modules or of this project's."""
    module, _, path = name.partition(":")
    if not name.startswith(_OURS):
        raise NotPlain(f"the class {name}")
    try:
        found: Any = importlib.import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
    except (AttributeError, ImportError) as error:
        raise NotPlain(f"the class {name}") from error
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise NotPlain(f"the class {name}")
    return found


def _empty(name: str) -> nn.Module:
    """An instance without anything in it; its class's own constructor does not run."""
    kind = _class(name)
    module: nn.Module = nn.Module.__new__(kind)
    nn.Module.__init__(module)
    return module


def _written(value: Any, where: str) -> Any:
    """A plain value as JSON; tuples and mappings are marked as such."""
    if value is None or type(value) in (bool, int, float, str):
        return value
    if type(value) is list:
        return [_written(item, where) for item in value]
    if type(value) is tuple:
        return {"tuple": [_written(item, where) for item in value]}
    if type(value) is dict and all(type(key) is str for key in value):
        return {"dict": {key: _written(item, where) for key, item in value.items()}}
    raise NotPlain(f"{where}, a {type(value).__name__}")


def _value(written: Any) -> Any:
    if isinstance(written, list):
        return [_value(item) for item in written]
    if isinstance(written, dict):
        ((kind, content),) = written.items()
        if kind == "tuple":
            return tuple(_value(item) for item in content)
        return {key: _value(item) for key, item in content.items()}
    return written
