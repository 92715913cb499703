"""Recorded requests: a folder of bodies, with their content types and headers."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from deploy.errors import BadInput
from deploy.torchserve.inference import content_type

HEADERS = ".headers.json"
MAX_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Recorded:
    """One request: where its body came from, the body and its headers."""

    name: str
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)


def read(folder: Path) -> list[Recorded]:
    """The requests of a folder, by name.

    Each file is a body; its content type is its suffix's, unless FILE.headers.json, an object of
    header to value, says another. An artifact's `samples/` is such a folder. Raises BadInput.
    """
    if not folder.is_dir():
        raise BadInput(f"there is no folder {folder}: put recorded request bodies there")
    found = [_one(path) for path in sorted(folder.iterdir()) if _is_body(path)]
    if not found:
        raise BadInput(f"{folder} holds no requests: put a file there for each body")
    return found


def _is_body(path: Path) -> bool:
    other = path.name.endswith(HEADERS) or path.name == "labels.json" or path.name.startswith(".")
    return path.is_file() and not other


def _one(path: Path) -> Recorded:
    if path.stat().st_size > MAX_BYTES:
        raise BadInput(f"{path} is over {MAX_BYTES} bytes")
    headers: dict[str, str] = {}
    beside = path.with_name(path.name + HEADERS)
    if beside.is_file():
        try:
            given = json.loads(beside.read_text(encoding="utf-8"))
            # As they are written: TorchServe's handlers see the names so.
            headers = {str(name): str(value) for name, value in given.items()}
        except (ValueError, AttributeError) as error:
            raise BadInput(f"{beside} must hold a JSON object: header to value") from error
    if "content-type" not in map(str.lower, headers):
        headers["Content-Type"] = content_type(path)
    return Recorded(path.name, path.read_bytes(), headers)
