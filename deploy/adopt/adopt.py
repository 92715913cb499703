"""From anyone's archive to one of the store: unpack, look, refuse or seal again."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from deploy import scratch
from deploy.adopt import handlers, manifest, requirements, reseal, scan, settings, source
from deploy.adopt.handlers import Handler
from deploy.adopt.manifest import Manifest
from deploy.adopt.scan import REFUSED, Finding
from deploy.adopt.source import Source
from deploy.archive import adopted
from deploy.archive.verify import Archive, verify
from deploy.errors import BadInput, Unsafe
from handlers import seal


@dataclass(frozen=True)
class Adopted:
    """What was adopted: the sealed archive, None where the scan refused it, and what was found.

    `absent` are requirements that are not installed, `packages` the folder they were installed to.
    """

    archive: Archive | None
    source: Source
    manifest: Manifest
    handler: Handler
    findings: list[Finding]
    requirements: list[str]
    absent: list[str]
    packages: Path | None

    def check(self) -> None:
        """Raise Unsafe if the scan refused a file."""
        refused = [found.file for found in self.findings if found.verdict == REFUSED]
        if refused:
            shown = ", ".join(name[:80] for name in refused[:5])
            raise Unsafe(f"{self.source.name} was not adopted, because of {shown}: see the table")


def adopt(
    path: Path,
    store: Path,
    install: bool = False,
    allow_ops: Collection[str] = (),
    allow_imports: Collection[str] = (),
) -> Adopted:
    """Scan an archive and, unless something in it is refused, seal it into the store.

    Args:
        path: .mar, .tar.gz or folder.
        store: the model store.
        install: install its requirements.txt into an environment of its own under the store.
        allow_ops: operators that its TorchScript may call beyond those that only compute.
        allow_imports: names that its pickles may import although they could do anything.

    Raises:
        BadInput: it is no archive of a Python 3 handler; the message says the way out.
        Unsafe: it would write elsewhere, or cannot be looked at.
        Missing: its handler imports what is not installed, or pip could not install its
            requirements.
    """
    with scratch.folder("adopt") as folder:
        inside = folder / "archive"
        inside.mkdir()
        came = source.unpack(path, inside)
        if (inside / adopted.MARK).is_file():
            raise BadInput(f"{path} is adopted already: `python -m deploy serve-archive {path}`")
        if (inside / seal.LIST).is_file():
            verify(path)
            raise BadInput(
                f"{path} is one of this program's own archives: it can be served as it is"
            )
        described = manifest.read(inside, str(path))
        if described.config_file is not None:
            settings.check(inside / described.config_file, str(path))
        handler = handlers.resolve(inside, described.handler, str(path))
        names = source.files(inside)
        listed = _requirements(inside, described)
        findings = scan.scan(inside, names, described, handler, allow_ops, allow_imports)
        installed = requirements.packages(store, listed) if listed else None
        absent = [] if installed else requirements.absent(listed)
        if install and listed and installed is None:
            installed, absent = requirements.install(store, listed), []
        if installed is None:
            handlers.check_missing(handler, set(listed), str(path))
        result = Adopted(None, came, described, handler, findings, listed, absent, installed)
        if any(found.verdict == REFUSED for found in findings):
            return result
        sealed = reseal.reseal(inside, names, described, came, findings, listed, store, allow_ops)
        return Adopted(sealed, came, described, handler, findings, listed, absent, installed)


def _requirements(folder: Path, described: Manifest) -> list[str]:
    name = described.requirements_file
    return requirements.listed(folder / name) if name is not None else []
