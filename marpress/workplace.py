"""The files of the repository's root that a working folder needs, for users of a wheel."""

from importlib import resources
from pathlib import Path

import deploy.torchserve
from optimize.utils import files


def write(folder: Path) -> list[Path]:
    """Write config.properties, recipes/ with their schema, and model_store/ into `folder`.

    Existing files stay as they are. Settings that name files of this package by a path relative
    to the repository get absolute paths. Returns the paths that were written.

    Raises:
        OSError, StorageError: the folder cannot be written to.
    """
    written: list[Path] = []
    (folder / "model_store").mkdir(parents=True, exist_ok=True)
    (folder / "recipes").mkdir(exist_ok=True)
    package = resources.files("marpress")
    settings = folder / "config.properties"
    if not settings.exists():
        text = (package / "config.properties").read_text(encoding="utf-8")
        home = str(Path(deploy.torchserve.__path__[0]).resolve())
        _write(settings, text.replace("=deploy/torchserve", f"={home}").encode())
        written.append(settings)
    with resources.as_file(package / "recipes") as recipes:
        for source in sorted([*recipes.glob("*.yaml"), *recipes.glob("*.json")]):
            target = folder / "recipes" / source.name
            if not target.exists():
                _write(target, source.read_bytes())
                written.append(target)
    return written


def _write(path: Path, content: bytes) -> None:
    """A whole file or none: the next call keeps what is there."""
    files.write(path, lambda place: place.write_bytes(content))
