"""What an unpacked archive holds that could do more than compute; nothing of it is run."""

import shutil
import subprocess
import sys
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path

from deploy.adopt import pickles
from deploy.adopt.handlers import Handler
from deploy.adopt.manifest import Manifest
from deploy.adopt.source import DAMAGE
from deploy.archive.verify import TORCHSCRIPT
from handlers import operators

FINE, NOTE, REFUSED = "ok", "note", "refused"
LIBRARIES = (".so", ".dll", ".dylib", ".pyd", ".exe")
AUDIT_TIMEOUT = 300  # seconds


@dataclass(frozen=True)
class Finding:
    """One line of the table: the file, what it is, and a verdict: ok, note or refused."""

    file: str
    what: str
    verdict: str

    def as_dict(self) -> dict[str, str]:
        """For JSON."""
        return asdict(self)


def scan(
    folder: Path,
    names: list[str],
    manifest: Manifest,
    handler: Handler,
    allow_ops: Collection[str] = (),
    allow_imports: Collection[str] = (),
) -> list[Finding]:
    """Look at every file of an unpacked archive, in order.

    Args:
        folder, names: where it lies and its files.
        manifest, handler: which files are what.
        allow_ops: operators that its TorchScript may call beyond those that only compute.
        allow_imports: names that its pickles may import although they could do anything.
    """
    found = []
    for name in names:
        if name.startswith("MAR-INF/"):
            continue
        found.append(_look(folder / name, name, manifest, handler, allow_ops, allow_imports))
    audit = _modelaudit(folder)
    return [*found, *([audit] if audit is not None else [])]


def _look(
    path: Path,
    name: str,
    manifest: Manifest,
    handler: Handler,
    allow_ops: Collection[str],
    allow_imports: Collection[str],
) -> Finding:
    suffix = path.suffix.lower()
    if suffix == ".py":
        role = "Python"
        if name == handler.file:
            role = f"Python: the handler, a {handler.kind}"
        elif name == manifest.model_file:
            role = "Python: the model's class"
        return Finding(name, f"{role}; runs with the service's rights", NOTE)
    if suffix in LIBRARIES:
        return Finding(name, "compiled code; runs with the service's rights", NOTE)
    if suffix in TORCHSCRIPT or name == manifest.serialized_file:
        script = _torchscript(path, name, allow_ops)
        if script is not None:
            return script
    return _pickled(path, name, manifest, allow_imports) or Finding(name, _plain(path), FINE)


def _torchscript(path: Path, name: str, allow_ops: Collection[str]) -> Finding | None:
    """None for what is no TorchScript."""
    with path.open("rb") as file:
        try:
            outside = operators.outside(file, allow_ops)
        except operators.NoTorchScript:
            return None
        except operators.UnreadableCode as error:
            with path.open("rb") as again:
                if not again.read(4).startswith(b"PK\x03\x04"):
                    return None
            return Finding(name, f"TorchScript that cannot be looked at: {error}", REFUSED)
        except (*DAMAGE, RuntimeError) as error:
            return Finding(name, f"TorchScript that cannot be looked at: {error}", REFUSED)
    if outside:
        shown = ",".join(found[:60] for found in outside[:20])
        way = f"TorchScript that calls {shown}; if you know what for: --allow-ops {shown}"
        return Finding(name, way, REFUSED)
    return Finding(name, "TorchScript; its operators only compute", FINE)


def _pickled(
    path: Path, name: str, manifest: Manifest, allow_imports: Collection[str]
) -> Finding | None:
    try:
        pickled = pickles.read(path)
    except pickles.Unreadable as error:
        return Finding(name, f"a pickle that cannot be looked at: {error}", REFUSED)
    if pickled is None:
        return None
    dangerous = [found for found in pickled.dangerous if found not in allow_imports]
    if dangerous:
        shown = ",".join(found[:60] for found in dangerous[:20])
        way = f"a pickle that imports {shown}; if you know what for: --allow-imports {shown}"
        return Finding(name, way, REFUSED)
    if pickled.others:
        shown = ", ".join(found[:60] for found in pickled.others[:6])
        more = f" and {len(pickled.others) - 6} more" if len(pickled.others) > 6 else ""
        return Finding(name, f"a pickle; loading it imports {shown}{more}", NOTE)
    kind = "weights" if name == manifest.serialized_file else "a pickle"
    return Finding(name, f"{kind}; imports only what rebuilds tensors and containers", FINE)


def _plain(path: Path) -> str:
    kind = path.suffix.lower().lstrip(".") or "file"
    size = path.stat().st_size
    return f"{kind}, {size} bytes"


def _modelaudit(folder: Path) -> Finding | None:
    """modelaudit's verdict, if its command is installed."""
    command = shutil.which("modelaudit", path=str(Path(sys.executable).parent)) or shutil.which(
        "modelaudit"
    )
    if command is None:
        return None
    try:
        done = subprocess.run(
            [command, "scan", "--quiet", str(folder)],
            capture_output=True,
            text=True,
            timeout=AUDIT_TIMEOUT,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return Finding("modelaudit", f"did not finish: {str(error)[:120]}", NOTE)
    if done.returncode == 0:
        return Finding("modelaudit", "found nothing", FINE)
    if done.returncode == 1:
        lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        return Finding("modelaudit", f"found: {lines[0][:200] if lines else 'issues'}", REFUSED)
    return Finding("modelaudit", f"failed with exit code {done.returncode}", NOTE)
