"""Seal an artifact folder into a reproducible TorchServe archive.

`torch-model-archiver` makes the zip; it is then rewritten with sorted entries, fixed dates
and permissions, a fixed manifest date and no compression (deflate streams differ between
zlib builds), so that one artifact gives one SHA-256 on every machine and at any time.
"""

import errno
import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from deploy import scratch
from deploy.archive import alternatives, bound, entry, imports, layout, store
from deploy.archive.card import Card, check_gate, read_card, read_report
from deploy.archive.verify import (
    TORCHSCRIPT,
    Archive,
    check_operators,
    check_version,
    verify,
)
from deploy.errors import BadInput, DeployError
from deploy.evidence import bom, statement
from deploy.signing import beside, envelope, signature
from handlers.seal import MANIFEST, is_listed

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

logger = logging.getLogger(__name__)

CONFIG = "model-config.yaml"
CREATED_ON = "01/01/1980 00:00:00"
ARCHIVER = "from model_archiver.model_packaging import generate_model_archive as run; run()"


def seal(
    artifact: Path,
    model_store: Path,
    version: str | None = None,
    force: bool = False,
    handlers: Path = entry.OWN,
    engines: tuple[str, ...] = (),
    allow_ops: Collection[str] = (),
    in_use: bool = True,
    key: "EllipticCurvePrivateKey | None" = None,
) -> Archive:
    """Pack the artifact folder into `model_store`/NAME.mar and return the archive.

    Without `version` the version is the first 12 hex digits of the content's digest, so that a
    changed artifact is a new version to TorchServe and an unchanged one is not. `engines` names
    exports to pack too, for the worker to choose from; `allow_ops` operators that its TorchScript
    may call beyond the allowed ones. An existing archive is replaced in one step and stays beside
    as NAME-VERSION.mar, or is left as it was if anything fails. With `in_use` false it is left in
    any case: the new archive is NAME-VERSION.mar. `key` signs it, in files beside it. Raises
    BadInput for a missing or wrong card, report, export or file, GateFailed for a missed budget
    unless `force`, and NotAsReported for a file that is not the one its report was measured on.
    """
    card = read_card(artifact)
    report = read_report(artifact)
    if not force:
        check_gate(report, artifact)
    contents = _contents(card, handlers, engines, force)
    bound.check_artifact(artifact, report, json.loads(contents["model.json"]), _own(card, contents))
    model = artifact / card.model_file
    if model.suffix in TORCHSCRIPT:
        with model.open("rb") as file:
            check_operators(file, str(model), allow_ops)
    for name, data in sorted(contents.items()):
        logger.debug("packs %s, %d bytes", name, len(data))
    version = version or content_version(contents)
    check_version(version)
    model_store.mkdir(parents=True, exist_ok=True)
    aside = store.aside(model_store, card.name)
    try:
        with scratch.folder("seal") as folder:
            raw = _run_archiver(card, version, contents, folder)
            _rewrite(raw, aside)
        return _published(aside, model_store, allow_ops, in_use, key)
    finally:
        store.remove(aside)


def sign(archive: Path, key: "EllipticCurvePrivateKey") -> None:
    """Sign an archive and the statement inside it, in files beside it. Raises BadInput."""
    with zipfile.ZipFile(archive) as packed:
        inside = statement.NAME in packed.namelist()
        claimed = packed.read(statement.NAME) if inside else None
    if claimed is not None:
        beside.write(beside.statement(archive), envelope.sign(claimed, key))
    signature.sign(archive, beside.signature(archive), key)


def reversioned(archive: Archive, version: str) -> Archive:
    """The same content under another version, beside the archive as NAME-VERSION.mar."""
    folder = archive.path.parent
    aside = store.aside(folder, archive.name)
    with zipfile.ZipFile(archive.path) as packed:
        entries = {name: packed.read(name) for name in packed.namelist()}
    manifest = json.loads(entries[MANIFEST])
    manifest["model"]["modelVersion"] = version
    entries[MANIFEST] = _json(manifest)
    try:
        aside.write_bytes(layout.pack(entries))
        return _published(aside, folder, None, in_use=False)
    finally:
        aside.unlink(missing_ok=True)


