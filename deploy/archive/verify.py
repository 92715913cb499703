"""Check an archive without loading any of it: its layout, its parts, its models' operators."""

import json
import stat
import unicodedata
import zipfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from deploy.archive import adopted, bound, layout
from deploy.archive.card import NAME
from deploy.errors import BadInput, NotAsReported
from deploy.evidence import statement
from handlers import operators, seal
from handlers.seal import MANIFEST

MAX_JSON = 4 * 2**20
MAX_VALUES = 200_000  # in one JSON file: each takes up to a hundred bytes of memory
TORCHSCRIPT = (".pt", ".pth", ".jit", ".ts")


@dataclass(frozen=True)
class Archive:
    """A sealed archive: its path, its model's name and version, size in bytes and SHA-256.

    `adopted`: it was made by others; no report says what it is worth.
    """

    path: Path
    name: str
    version: str
    bytes: int
    sha256: str
    adopted: bool = False

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        about = {"path": str(self.path), "model": self.name, "version": self.version}
        return {**about, "bytes": self.bytes, "sha256": self.sha256}


def verify(archive: Path, allow_ops: Collection[str] | None = ()) -> Archive:
    """Check an archive's structure without loading any of it into Python.

    It must be an intact zip of plain relative paths, with a manifest that names a handler entry,
    a model file and a config that are all inside, a card and a report, and laid out exactly as
    `seal` does: Python reads a zip from its directory at the end and TorchServe from its start,
    so that a forged file could show each of them something else. Its TorchScript files may call
    the operators that `handlers.operators` allows, and `allow_ops`; with None they are not looked
    at. Takes a few MB of memory, whatever the file holds. Raises BadInput; NotAsReported
    names the entry that is not the one that was sealed or measured, is missing or is extra.
    """
    refuse_special(archive)
    try:
        with archive.open("rb") as file:
            infos = layout.read(file, archive)
            names = [info.filename for info in infos]
            _check_names(archive, names)
            model = _manifest(archive, file, infos)
            others = adopted.MARK in names
            wanted = (adopted.MARK,) if others else ("model.json", "report.json")
            parts = [_json_entry(archive, file, infos, name) for name in wanted]
            for key in ("handler", "serializedFile", "configFile"):
                if others and (key not in model or key == "handler"):
                    continue  # it may name a function, or none of these files
                if model.get(key) not in names:
                    named = f"{key} {str(model.get(key))[:80]!r}"
                    raise BadInput(f"{archive}: {MANIFEST} names {named}, not inside")
            sha256, found = layout.compare(file, infos, archive)
            _compare_list(archive, file, infos, found)
            if not others:
                card, report = parts
                bound.check_archive(archive, report, card, found, str(model["handler"]))
                told = statement.NAME in names
                stated = _json_entry(archive, file, infos, statement.NAME) if told else None
                bound.check_statement(archive, report, found, str(model["serializedFile"]), stated)
            for info in infos:
                if allow_ops is not None and info.filename.endswith(TORCHSCRIPT):
                    needed = not others and info.filename == model["serializedFile"]
                    with layout.content(file, info) as part:
                        check_operators(part, f"{archive}: {info.filename}", allow_ops, needed)
            size = file.seek(0, 2)
    except FileNotFoundError:
        raise BadInput(f"no archive at {archive}: run ./build_mar.sh {archive.stem}") from None
    except (OSError, zipfile.BadZipFile, NotImplementedError) as error:
        why = f"{str(error)[:200]}{_tar(archive)}"
        raise BadInput(f"{archive} is not a readable archive: {why}") from error
    except BadInput as error:
        if adopted.is_foreign(archive):
            raise BadInput(
                f"{archive} was made by others and is not sealed: run deploy adopt first "
                f"(python -m deploy adopt {archive})"
            ) from error
        raise
    identified = str(model["modelName"]), str(model["modelVersion"])
    return Archive(archive, *identified, size, sha256, others)


def _compare_list(
    archive: Path, file: IO[bytes], infos: list[zipfile.ZipInfo], found: dict[str, seal.File]
) -> None:
    """Raise BadInput, naming the entry, unless the entries are those that the list names."""
    info = next((info for info in infos if info.filename == seal.LIST), None)
    if info is None:
        raise BadInput(f"{archive} holds no {seal.LIST}: build it with build_mar.sh")
    try:
        with layout.content(file, info) as part:
            seal.compare(seal.read(part.read(seal.MAX_LIST + 1)), found)
    except seal.Tampered as error:
        raise NotAsReported(f"{archive}: {error}. Do not serve it") from None


def identity(archive: Path) -> tuple[str, str] | None:
    """An archive's model and version, read from its manifest; None for what is no archive."""
    try:
        refuse_special(archive)
        with archive.open("rb") as file:
            model = _manifest(archive, file, layout.read(file, archive))
    except (OSError, zipfile.BadZipFile, NotImplementedError, BadInput):
        return None
    return str(model["modelName"]), str(model["modelVersion"])


