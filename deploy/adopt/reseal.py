"""An unpacked archive sealed again: the same files in this project's layout, and a mark."""

import json
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from deploy.adopt.manifest import Manifest
from deploy.adopt.scan import Finding
from deploy.adopt.source import Source
from deploy.archive import adopted, layout, store
from deploy.archive.verify import Archive, verify
from deploy.errors import BadInput
from handlers import seal

MAX_BYTES = 8 * 2**30  # the layout is made in memory


def reseal(
    folder: Path,
    names: list[str],
    manifest: Manifest,
    source: Source,
    findings: list[Finding],
    requirements: list[str],
    model_store: Path,
    allow_ops: Collection[str] = (),
) -> Archive:
    """Write `model_store`/NAME.mar; what was in use there stays beside as NAME-VERSION.mar.

    The entries are the archive's own, unchanged, so that stock TorchServe serves it as before;
    the mark says where they came from and what the scan found. Raises BadInput.
    """
    total = sum((folder / name).stat().st_size for name in names)
    if total > MAX_BYTES:
        raise BadInput(f"{source.name} holds {total} bytes: {MAX_BYTES} at most are adopted")
    entries = {
        name: (folder / name).read_bytes() for name in names if not name.startswith("MAR-INF/")
    }
    entries[seal.MANIFEST] = _json(manifest.raw)
    entries[adopted.MARK] = _json(
        {
            "status": adopted.STATUS,
            "from": {"file": source.name, "format": source.format, "sha256": source.sha256},
            "requirements": requirements,
            "findings": [found.as_dict() for found in findings],
        }
    )
    model_store.mkdir(parents=True, exist_ok=True)
    aside = store.aside(model_store, manifest.name)
    try:
        aside.write_bytes(layout.pack(entries))
        sealed = verify(aside, allow_ops)
        final = store.current(model_store, sealed.name)
        store.keep_signature(model_store, sealed)
        store.keep_previous(model_store, sealed)
        store.publish(aside, final)
        return replace(sealed, path=final)
    finally:
        aside.unlink(missing_ok=True)


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()
