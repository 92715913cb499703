"""MAR-INF/MANIFEST.json of anyone's archive, and what of it cannot be taken."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.archive.card import NAME
from deploy.archive.verify import MAX_JSON, check_version
from deploy.errors import BadInput
from handlers import seal

DEFAULT_VERSION = "1.0"  # as the archiver's
FILES = ("serializedFile", "modelFile", "configFile", "requirementsFile")


@dataclass(frozen=True)
class Manifest:
    """What the manifest says; file names are of the archive's top, None where it names none.

    `raw` is the whole of it, the version filled in.
    """

    name: str
    version: str
    handler: str
    serialized_file: str | None
    model_file: str | None
    config_file: str | None
    requirements_file: str | None
    raw: dict[str, Any]


def read(folder: Path, what: str) -> Manifest:
    """The manifest of an unpacked archive; `what` names it in messages.

    Raises BadInput for one that names no handler, a file that is not there, another runtime than
    Python, or that is a workflow's.
    """
    path = folder / seal.MANIFEST
    if not path.is_file():
        raise BadInput(f"{what} holds no {seal.MANIFEST}: it was not made by torch-model-archiver")
    if path.stat().st_size > MAX_JSON:
        raise BadInput(f"{what}: {seal.MANIFEST} is over {MAX_JSON} bytes")
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{what}: {seal.MANIFEST} is no JSON: {error}") from error
    if isinstance(raw, dict) and "workflow" in raw:
        raise BadInput(
            f"{what} is a workflow: adopt the archives of its models one by one, and call them one "
            "after another in a handler or in the client"
        )
    model = raw.get("model") if isinstance(raw, dict) else None
    if not isinstance(model, dict):
        raise BadInput(f"{what}: {seal.MANIFEST} describes no model")
    _check_runtime(str(raw.get("runtime", "python")), what)
    name = _text(model, "modelName", what)
    if name is None or not NAME.fullmatch(name):
        raise BadInput(f"{what}: {name!r} is no model's name: build it again with --model-name")
    version = _text(model, "modelVersion", what) or DEFAULT_VERSION
    check_version(version)
    handler = _text(model, "handler", what)
    if handler is None:
        raise BadInput(f"{what} names no handler: build it again with --handler")
    named = {key: _file(model, key, folder, what) for key in FILES}
    filled = {**raw, "model": {**model, "modelVersion": version}}
    return Manifest(
        name,
        version,
        handler,
        named["serializedFile"],
        named["modelFile"],
        named["configFile"],
        named["requirementsFile"],
        filled,
    )


def _check_runtime(runtime: str, what: str) -> None:
    if runtime.lower() in ("python", "python3"):
        return
    if runtime == "LSP":
        raise BadInput(
            f"{what} is for TorchServe's C++ runtime (LSP): its handler is a compiled library. "
            "Archive its TorchScript model with a Python handler, such as base_handler"
        )
    raise BadInput(
        f"{what} is for the runtime {runtime[:40]!r}: only Python 3 is taken. Bring its handler to "
        "Python 3 and build it again"
    )


def _text(model: dict[str, Any], key: str, what: str) -> str | None:
    value = model.get(key)
    if value is None or value == "":
        return None
    if not isinstance(value, str | int | float) or isinstance(value, bool):
        raise BadInput(f"{what}: {seal.MANIFEST}: {key} must be a string")
    return str(value)


def _file(model: dict[str, Any], key: str, folder: Path, what: str) -> str | None:
    name = _text(model, key, what)
    if name is None:
        return None
    if "/" in name or name in (".", "..") or not (folder / name).is_file():
        raise BadInput(f"{what}: {seal.MANIFEST} names {key} {name[:120]!r}, which is not inside")
    return name
