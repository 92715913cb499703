"""Seal an artifact folder into a reproducible TorchServe archive, and check one.

`torch-model-archiver` makes the zip; it is then rewritten with sorted entries, fixed dates
and permissions, a fixed manifest date and no compression (deflate streams differ between
zlib builds), so that one artifact gives one SHA-256 on every machine and at any time.
"""

import ast
import hashlib
import io
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from deploy.archive import alternatives, imports
from deploy.archive.card import Card, check_digests, check_gate, read_card, read_report
from deploy.errors import BadInput, DeployError

logger = logging.getLogger(__name__)

MANIFEST = "MAR-INF/MANIFEST.json"
CONFIG = "model-config.yaml"
CREATED_ON = "01/01/1980 00:00:00"
ZIP_DATE = (1980, 1, 1, 0, 0, 0)
ARCHIVER = "from model_archiver.model_packaging import generate_model_archive as run; run()"
HANDLERS = Path(__file__).resolve().parents[2] / "handlers"


@dataclass(frozen=True)
class Archive:
    """A sealed archive: its path, its model's name and version, size in bytes and SHA-256."""

    path: Path
    name: str
    version: str
    bytes: int
    sha256: str


def seal(
    artifact: Path,
    model_store: Path,
    version: str | None = None,
    force: bool = False,
    handlers: Path = HANDLERS,
    engines: tuple[str, ...] = (),
) -> Archive:
    """Pack the artifact folder into `model_store`/NAME.mar and return the archive.

    Without `version` the version is the first 12 hex digits of the content's digest, so that a
    changed artifact is a new version to TorchServe and an unchanged one is not. `engines` names
    exports to pack too, for the worker to choose from. An existing archive is replaced in one
    step, or left as it was if anything fails. Raises BadInput for a missing or wrong card,
    report, export or file, GateFailed for a missed budget unless `force`, and NotAsReported for
    a file that is not the one its report was measured on.
    """
    card = read_card(artifact)
    report = read_report(artifact)
    if not force:
        check_gate(report, artifact)
    contents = _contents(card, handlers, engines, force)
    check_digests(report, contents, artifact)
    for name, data in sorted(contents.items()):
        logger.debug("packs %s, %d bytes", name, len(data))
    version = version or content_version(contents)
    if not version.strip() or "/" in version:
        raise BadInput(f"version {version!r} must be a non-empty string without '/'")
    model_store.mkdir(parents=True, exist_ok=True)
    final = model_store / f"{card.name}.mar"
    # Hidden and without the suffix: `--models all` must never pick up a half-written archive.
    aside = model_store / f".{card.name}.mar.{os.getpid()}"
    try:
        with tempfile.TemporaryDirectory(prefix="marpress-seal-") as scratch:
            raw = _run_archiver(card, version, contents, Path(scratch))
            _rewrite(raw, aside)
        sealed = verify(aside)
        aside.replace(final)
    finally:
        aside.unlink(missing_ok=True)
    return Archive(final, sealed.name, sealed.version, sealed.bytes, sealed.sha256)


def is_stale(
    artifact: Path,
    archive: Path,
    handlers: Path = HANDLERS,
    engines: tuple[str, ...] = (),
) -> bool:
    """Whether `archive` is missing, broken or differs from what `seal` would write now."""
    try:
        verify(archive)
    except DeployError:
        return True
    with zipfile.ZipFile(archive) as packed:
        packed_contents = {n: packed.read(n) for n in packed.namelist() if n != MANIFEST}
    contents = _contents(read_card(artifact), handlers, engines, force=True)
    return _digest(packed_contents) != _digest(contents)


