"""Makes `ts`, torchvision and captum importable in this process where they are not.

The installed package comes first; what is missing is found among the modules of this folder, under
the name by which handlers import it. For a process that runs one archive's handler: it changes
what `import` finds.
"""

import contextlib
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import torch

HERE = "deploy.compat"
TORCHSERVE = "ts"
# Name that handlers import -> module of this folder; "" for a package that only holds others.
TS = {
    "ts": f"{HERE}.version",
    "ts.version": f"{HERE}.version",
    "ts.context": f"{HERE}.context",
    "ts.service": f"{HERE}.streaming",
    "ts.utils": "",
    "ts.utils.util": f"{HERE}.util",
    "ts.handler_utils": "",
    "ts.handler_utils.utils": f"{HERE}.streaming",
    "ts.handler_utils.timer": f"{HERE}.timer",
    "ts.handler_utils.micro_batching": f"{HERE}.micro_batching",
    "ts.protocol": "",
    "ts.protocol.otf_message_handler": f"{HERE}.streaming",
    "ts.metrics": "",
    "ts.metrics.dimension": f"{HERE}.metrics",
    "ts.metrics.metric": f"{HERE}.metrics",
    "ts.metrics.metric_type_enum": f"{HERE}.metrics",
    "ts.metrics.metrics_store": f"{HERE}.metrics",
    "ts.torch_handler": "",
    "ts.torch_handler.base_handler": f"{HERE}.torch_handler.base_handler",
    "ts.torch_handler.vision_handler": f"{HERE}.torch_handler.vision_handler",
    "ts.torch_handler.image_classifier": f"{HERE}.torch_handler.image_classifier",
    "ts.torch_handler.image_segmenter": f"{HERE}.torch_handler.image_segmenter",
    "ts.torch_handler.object_detector": f"{HERE}.torch_handler.object_detector",
}
TORCHVISION = {
    "torchvision": f"{HERE}.version",
    "torchvision.transforms": f"{HERE}.transforms",
}
CAPTUM = {"captum": "", "captum.attr": f"{HERE}.captum"}

_library: torch.library.Library | None = None


def provide() -> dict[str, str]:
    """Make the three packages importable; "installed" or "stand-in" for each."""
    found = {
        "ts": _provided("ts.torch_handler.base_handler", TS),
        "torchvision": _torchvision(),
        "captum": _provided("captum.attr", CAPTUM),
    }
    if found["ts"] == "installed":
        _stream_through_us()
    return found


def absent(name: str) -> bool:
    """Whether a dotted name of one of the packages is neither installed nor among the stand-ins."""
    top = name.partition(".")[0]
    known: Mapping[str, str] = {"ts": TS, "torchvision": TORCHVISION, "captum": CAPTUM}.get(top, {})
    return importlib.util.find_spec(top) is None and name not in known


def _provided(probe: str, table: Mapping[str, str]) -> str:
    try:
        importlib.import_module(probe)
    except Exception:
        _stand_in(table)
        return "stand-in"
    return "installed"


def _torchvision() -> str:
    """torchvision as it is; or without its compiled operators, which another torch built; or ours.

    No transform needs the operators.
    """
    try:
        importlib.import_module("torchvision.transforms")
        return "installed"
    except Exception as error:
        if "operator torchvision::" in str(error):
            _forget("torchvision")
            _declare_operators()
            with contextlib.suppress(Exception):
                importlib.import_module("torchvision.transforms")
                return "installed"
    _stand_in(TORCHVISION)
    return "stand-in"


def _declare_operators() -> None:
    global _library
    if _library is not None:
        return
    _library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        with contextlib.suppress(RuntimeError):  # declared already
            _library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


def _stream_through_us() -> None:
    """TorchServe's own function writes to a socket of its front end; ours to the client."""
    streaming = importlib.import_module(f"{HERE}.streaming")
    for name in ("ts.handler_utils.utils", "ts.protocol.otf_message_handler"):
        module: Any = importlib.import_module(name)
        module.send_intermediate_predict_response = streaming.send_intermediate_predict_response


def _stand_in(table: Mapping[str, str]) -> None:
    _forget(next(iter(table)))
    sys.meta_path.insert(0, _Finder(table))


def _forget(top: str) -> None:
    """Drop a package that was imported by half."""
    for name in [n for n in sys.modules if n == top or n.startswith(f"{top}.")]:
        del sys.modules[name]


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, table: Mapping[str, str]) -> None:
        self._table = table

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in self._table:
            return None
        is_package = any(name.startswith(f"{fullname}.") for name in self._table)
        loader = _Loader(self._table[fullname])
        return importlib.util.spec_from_loader(fullname, loader, is_package=is_package)


class _Loader(importlib.abc.Loader):
    """Gives a name what a module of ours holds; its classes say that module's name."""

    def __init__(self, target: str) -> None:
        self._target = target

    def exec_module(self, module: ModuleType) -> None:
        if self._target:
            found = importlib.import_module(self._target)
            own = {k: v for k, v in vars(found).items() if not k.startswith("__")}
            module.__dict__.update(own, __version__=getattr(found, "__version__", ""))
