"""Exports packed beside model.pt as alternatives: which may go in, and under what name.

The worker times them on its own machine and serves from the fastest (`handlers.runtimes`). Each
was checked against the data by `python -m optimize export`, and must stay within the same budget
as the artifact's own file. They take the place of what the artifact's card lists by itself.
"""

import json
from pathlib import Path, PurePosixPath
from typing import Any

from deploy.errors import BadInput, GateFailed

SUFFIXES = (".onnx", ".xml", ".pt2")
NONE = "torchscript"
"""Names no export: model.pt serves alone."""


def extend(contents: dict[str, bytes], artifact: Path, names: tuple[str, ...], force: bool) -> None:
    """Add exports to an archive's contents and list them in its model.json.

    Args:
        contents: entry name -> bytes, with model.json and report.json.
        artifact: the folder whose `exports/` hold the files.
        names: as the report lists them, such as `onnx-int8`; NONE alone for none.
        force: add a file although it misses the budget.

    Raises:
        BadInput: there is no such export, it is of an earlier model, or no worker can run it.
        GateFailed: it loses more than the artifact's budget allows.
    """
    report, card = json.loads(contents["report.json"]), json.loads(contents["model.json"])
    _drop_listed(contents, card)
    files = []
    for name in names if names != (NONE,) else ():
        entry = _entry(report, artifact, name)
        if not force:
            _check_budget(report.get("gate", {}), entry, artifact, name)
        files.append(entry["file"])
        folder = artifact / "exports" / name
        paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        if artifact / entry["file"] not in paths:
            raise BadInput(
                f"{artifact / entry['file']} is missing: {_export_command(artifact, name)}"
            )
        for path in paths:
            contents[path.relative_to(artifact).as_posix()] = path.read_bytes()
    if files:
        card["model"]["alternatives"] = files
    contents["model.json"] = (json.dumps(card, indent=2, ensure_ascii=False) + "\n").encode()


def _drop_listed(contents: dict[str, bytes], card: dict[str, Any]) -> None:
    """Leave out the alternatives that the card lists, with their weights beside them."""
    listed = {PurePosixPath(file).with_suffix("") for file in card["model"].pop("alternatives", [])}
    for name in [n for n in contents if PurePosixPath(n).with_suffix("") in listed]:
        if name != card["model"]["file"]:
            del contents[name]


def _entry(report: dict[str, Any], artifact: Path, name: str) -> dict[str, Any]:
    """The report's entry of one export. Raises BadInput unless a worker can serve it."""
    exports: dict[str, dict[str, Any]] = report.get("exports") or {}
    entry = exports.get(name)
    if entry is None:
        usable = [n for n, e in exports.items() if PurePosixPath(e["file"]).suffix in SUFFIXES]
        there = f"it has {', '.join(usable)}" if usable else "it has none yet"
        raise BadInput(
            f"{artifact} has no export {name!r} ({there}): {_export_command(artifact, name)}"
        )
    if PurePosixPath(entry["file"]).suffix not in SUFFIXES:
        raise BadInput(
            f"a worker cannot run {name!r}; engines are exports of onnx, openvino and aoti"
        )
    if "served_drop" not in entry:
        raise BadInput(
            f"{name!r} was not compared with model.pt, or takes other inputs than model.pt: "
            f"{_export_command(artifact, name)}"
        )
    if entry.get("digest") != report.get("digest"):
        raise BadInput(f"{name!r} is of an earlier model: {_export_command(artifact, name)}")
    return entry


def _check_budget(gate: dict[str, Any], entry: dict[str, Any], artifact: Path, name: str) -> None:
    """Raise GateFailed over budget: an export's drop adds to model.pt's own."""
    drop, most = gate.get("drop", 0.0) + entry["served_drop"], gate.get("max_drop", 0.0)
    if drop > most:
        why = f"{gate.get('metric')} drops by {drop:.4f} in it where {most} is allowed"
    elif entry["agreement"] < gate.get("min_agreement", 0.0):
        why = f"it agrees on {entry['agreement']:.3f} where {gate['min_agreement']} is asked for"
    else:
        return
    raise GateFailed(
        f"{artifact} is not archived with {name!r}: {why}. Leave it out, "
        "or pass --force to archive it all the same"
    )


def _export_command(artifact: Path, name: str) -> str:
    form = name.split("-")[0]
    return f"run `python -m optimize export {artifact} --to {form}`"
