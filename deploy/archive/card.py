"""The artifact folder as `deploy` sees it: the model card, the report and the files to pack."""

import json
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from deploy.errors import BadInput, GateFailed
from handlers import binding, cores

# torch-model-archiver's own rule; TorchServe turns other names into paths and URLs.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_\-.]*")
MAX_WORKERS = 64
WORKERS_PER_CORE = 4
DAY = 86_400
HANDLER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class Serving:
    """How TorchServe runs a model; delay in milliseconds, timeouts in seconds.

    With a delay of 0 no request waits for another, and a batch holds two at most.
    """

    workers: int
    batch_size: int
    max_batch_delay_ms: int
    response_timeout_s: int
    startup_timeout_s: int


@dataclass(frozen=True)
class Card:
    """The fields of model.json that packing and serving need."""

    folder: Path
    name: str
    handler: str
    model_file: str
    serving: Serving
    files: tuple[str, ...]
    alternatives: tuple[str, ...] = ()


def read_card(folder: Path) -> Card:
    """Read and check `folder`/model.json and the files it names.

    Raises BadInput, naming the file, the field and what was expected.
    """
    path = folder / "model.json"
    if not folder.is_dir():
        raise BadInput(
            f"no artifact at {folder}: make it with "
            f"`python -m optimize run recipes/{folder.name}.yaml`"
        )
    card = _read_json(path, "the model card that `python -m optimize run` writes")
    name = _text(card, "name", path)
    if not NAME.fullmatch(name):
        raise BadInput(
            f"{path}: name {name!r} must be letters, digits, '_', '-' and '.', "
            "starting with a letter or a digit"
        )
    handler = _text(card, "handler", path)
    if not HANDLER.fullmatch(handler):
        raise BadInput(f"{path}: handler {handler!r} must be the name of a module in handlers/")
    model = _section(card, "model", path)
    model_file = _inside(folder, _text(model, "file", path, "model."), path)
    if "/" in model_file:
        raise BadInput(f"{path}: model.file {model_file!r} must lie in the folder itself")
    files, others = card.get("files", []), model.get("alternatives", [])
    for key, names in (("files", files), ("model.alternatives", others)):
        if not isinstance(names, list) or not all(isinstance(f, str) for f in names):
            raise BadInput(f"{path}: {key} must be a list of file names")
    return Card(
        folder=folder,
        name=name,
        handler=handler,
        model_file=model_file,
        serving=_read_serving(_section(card, "serving", path), path),
        files=tuple(sorted({_inside(folder, f, path) for f in [*files, *_whole(others)]})),
        alternatives=tuple(others),
    )


def _whole(alternatives: list[str]) -> list[str]:
    """Model files with the weights beside them: OpenVINO's .xml has a .bin."""
    weights = [f"{file[:-4]}.bin" for file in alternatives if file.endswith(".xml")]
    return [*alternatives, *weights]


def check_workers(workers: int, name: str) -> None:
    """Refuse more workers than this machine has a use for. Raises BadInput."""
    count = cores.usable()
    most = min(MAX_WORKERS, WORKERS_PER_CORE * count)
    if workers > most:
        raise BadInput(
            f"{name} asks for {workers} workers; with {count} cores it may have {most}: "
            "write fewer into serving.workers of its card"
        )


def read_report(folder: Path) -> dict[str, Any]:
    """Read `folder`/report.json. Raises BadInput when it is missing or no JSON object."""
    return _read_json(folder / "report.json", "the evidence that `python -m optimize run` writes")


def check_gate(report: dict[str, Any], folder: Path) -> None:
    """Raise GateFailed unless the report, of these files, says that the model met its budget."""
    gate = report.get("gate")
    passed = isinstance(gate, dict) and gate.get("passed") is True
    if passed and binding.is_bound(report):
        return
    if passed:
        why = "its report.json was written by hand and names no files"
    elif isinstance(gate, dict) and isinstance(gate.get("reason"), str):
        why = f"its gate failed: {gate['reason']}"
    elif isinstance(gate, dict) and {"metric", "drop", "max_drop"} <= gate.keys():
        why = (
            f"its gate failed: {gate['metric']} dropped by {gate['drop']} "
            f"where {gate['max_drop']} is allowed"
        )
    else:
        why = "its report.json holds no passed gate"
    raise GateFailed(
        f"{folder} is not archived: {why}. Change the recipe and run it again, "
        "or pass --force to archive it all the same"
    )


def _read_json(path: Path, what: str) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadInput(f"{path} is missing: it is {what}") from None
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise BadInput(f"{path} must hold a JSON object, not {type(value).__name__}")
    return value


def _section(card: dict[str, Any], key: str, path: Path) -> dict[str, Any]:
    value = card.get(key)
    if not isinstance(value, dict):
        raise BadInput(f"{path}: {key} must be an object")
    return value


def _text(card: dict[str, Any], key: str, path: Path, prefix: str = "") -> str:
    value = card.get(key)
    if not isinstance(value, str) or not value:
        raise BadInput(f"{path}: {prefix}{key} must be a non-empty string")
    return value


def _read_serving(section: dict[str, Any], path: Path) -> Serving:
    def whole(key: str, most: int, default: int | None = None, least: int = 1) -> int:
        value = section.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise BadInput(f"{path}: serving.{key} must be an integer of at least {least}")
        if value > most:
            raise BadInput(f"{path}: serving.{key} is {value}, {most} at most")
        return value

    return Serving(
        workers=whole("workers", MAX_WORKERS),
        batch_size=whole("batch_size", 1024),
        max_batch_delay_ms=whole("max_batch_delay_ms", 60_000, least=0),
        response_timeout_s=whole("response_timeout_s", DAY),
        startup_timeout_s=whole("startup_timeout_s", DAY, 120),
    )


def _inside(folder: Path, name: str, path: Path) -> str:
    """Check that `name` is a file inside the artifact folder and return it normalised."""
    relative = PurePosixPath(name)
    if relative.is_absolute() or ".." in relative.parts or not relative.parts:
        raise BadInput(f"{path}: {name!r} must be a path inside the artifact folder")
    if not (folder / relative).is_file():
        raise BadInput(f"{folder / relative} is missing: {path.name} names it")
    return str(relative)
