"""One request in this process and thread, so that a breakpoint in a handler works."""

from collections.abc import Collection
from pathlib import Path

from deploy.errors import BadInput
from deploy.service import row
from deploy.service.bundle import unpack
from deploy.service.context import Answer
from deploy.service.worker import Records, Worker
from deploy.signing.policy import Policy


def ask(
    path: Path,
    file: Path,
    headers: dict[str, str],
    handlers: Path | None = None,
    allow_ops: Collection[str] = (),
    trust: Policy | None = None,
) -> Answer:
    """Load the archive, send it the file as a raw body and return the handler's answer.

    `handlers` is a folder to use in place of the archive's own: an edit there takes effect at the
    next call, without a new archive. `allow_ops` are operators that its TorchScript may call beyond
    the allowed ones; `trust` says whose archives are loaded. Raises BadInput and Untrusted.
    """
    try:
        body = file.read_bytes()
    except OSError as error:
        raise BadInput(f"{file} cannot be read: {error.strerror}") from error
    bundle = unpack(path, handlers, allow_ops)
    try:
        (trust or Policy()).admit(path, bundle.sha256)
        worker = Worker(bundle, Records())
        try:
            fields, described = row.read(body, headers.items())
            return worker.answer([fields], [described], [None])[0]
        finally:
            worker.close()
    finally:
        bundle.remove()
