"""Loads any handler by TorchServe's rules, and answers batches through it.

One process runs one archive: the archive's folder comes first on Python's path, where TorchServe's
worker puts it too, and stays there.
"""

import importlib
import json
import logging
import os
import sys
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from deploy.archive import adopted
from deploy.compat import names, results
from deploy.compat.context import Context, Replies
from deploy.compat.metrics import MetricsStore, Sink, discard
from deploy.compat.util import get_yaml_config, list_classes_from_module
from deploy.compat.version import __version__

logger = logging.getLogger(__name__)

DEFAULT_FUNCTION = "handle"
Row = dict[str, Any]


class Unloadable(Exception):
    """The handler does not load; the message says why."""


class Handler:
    """A handler that is loaded; used by one thread at a time."""

    def __init__(self, entry_point: Callable[..., Any], context: Context) -> None:
        self._entry_point = entry_point
        self._context = context

    def _description(self, data: list[Row]) -> bytes:
        """What the service tells of the model: where it came from, and its handler's own words.

        Many handlers have none, and take the question for a request that they cannot read.
        """
        try:
            words = results.encoded(self._entry_point(data, self._context)[0])
            said = json.loads(words)
        except Exception:
            said = None
        return json.dumps({"evidence": adopted.STATUS, "description": said}).encode()

    def close(self) -> None:
        """Let go of the model; the handler's modules stay with the process."""
        del self._entry_point, self._context

    def answer(self, rows: Sequence[Row], replies: Replies) -> list[bytes]:
        """A batch's answers, by TorchServe's rules.

        The rows hold bytes; JSON and text reach the handler decoded, as from TorchServe. What is
        no list, has another length or cannot be sent fails the whole batch. Raises what the handler
        raises on several requests, so that each can be tried alone.
        """
        count = len(rows)
        ids = {index: str(uuid.uuid4()) for index in range(count)}
        self._context.begin(replies, ids)
        data = [_decoded(row, headers) for row, headers in zip(rows, replies.headers, strict=True)]
        try:
            if count and replies.headers[0].get("describe") == "True":
                return [self._description(data)]
            answers = self._entry_point(data, self._context)
            if not isinstance(answers, list):
                logger.warning("the handler returned %s, no list", type(answers).__name__)
                return _failed(replies, count, 503, "Invalid model predict output")
            if len(answers) != count:
                logger.warning("the handler gave %d answers for %d requests", len(answers), count)
                return _failed(replies, count, 503, "number of batch response mismatched")
            bodies = [results.encoded(answer) for answer in answers]
            for index, answer in enumerate(answers):
                replies.set_response_content_type(index, results.content_type(answer))
        except results.Unserializable:
            logger.exception("the handler's answer cannot be sent")
            return _failed(replies, count, 503, "Unsupported model output data type.")
        except MemoryError as error:
            logger.exception("the handler ran out of memory")
            if count > 1:
                raise RuntimeError("out of memory on a batch") from error
            return _failed(replies, count, 507, "Out of resources")
        except Exception as error:
            # PredictionException, of the installed package or ours.
            if hasattr(error, "error_code") and hasattr(error, "message"):
                logger.warning("the handler refused a batch: %s", error)
                return _failed(replies, count, int(error.error_code), str(error.message))
            if count > 1:
                raise
            logger.exception("the handler failed on a request")
            return _failed(replies, count, 503, "Prediction failed")
        self._context.end()
        return bodies


def load(
    folder: Path,
    batch_size: int = 1,
    sink: Sink = discard,
    packages: Path | None = None,
    gpu: int | None = None,
) -> Handler:
    """Import the handler that the unpacked archive names and have it load its model.

    Args:
        folder: the archive's content; becomes the first place where modules are found.
        batch_size: told to the handler.
        sink: takes the handler's metrics.
        packages: a folder of packages that its requirements.txt asked for.

    Raises:
        Unloadable: with the handler's own reason.
    """
    for place in (packages, folder):
        if place is not None:
            sys.path.insert(0, str(place))
    _forget_namesakes(folder)
    names.provide()
    manifest = json.loads((folder / "MAR-INF" / "MANIFEST.json").read_text(encoding="utf-8"))
    described = manifest["model"]
    context = Context(
        model_name=described["modelName"],
        model_dir=str(folder),
        manifest=manifest,
        batch_size=batch_size,
        gpu=gpu,
        mms_version=__version__,
        metrics=MetricsStore(model_name=described["modelName"], sink=sink),
        model_yaml_config=_settings(folder, described.get("configFile")),
    )
    context.metrics.set_request_ids(str(uuid.uuid4()))
    # TorchServe's worker runs in the archive's folder: handlers open files by relative paths.
    os.chdir(folder)
    try:
        module, function = _module(described["handler"])
        entry_point, initialize = _entry_point(module, function)
        initialize(context)
    except Exception as error:
        logger.exception("the handler does not load")
        raise Unloadable(f"{type(error).__name__}: {error}") from error
    return Handler(entry_point, context)


