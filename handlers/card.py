"""The model card, `model.json`: what an archive says about its model."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from handlers.errors import ModelError

CARD_FILE = "model.json"
EVIDENCE = ("report", "statement", "bom")
MOST = 1024  # of batch sizes and threads


@dataclass(frozen=True)
class Card:
    """`model.json`, checked. `model`, `input` and `serving` keep their JSON form."""

    name: str
    task: str
    labels: list[str]
    model: dict[str, Any]
    input: dict[str, Any]
    serving: dict[str, Any] = field(default_factory=dict)

    def number(self, section: str, key: str, default: float) -> float:
        """A positive number of `input` or `serving`; ModelError where it is none."""
        entries: dict[str, Any] = getattr(self, section)
        value = entries.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            raise ModelError(f"{CARD_FILE}: {section}.{key} must be a positive number")
        return value

    @property
    def threads(self) -> int:
        """Intra-op threads of one worker."""
        return int(self.model.get("threads", 1))

    @property
    def batch_sizes(self) -> list[int]:
        """Batch sizes to warm up, ascending, at least [1]."""
        return sorted({int(n) for n in self.model.get("batch_sizes", [1])} | {1})

    @property
    def alternatives(self) -> list[str]:
        """The same network's files for other runtimes, see `handlers.runtimes`."""
        return list(self.model.get("alternatives", []))


def read_json(path: Path) -> Any:
    """A JSON file's content; ModelError naming the file when it is missing or broken."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(f"{path} is missing: rebuild the archive with build_mar.sh") from error
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read as JSON: {error}") from error


def read_card(folder: Path) -> Card:
    """Read and check `folder/model.json`; ModelError says which entry is wrong."""
    path = folder / CARD_FILE
    raw = read_json(path)
    if not isinstance(raw, dict):
        raise ModelError(f"{path}: expected a JSON object")
    for key, kind in (("name", str), ("task", str), ("model", dict), ("input", dict)):
        if not isinstance(raw.get(key), kind):
            raise ModelError(f"{path}: {key!r} must be a JSON {kind.__name__}")
    labels = raw.get("labels", [])
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise ModelError(f"{path}: 'labels' must be a list of strings")
    if not isinstance(raw["model"].get("file"), str):
        raise ModelError(f"{path}: 'model.file' must name the model's file")
    others = raw["model"].get("alternatives", [])
    if not isinstance(others, list) or not all(isinstance(file, str) for file in others):
        raise ModelError(f"{path}: 'model.alternatives' must be a list of file names")
    sizes = raw["model"].get("batch_sizes", [1])
    if not isinstance(sizes, list) or not all(_is_count(size) for size in sizes):
        raise ModelError(f"{path}: 'model.batch_sizes' must be a list of sizes, 1 to {MOST}")
    if not _is_count(raw["model"].get("threads", 1)):
        raise ModelError(f"{path}: 'model.threads' must be a whole number, 1 to {MOST}")
    serving = raw.get("serving")
    return Card(
        name=raw["name"],
        task=raw["task"],
        labels=labels,
        model=raw["model"],
        input=raw["input"],
        serving=serving if isinstance(serving, dict) else {},
    )


def _is_count(value: Any) -> bool:
    return type(value) is int and 1 <= value <= MOST


def read_evidence(folder: Path) -> dict[str, Any]:
    """The report, the statement of in-toto and the CycloneDX bill of materials that an archive
    carries, None for one that it does not."""
    paths = {name: folder / f"{name}.json" for name in EVIDENCE}
    return {name: read_json(path) if path.is_file() else None for name, path in paths.items()}