def verify(archive: Path) -> Archive:
    """Check an archive's structure without loading any of it into Python.

    It must be an intact zip of plain relative paths, with a manifest that names a handler entry,
    a model file and a config that are all inside, a card and a report, and laid out exactly as
    `seal` does: Python reads a zip from its directory at the end and TorchServe from its start,
    so that a forged file could show each of them something else. Raises BadInput.
    """
    try:
        with zipfile.ZipFile(archive) as packed:
            broken = packed.testzip()
            if broken is not None:
                raise BadInput(f"{archive} is damaged at {broken}: build it again")
            names = packed.namelist()
            for entry in names:
                _check_entry(archive, entry)
            manifest = _json_entry(archive, packed, MANIFEST)
            _json_entry(archive, packed, "model.json")
            _json_entry(archive, packed, "report.json")
    except FileNotFoundError:
        raise BadInput(f"no archive at {archive}: run ./build_mar.sh {archive.stem}") from None
    except (OSError, zipfile.BadZipFile) as error:
        raise BadInput(f"{archive} is not a readable archive: {error}") from error
    model = manifest.get("model")
    if not isinstance(model, dict) or not model.get("modelName") or not model.get("modelVersion"):
        raise BadInput(f"{archive}: {MANIFEST} names no model and version")
    for key in ("handler", "serializedFile", "configFile"):
        if model.get(key) not in names:
            raise BadInput(f"{archive}: {MANIFEST} names {key} {model.get(key)!r}, not inside")
    data = archive.read_bytes()
    with zipfile.ZipFile(archive) as packed:
        canonical = _pack({name: packed.read(name) for name in names})
    if data != canonical:
        raise BadInput(f"{archive} is not laid out as build_mar.sh does it: build it again")
    return Archive(
        path=archive,
        name=str(model["modelName"]),
        version=str(model["modelVersion"]),
        bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
    )


def content_version(contents: dict[str, bytes]) -> str:
    """An archive's default version: the first 12 hex digits of its content's digest."""
    return _digest(contents)[:12]


def _digest(contents: dict[str, bytes]) -> str:
    total = hashlib.sha256()
    for name in sorted(contents):
        total.update(f"{hashlib.sha256(contents[name]).hexdigest()}  {name}\n".encode())
    return total.hexdigest()


def _contents(
    card: Card, handlers: Path, engines: tuple[str, ...], force: bool
) -> dict[str, bytes]:
    """Everything that goes into the archive but the manifest: entry name -> bytes."""
    module = f"{card.handler}.py"
    source = handlers / module
    files = {card.model_file, "model.json", "report.json", *card.files}
    if module in files and not source.is_file():
        # A task of a user's own brings its handler among the artifact's files.
        source = card.folder / module
        files.remove(module)
    contents = {module: _entry_point(source, handlers), CONFIG: _model_config(card)}
    for path in imports.closure(handlers, source):
        contents[f"handlers/{path.relative_to(handlers).as_posix()}"] = path.read_bytes()
    contents[f"handlers/{module}"] = source.read_bytes()
    for name in files:
        if name in contents or name == MANIFEST:
            raise BadInput(f"{card.folder / name} has the name of a file that the archive adds")
        contents[name] = (card.folder / name).read_bytes()
    if engines:
        alternatives.extend(contents, card.folder, engines, force)
    return contents


def _entry_point(source: Path, handlers: Path) -> bytes:
    """Write the module that TorchServe loads: it subclasses the handler and adds only a path.

    A worker's PYTHONPATH is the shell's followed by the archive, so a `handlers` folder on the
    shell's path (a checkout of this repository, say) would win over the archive's own.
    """
    handler = source.stem
    if not source.is_file():
        known = sorted(p.stem for p in handlers.glob("*.py") if p.stem not in {"__init__", "base"})
        raise BadInput(f"no handler {source}: the card's handler may be one of {', '.join(known)}")
    class_name = "".join(part.capitalize() for part in handler.split("_"))
    classes = [n.name for n in imports.parse(source).body if isinstance(n, ast.ClassDef)]
    if class_name not in classes:
        raise BadInput(f"{source} must define class {class_name}; it defines {classes}")
    return (
        f'"""TorchServe loads this module: handlers/{handler}.py from this archive."""\n\n'
        "import sys\n"
        "from pathlib import Path\n\n"
        "# The shell's PYTHONPATH precedes the archive's: make the archive's own copy win.\n"
        "sys.path.insert(0, str(Path(__file__).resolve().parent))\n\n"
        "try:\n"
        f"    from handlers import {handler}\n"
        "except ImportError as error:\n"
        "    # TorchServe takes an ImportError for 'no such file' and reports another one.\n"
        f'    raise RuntimeError(f"handlers/{handler}.py does not import: {{error}}") from error\n'
        "\n\n"
        f"class {class_name}({handler}.{class_name}):\n"
        '    """The one class that TorchServe looks for."""\n'
    ).encode()


