"""Whether files are those that a report was measured on: of an artifact, or of an archive."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deploy.errors import NotAsReported
from deploy.evidence import bom, statement
from handlers import binding, seal

UNBOUND = ("model.json", "report.json", "model-config.yaml", statement.NAME, bom.NAME)
"""Entries of an archive that a report cannot name. The first two are compared by other digests, the
statement with what the report makes it say."""


def check_artifact(
    folder: Path, report: dict[str, Any], card: Mapping[str, Any], packed: Mapping[str, bytes]
) -> None:
    """Compare an artifact with its report before it is sealed.

    Args:
        folder: the artifact's.
        report, card: what its report.json and model.json hold.
        packed: the files of the folder that go into the archive, by path in it.

    Raises:
        NotAsReported: the report or the card was edited, or a file is missing, is not the one
            that the report names, or is not named by it. A report that names nothing, written by
            hand, raises nothing.
    """
    found = {name: hashlib.sha256(data).hexdigest() for name, data in packed.items()}
    for name in binding.named(report).keys() - found.keys():
        path = folder / name
        if path.is_file():
            with path.open("rb") as file:
                found[name] = hashlib.file_digest(file, "sha256").hexdigest()
        elif not name.startswith("exports/"):  # which may be deleted, and made again
            raise NotAsReported(f"{path} is missing, and {folder / 'report.json'} is of it")
    problem = _difference(report, card, found)
    if problem:
        raise NotAsReported(
            f"{folder} is not archived: {problem}. Run the recipe, or export, again"
        )


def check_archive(
    archive: Path,
    report: dict[str, Any],
    card: Mapping[str, Any],
    entries: Mapping[str, seal.File],
    module: str,
) -> None:
    """Compare an archive with the report in it; `module` is its entry. Raises NotAsReported."""
    own = {
        name: file.sha256
        for name, file in entries.items()
        if not name.startswith(("MAR-INF/", "handlers/")) and name != module
    }
    if module in binding.named(report):  # a user's own handler, which moves into handlers/
        own[module] = entries[f"handlers/{module}"].sha256
    problem = _difference(report, card, own)
    if problem:
        raise NotAsReported(f"{archive}: {problem}. Do not serve it")


def check_statement(
    archive: Path,
    report: dict[str, Any],
    entries: Mapping[str, seal.File],
    model_file: str,
    stated: dict[str, Any] | None,
) -> None:
    """Compare an archive's statement, None if it has none, with the report in it.

    Raises NotAsReported; BadInput for a report whose parts are of another shape.
    """
    digests = {name: file.sha256 for name, file in entries.items()}
    if stated != statement.build(report, digests, model_file):
        raise NotAsReported(
            f"{archive}: {statement.NAME} does not say what its report.json says. Do not serve it"
        )


def _difference(
    report: Mapping[str, Any], card: Mapping[str, Any], found: Mapping[str, str]
) -> str | None:
    """What differs from the report, in a clause; None for nothing."""
    if not binding.is_bound(report):
        return None
    if not binding.is_untouched(report):
        return "report.json was edited after the run, or written by an earlier version"
    if binding.card_digest(card) != report.get(binding.CARD):
        return "model.json says other things of the model than when it was measured"
    named = binding.named(report)
    for name in sorted(found.keys() - set(UNBOUND)):
        if name not in named:
            return f"{name} is not named by its report.json"
        if found[name] != named[name]:
            return f"{name} is not the file that its report.json was measured on"
    return None