def _forget_namesakes(folder: Path) -> None:
    """Have the archive's own modules found where this process holds others of the same name."""
    own = {path.stem for path in folder.glob("*.py")}
    own |= {path.parent.name for path in folder.glob("*/*.py")}
    own -= {*sys.stdlib_module_names, "deploy", "torch", "numpy", "ts"}
    for name in [n for n in sys.modules if n.partition(".")[0] in own]:
        del sys.modules[name]


def _module(handler: str) -> tuple[ModuleType, str]:
    """The module and function that `module.py:function` or a default handler's name means."""
    name, _, function = handler.partition(":")
    name = name.removesuffix(".py").rpartition("/")[2]
    try:
        return importlib.import_module(name), function or DEFAULT_FUNCTION
    except ModuleNotFoundError as error:
        if error.name != name:  # it is there, and what it imports is not
            raise
    target = f"ts.torch_handler.{name}"
    # Under its own name: only then are its classes known as the module's own.
    return importlib.import_module(names.TS.get(target, target) if _ours() else target), (
        function or DEFAULT_FUNCTION
    )


def _ours() -> bool:
    """Whether `ts` in this process is our stand-in."""
    return any(
        type(finder).__module__ == names.__name__ for finder in sys.meta_path
    ) and not hasattr(sys.modules.get("ts"), "__file__")


def _entry_point(
    module: ModuleType, function: str
) -> tuple[Callable[..., Any], Callable[[Any], Any]]:
    """What answers batches, and what prepares it: a function, called first without data, or the
    module's one class."""
    found = getattr(module, function, None)
    if found is not None:
        return found, lambda context: found(None, context)
    classes = list_classes_from_module(module)
    if len(classes) != 1:
        named = ", ".join(cls.__name__ for cls in classes) or "none"
        raise ValueError(
            f"{module.__name__} must define a function {function} or one class, and defines {named}"
        )
    service: Any = classes[0]()
    if not hasattr(service, "handle"):
        raise ValueError(f"the class {classes[0].__name__} has no method handle")
    return service.handle, service.initialize


def _settings(folder: Path, name: str | None) -> dict[str, Any]:
    return get_yaml_config(folder / name) if name and (folder / name).is_file() else {}


def _decoded(row: Row, headers: Any) -> Row:
    """A request's parts as TorchServe's worker hands them on: JSON and text decoded."""
    decoded = {}
    for name, value in row.items():
        described = headers.get(name)
        kind = described.get("content-type", "") if isinstance(described, dict) else ""
        decoded[name] = _part(value, kind)
    return decoded


def _part(value: Any, kind: str) -> Any:
    if not isinstance(value, bytes | bytearray):
        return value
    if os.environ.get("TS_DECODE_INPUT_REQUEST", "true") == "true":
        try:
            if kind == "application/json":
                return json.loads(value.decode())
            if kind.startswith("text"):
                return value.decode()
        except (ValueError, RecursionError):
            logger.warning("a part of a request is not the %s it is said to be", kind)
    return bytearray(value)


def _failed(replies: Replies, count: int, status: int, message: str) -> list[bytes]:
    """The same failure for every request of the batch, spelled as TorchServe's front end does."""
    body = {"code": status, "type": "InternalServerException", "message": message}
    for index in range(count):
        replies.set_response_status(status, "", index)
        replies.set_response_content_type(index, "application/json")
    return [(json.dumps(body, indent=2, ensure_ascii=False) + "\n").encode()] * count
