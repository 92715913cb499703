"""An archive's handler: imported, initialised, and called as TorchServe calls it."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Any, Protocol

from deploy.errors import BadInput
from deploy.service import namespace
from deploy.service.bundle import Bundle, content
from deploy.service.context import Context
from deploy.service.row import Row


class Metrics(Protocol):
    """What a handler of ours reports to: `handlers.metrics.Metrics`."""

    def observe(self, name: str, value: float) -> None: ...

    def error(self, status: int, type: str) -> None: ...

    def record(self, kind: str, name: str, value: float, labels: Mapping[str, str]) -> None: ...


@dataclass(frozen=True)
class Entry:
    """A loaded handler.

    `handle(rows, context)` gives a batch's answers, one a row, and says status and content type
    through the context; it may raise anything. `close()` unloads the handler's modules.
    """

    handle: Callable[[Sequence[Row], Context], Sequence[Any]]
    close: Callable[[], None]


def load(bundle: Bundle, metrics: Metrics) -> Entry:
    """Import the handler and load its model. Raises BadInput with the handler's reason."""
    if bundle.adopted:
        return _load_adopted(bundle, metrics)
    folder = content(bundle)
    try:
        module, space = namespace.load(folder, bundle.entry)
    except Exception as error:
        raise BadInput(f"{bundle.url}: {bundle.entry} does not import: {error}") from error
    properties = {
        "model_dir": str(folder),
        "gpu_id": None,
        "batch_size": bundle.settings.batch_size,
        "server_name": "marpress",
        "limit_max_image_pixels": True,
    }
    context = SimpleNamespace(
        model_name=bundle.name, manifest={}, system_properties=properties, metrics=None
    )
    try:
        handler = _handler_class(module, bundle)()
        handler.initialize(context)
    except BadInput:
        raise
    except Exception as error:
        raise BadInput(f"{bundle.url} does not load: {error}") from error
    handler.metrics = metrics
    return Entry(
        handle=lambda rows, context: handler.handle(list(rows), context),
        close=lambda: namespace.forget(space),
    )


def _load_adopted(bundle: Bundle, metrics: Metrics) -> Entry:
    """Anyone's handler, by TorchServe's rules; it keeps this process to itself."""
    from deploy.compat import loader

    try:
        handler = loader.load(
            content(bundle), bundle.settings.batch_size, metrics.record, bundle.packages
        )
    except loader.Unloadable as error:
        raise BadInput(f"{bundle.url} does not load: {error}") from error
    return Entry(handle=handler.answer, close=handler.close)


def _handler_class(module: ModuleType, bundle: Bundle) -> Any:
    """The one class that the entry module defines, as TorchServe chooses it."""
    classes = [
        value
        for _, value in inspect.getmembers(module, inspect.isclass)
        if value.__module__ == module.__name__
    ]
    if len(classes) != 1 or not hasattr(classes[0], "handle"):
        raise BadInput(f"{bundle.url}: {bundle.entry} must define one class with `handle`")
    return classes[0]
