"""The files of the repository's root that a working folder needs, for users of a wheel."""

import shutil
from importlib import resources
from pathlib import Path

import deploy.torchserve


def write(folder: Path) -> list[Path]:
    """Write config.properties, recipes/ with their schema, and model_store/ into `folder`.

    Existing files stay as they are. Settings that name files of this package by a path relative
    to the repository get absolute paths. Returns the paths that were written.
    """
    written: list[Path] = []
    (folder / "model_store").mkdir(parents=True, exist_ok=True)
    (folder / "recipes").mkdir(exist_ok=True)
    package = resources.files("marpress")
    settings = folder / "config.properties"
    if not settings.exists():
        text = (package / "config.properties").read_text(encoding="utf-8")
        home = str(Path(deploy.torchserve.__path__[0]).resolve())
        settings.write_text(text.replace("=deploy/torchserve", f"={home}"), encoding="utf-8")
        written.append(settings)
    with resources.as_file(package / "recipes") as recipes:
        for source in sorted([*recipes.glob("*.yaml"), *recipes.glob("*.json")]):
            target = folder / "recipes" / source.name
            if not target.exists():
                shutil.copyfile(source, target)
                written.append(target)
    return written
