"""What marks an archive as adopted: made by others, scanned, and not measured."""

import json
import zipfile
from pathlib import Path
from typing import Any

from handlers.seal import LIST, MANIFEST

MARK = "MAR-INF/ADOPTED.json"
STATUS = "adopted, not measured"
_TAIL = 2**20  # bytes at the end of a zip, which hold the names of a small one


def read(path: Path) -> dict[str, Any] | None:
    """What was noted when a verified archive was adopted; None for one that was measured."""
    with zipfile.ZipFile(path) as packed:
        if MARK not in packed.namelist():
            return None
        value = json.loads(packed.read(MARK))
    return value if isinstance(value, dict) else {}


def is_marked(path: Path) -> bool:
    """Whether a file is an adopted archive; it need not be whole, nor there."""
    try:
        with zipfile.ZipFile(path) as packed:
            return MARK in packed.namelist()
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile):
        return False


def is_foreign(path: Path) -> bool:
    """Whether a file is an archive that was neither built by this program nor adopted."""
    try:
        with path.open("rb") as file:
            begin = file.read(4)
            file.seek(max(0, file.seek(0, 2) - _TAIL))
            tail = file.read()
    except OSError:
        return False
    ours = LIST.encode() in tail or b"report.json" in tail
    return begin == b"PK\x03\x04" and MANIFEST.encode() in tail and not ours