def _published(
    aside: Path,
    folder: Path,
    allow_ops: Collection[str] | None,
    in_use: bool,
    key: "EllipticCurvePrivateKey | None" = None,
) -> Archive:
    sealed = verify(aside, allow_ops)
    if key is not None:
        sign(aside, key)
    else:
        store.keep_signature(folder, sealed)
    if in_use:
        final = store.current(folder, sealed.name)
        store.keep_previous(folder, sealed)
    else:
        final = store.versioned(folder, sealed.name, sealed.version)
        store.refuse_other(final, sealed.name)
    store.publish(aside, final)
    return replace(sealed, path=final)


def is_stale(
    artifact: Path,
    archive: Path,
    handlers: Path = entry.OWN,
    engines: tuple[str, ...] = (),
) -> bool:
    """Whether `archive` is missing, broken or differs from what `seal` would write now."""
    try:
        verify(archive, allow_ops=None)
    except DeployError:
        return True
    with zipfile.ZipFile(archive) as packed:
        names = [n for n in packed.namelist() if n != MANIFEST and is_listed(n)]
        packed_contents = {name: packed.read(name) for name in names}
    contents = _contents(read_card(artifact), handlers, engines, force=True)
    return _digest(packed_contents) != _digest(contents)


def _own(card: Card, contents: dict[str, bytes]) -> dict[str, bytes]:
    """The contents that come from the artifact itself."""
    module = f"{card.handler}.py"
    own = {
        name: data
        for name, data in contents.items()
        if not name.startswith("handlers/") and name not in (module, *bound.UNBOUND)
    }
    if module in card.files:  # the entry takes its place, and it moves into handlers/
        own[module] = contents[f"handlers/{module}"]
    return own


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
    contents = {module: entry.make(source, handlers), CONFIG: _model_config(card)}
    for name, path in entry.needed(handlers).items():
        contents[f"handlers/{name}"] = path.read_bytes()
    for path in imports.closure(handlers, source):
        contents[f"handlers/{path.relative_to(handlers).as_posix()}"] = path.read_bytes()
    contents[f"handlers/{module}"] = source.read_bytes()
    for name in files:
        if name in contents or name.startswith("MAR-INF/"):
            raise BadInput(f"{card.folder / name} has the name of a file that the archive adds")
        contents[name] = (card.folder / name).read_bytes()
    if engines:
        alternatives.extend(contents, card.folder, engines, force)
    _add_evidence(contents, card)
    return contents


def _add_evidence(contents: dict[str, bytes], card: Card) -> None:
    """Add what the archive claims, and what it is made of, as others' tools read it."""
    for name in (statement.NAME, bom.NAME):
        if name in contents:
            raise BadInput(f"{card.folder / name} has the name of a file that the archive adds")
    report = json.loads(contents["report.json"])
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()}
    model_file = card.model_file
    claimed = statement.build(report, digests, model_file)
    if claimed is not None:
        contents[statement.NAME] = statement.to_bytes(claimed)
        digests[statement.NAME] = hashlib.sha256(contents[statement.NAME]).hexdigest()
    try:
        contents[bom.NAME] = bom.build(card.name, report, digests, model_file)
    except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
        raise BadInput(
            f"{card.folder / 'report.json'} makes no bill of materials: {error}: run the recipe "
            "again"
        ) from error


def _model_config(card: Card) -> bytes:
    serving = card.serving
    # TorchServe reads 0 in this file as 100 ms: who registers the archive tells it (rollout).
    delay = max(1, serving.max_batch_delay_ms)
    return (
        f"minWorkers: {serving.workers}\n"
        f"maxWorkers: {serving.workers}\n"
        f"batchSize: {serving.batch_size}\n"
        f"maxBatchDelay: {delay}\n"
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
    module = f"{card.handler}.py"
    for name in (module, CONFIG, card.model_file):
        shutil.move(stage / name, named / PurePosixPath(name).name)
    command = [
        *(sys.executable, "-c", ARCHIVER),
        *("--model-name", card.name, "--version", version),
        *("--handler", str(named / module)),
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
        for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            if os.strerror(code) in done.stderr:
                raise OSError(code, os.strerror(code), str(scratch))
        raise DeployError(f"torch-model-archiver failed:\n{done.stderr.strip()}")
    return archive


def _rewrite(raw: Path, target: Path) -> None:
    with zipfile.ZipFile(raw) as source:
        entries = {name: source.read(name) for name in source.namelist()}
    manifest = {**json.loads(entries[MANIFEST]), "createdOn": CREATED_ON}
    entries[MANIFEST] = _json(manifest)
    target.write_bytes(layout.pack(entries))


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()