def check_operators(
    file: IO[bytes], what: str, allow_ops: Collection[str], needed: bool = True
) -> None:
    """Refuse a TorchScript file that calls an operator outside the allowed ones.

    `what` says which file it is; one that is not `needed` may be something else than TorchScript,
    for a handler of the user's own. Raises BadInput, naming the operators.
    """
    try:
        found = operators.outside(file, allow_ops)
    except operators.NoTorchScript:
        if not needed:
            return
        raise BadInput(
            f"{what} is no TorchScript file (a state_dict or a pickled module?): "
            "save it with torch.jit.save"
        ) from None
    except operators.UnreadableCode as error:
        raise BadInput(
            f"{what} is not used: {error}. Load it with torch.jit.load where you trust it and "
            "save it with torch.jit.save"
        ) from error
    if found:
        shown = ",".join(name[:80] for name in found[:20])
        raise BadInput(
            f"{what} calls {shown}: operators that may reach files, other processes or the "
            f"terminal. If you know what the model does with them, pass --allow-ops {shown}"
        )


def _check_names(archive: Path, names: list[str]) -> None:
    """Refuse names that lead elsewhere, or that some system takes for the same file."""
    seen: dict[str, str] = {}
    for name in names:
        path = PurePosixPath(name)
        plain = name == str(path) and not path.is_absolute() and ".." not in path.parts
        if not plain or "\\" in name or ":" in name or not name.isprintable():
            raise BadInput(f"{archive} holds the unsafe path {name[:200]!r}: do not serve it")
        folded = unicodedata.normalize("NFKC", name).casefold()
        if folded in seen:
            both = f"{seen[folded][:200]!r} and {name[:200]!r}"
            raise BadInput(f"{archive} holds {both}, one file to some systems: do not serve it")
        seen[folded] = name
    folders = {str(parent) for name in seen for parent in PurePosixPath(name).parents}
    for name in sorted(folders & seen.keys()):
        raise BadInput(f"{archive} holds {seen[name][:200]!r} as file and folder: do not serve it")


def _manifest(archive: Path, file: IO[bytes], infos: list[zipfile.ZipInfo]) -> dict[str, Any]:
    model = _json_entry(archive, file, infos, MANIFEST).get("model")
    if not isinstance(model, dict) or not model.get("modelName") or not model.get("modelVersion"):
        raise BadInput(f"{archive}: {MANIFEST} names no model and version")
    if not NAME.fullmatch(str(model["modelName"])):
        raise BadInput(f"{archive}: the name {str(model['modelName'])[:80]!r} is no model's name")
    check_version(str(model["modelVersion"]))
    return model


def check_version(version: str) -> None:
    """Refuse a version that is no single part of a path or of an address. Raises BadInput."""
    if not version.strip() or "/" in version or version in (".", "..") or len(version) > 100:
        raise BadInput(f"version {version[:100]!r} must be a non-empty string without '/'")


def _json_entry(
    archive: Path, file: IO[bytes], infos: list[zipfile.ZipInfo], name: str
) -> dict[str, Any]:
    info = next((info for info in infos if info.filename == name), None)
    if info is None:
        raise BadInput(f"{archive} holds no {name}: build it with build_mar.sh")
    if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
        raise BadInput(f"{archive} is not laid out as build_mar.sh does it: build it again")
    if info.file_size > MAX_JSON:
        raise BadInput(f"{archive}: {name} takes {info.file_size} bytes, {MAX_JSON} at most")
    try:
        with zipfile.ZipFile(file) as packed:
            data = packed.read(name)
        if sum(map(data.count, (b"[", b"{", b","))) > MAX_VALUES:
            raise BadInput(f"{archive}: {name} holds over {MAX_VALUES} values")
        value = json.loads(data)
    except zipfile.BadZipFile:
        raise NotAsReported(f"{archive} is damaged at {name}: build it again") from None
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{archive}: {name} is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise BadInput(f"{archive}: {name} must hold a JSON object")
    return value


def refuse_special(archive: Path) -> None:
    """Raise BadInput for a pipe or a device: opening a pipe waits for who never writes."""
    try:
        mode = archive.stat().st_mode
    except OSError:
        return  # opening it says more
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise BadInput(f"{archive} is a pipe or a device, and no archive")


def refuse_tar(archive: Path) -> None:
    """Raise BadInput, with what to do, for an archive in the archiver's other format."""
    advice = _tar(archive)
    if advice:
        raise BadInput(f"{archive} is no archive that TorchServe loads{advice}")


def _tar(archive: Path) -> str:
    """What to do about an archive in the archiver's other format."""
    try:
        with archive.open("rb") as file:
            if file.read(2) != b"\x1f\x8b":
                return ""
    except OSError:
        return ""
    return (
        ". It is a gzipped tar, as `torch-model-archiver --archive-format tgz` makes them: "
        f"`python -m deploy adopt {archive}` makes a zip of it"
    )