def _model_config(card: Card) -> bytes:
    serving = card.serving
    return (
        f"minWorkers: {serving.workers}\n"
        f"maxWorkers: {serving.workers}\n"
        f"batchSize: {serving.batch_size}\n"
        f"maxBatchDelay: {serving.max_batch_delay_ms}\n"
        f"responseTimeout: {serving.response_timeout_s}\n"
        f"startupTimeout: {serving.startup_timeout_s}\n"
    ).encode()


def _run_archiver(card: Card, version: str, contents: dict[str, bytes], scratch: Path) -> Path:
    """Run torch-model-archiver over staged copies and return the archive it wrote."""
    stage, out, tmp = (scratch / name for name in ("stage", "out", "tmp"))
    for folder in (stage, out, tmp):
        folder.mkdir()
    for name, data in contents.items():
        target = stage / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    # These three have arguments of their own; the rest of the folder travels as extra files.
    named = scratch / "named"
    named.mkdir()
    entry = f"{card.handler}.py"
    for name in (entry, CONFIG, card.model_file):
        shutil.move(stage / name, named / PurePosixPath(name).name)
    command = [
        *(sys.executable, "-c", ARCHIVER),
        *("--model-name", card.name, "--version", version),
        *("--handler", str(named / entry)),
        *("--serialized-file", str(named / PurePosixPath(card.model_file).name)),
        *("--config-file", str(named / CONFIG)),
        *("--extra-files", str(stage), "--export-path", str(out)),
        *("--archive-format", "zip-store"),
    ]
    # The archiver deletes $TMPDIR/NAME before it starts: give it a TMPDIR of its own.
    done = subprocess.run(
        command, env={**os.environ, "TMPDIR": str(tmp)}, capture_output=True, text=True, check=False
    )
    archive = out / f"{card.name}.mar"
    if done.returncode != 0 or not archive.is_file():
        if "No module named 'model_archiver'" in done.stderr:
            raise BadInput(
                f"{sys.executable} has no torch-model-archiver: "
                "run `make setup`, or activate the environment that has it"
            )
        raise DeployError(f"torch-model-archiver failed:\n{done.stderr.strip()}")
    return archive


def _rewrite(raw: Path, target: Path) -> None:
    with zipfile.ZipFile(raw) as source:
        entries = {name: source.read(name) for name in source.namelist()}
    manifest = {**json.loads(entries[MANIFEST]), "createdOn": CREATED_ON}
    entries[MANIFEST] = (json.dumps(manifest, indent=2) + "\n").encode()
    target.write_bytes(_pack(entries))


def _pack(entries: dict[str, bytes]) -> bytes:
    """The bytes of the canonical zip of these entries."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as sink:
        # The manifest comes first, so that a reader finds it without scanning the model.
        for name in sorted(entries, key=lambda n: (n != MANIFEST, n)):
            info = zipfile.ZipInfo(name, ZIP_DATE)
            info.create_system = 3
            info.external_attr = 0o100644 << 16
            sink.writestr(info, entries[name], zipfile.ZIP_STORED)
    return buffer.getvalue()


def _check_entry(archive: Path, name: str) -> None:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name:
        raise BadInput(f"{archive} holds the unsafe path {name!r}: do not serve it")


def _json_entry(archive: Path, packed: zipfile.ZipFile, name: str) -> dict[str, Any]:
    try:
        value = json.loads(packed.read(name))
    except KeyError:
        raise BadInput(f"{archive} holds no {name}: build it with build_mar.sh") from None
    except ValueError as error:
        raise BadInput(f"{archive}: {name} is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise BadInput(f"{archive}: {name} must hold a JSON object")
    return value
