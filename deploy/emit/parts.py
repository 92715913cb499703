"""What every target needs: the archive, this program's packages, and their versions."""

import importlib.metadata
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import deploy
import handlers
from deploy import scratch
from deploy.adopt import requirements
from deploy.archive import adopted, store
from deploy.archive.verify import verify
from deploy.errors import BadInput
from deploy.service.bundle import Settings, unpack

# What the service imports, and what handlers do; of the second, those that are installed here.
SERVICE = (
    *("torch", "numpy", "pyyaml", "psutil", "requests", "tqdm"),
    *("flask", "uvicorn", "httptools", "prometheus-client"),
)
HANDLERS = ("pillow", "simplejpeg", "tokenizers", "soundfile", "soxr", "av", "onnxruntime")


@dataclass(frozen=True)
class Parts:
    """An archive to emit: its path, model, version and settings, and its own requirements."""

    path: Path
    name: str
    version: str
    settings: Settings
    requirements: tuple[str, ...]
    allow_ops: tuple[str, ...] = ()

    @property
    def file(self) -> str:
        """The archive's name among what is emitted."""
        return f"{self.name}.mar"


def read(named: str, model_store: Path, allow_ops: Sequence[str] = ()) -> Parts:
    """The parts of a model of the store, or of a .mar file. Raises BadInput."""
    path = store.named(model_store, named)
    sealed = verify(path, allow_ops)
    noted = adopted.read(path) or {}
    bundle = unpack(path, allow_ops=allow_ops)
    try:
        settings = bundle.settings
    finally:
        bundle.remove()
    listed = tuple(map(str, noted.get("requirements") or ()))
    return Parts(path, sealed.name, sealed.version, settings, listed, tuple(allow_ops))


def pinned(parts: Parts) -> str:
    """requirements.txt: the versions that are installed here, and the archive's own lines.

    A package has one line, for pip takes no two that differ: the archive's, as `adopt --install`
    does it, but ours for torch and numpy.
    """
    listed = {requirements.package(line): line for line in parts.requirements}
    own = [line for name, line in listed.items() if name not in requirements.OURS]
    wanted = (*SERVICE, *filter(_installed, HANDLERS))
    ours = [name for name in wanted if name in requirements.OURS or name not in listed]
    return "\n".join([*(f"{name}=={_version(name)}" for name in ours), *own]) + "\n"


def copy_code(target: Path) -> None:
    """This program's `deploy` and `handlers` packages, without caches."""
    for package in (deploy, handlers):
        source = Path(str(package.__file__)).parent
        ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
        shutil.copytree(source, target / source.name, ignore=ignored)


def write(folder: Path, files: dict[str, str]) -> None:
    """Write texts below a folder."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def publish(made: Path, output: Path) -> None:
    """Give what was made whole its place. Raises BadInput if something lies there."""
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise BadInput(f"{output} is not empty: choose another --output, or remove it")
    output.parent.mkdir(parents=True, exist_ok=True)
    aside = output.with_name(f".{output.name}.{scratch.PREFIX}")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        shutil.copytree(made, aside)
        if output.exists():
            output.rmdir()
        aside.rename(output)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def serve_arguments(parts: Parts, archive: str, hosts: Sequence[str] = ()) -> list[str]:
    """The command's arguments for a container: every address, since something in front asks for
    keys."""
    found = ["serve-archive", archive, "--host", "0.0.0.0", "--port", "8080", "--no-key"]
    found += ["--workdir", "/tmp"]
    for host in hosts:
        found += ["--allow-host", host]
    if parts.allow_ops:
        found += ["--allow-ops", ",".join(parts.allow_ops)]
    return found


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name).partition("+")[0]
    except importlib.metadata.PackageNotFoundError:
        raise BadInput(f"{name} is not installed here: run `make setup`") from None


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
