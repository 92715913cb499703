"""`examples.json`: the held-out samples that the page shows. It stays in the artifact's folder, as
they are the user's data, and never travels in the archive; the report holds its digest alone."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from optimize.errors import EvidenceError
from optimize.evaluation.examples import Example
from optimize.utils import files

NAME = "examples.json"


def write(folder: Path, examples: Sequence[Example]) -> dict[str, Any] | None:
    """Write the file; returns the report's entry, None where there is nothing to show.

    Raises:
        StorageError: the disk is full or the folder cannot be written.
    """
    if not examples:
        return None
    files.write_json(folder / NAME, [dataclasses.asdict(example) for example in examples])
    return {"count": len(examples), "sha256": files.sha256(folder / NAME)}


def read(folder: Path, report: dict[str, Any]) -> list[Example]:
    """The examples of a report; none if it has none, or the file was deleted.

    Raises:
        EvidenceError: the file is not the one that the run wrote.
    """
    entry, path = report.get("examples"), folder / NAME
    if entry is None or not path.is_file():
        return []
    if files.sha256(path) != entry["sha256"]:
        raise EvidenceError(
            f"{path} was edited after the run: delete it for a page without examples, or run the "
            "recipe again"
        )
    return [Example(**example) for example in json.loads(path.read_text(encoding="utf-8"))]
