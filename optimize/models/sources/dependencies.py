"""The files that a model is made from: a finished run is up to date while these are the same.

Of a user's Python file these are the file, what it imports from beside it (read from the sources,
so that imports inside functions count), and files of weights and settings that it names.
"""

import ast
import hashlib
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from optimize.models.sources import user_file
from optimize.models.sources.names import resolve
from optimize.recipe.schema import Named
from optimize.utils import user_modules
from optimize.utils.files import sha256

# What a source file may read that decides the model: weights, settings, lists of names.
_READ = {
    ".pt", ".pth", ".ckpt", ".bin", ".safetensors", ".npz", ".npy", ".pkl", ".h5", ".onnx",
    ".json", ".yaml", ".yml", ".toml", ".txt",
}  # fmt: skip
_IN_FOLDER = {".json", ".safetensors", ".bin", ".pt", ".txt", ".model"}
_SKIPPED = {"site-packages", "dist-packages", "__pycache__", "node_modules"}


def digest(files: Iterable[Path]) -> str:
    """SHA-256 of the contents of files, in whatever order and place they lie."""
    contents = sorted({path.resolve() for path in files if path.is_file()})
    found = [f"{path.name}:{_digest(path, *_state(path))}" for path in contents]
    return hashlib.sha256("\n".join(sorted(found)).encode()).hexdigest()


def named_files(spec: Named, folder: Path) -> list[Path]:
    """Files that a model or an option named in a recipe depends on.

    Args:
        spec: a model, or anything with options that name files.
        folder: the recipe's.
    """
    found: list[Path] = []
    spec = resolve(spec)
    if ":" in spec.name:
        found += source_files(user_file.path_of(spec.name, folder), folder)
    for value in strings(spec.options):
        found += _files_at(folder / Path(value).expanduser())
    return found


def named(options: Any) -> list[Named]:
    """The models that a stage's options name, and one without a name for what else they do."""
    values = vars(options) if hasattr(options, "__dict__") else {}
    rest = {key: value for key, value in values.items() if not isinstance(value, Named)}
    return [*(v for v in values.values() if isinstance(v, Named)), Named("", rest)]


def strings(value: Any) -> Iterator[str]:
    """All strings in a tree of options."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from strings(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from strings(part)


def source_files(file: Path, recipe: Path) -> list[Path]:
    """A user's Python file, what it imports that is the user's own, and files that these name.

    Args:
        file: absolute.
        recipe: the recipe's folder, whose modules can be imported too.
    """
    package, _ = user_modules.package_of(file, recipe)
    paths = [*map(Path, package.paths), *_own_paths()]
    found, waiting = set[Path](), [file]
    while waiting:
        path = waiting.pop().resolve()
        if path in found or not path.is_file():
            continue
        found.add(path)
        if path.suffix != ".py":
            continue
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):
            continue
        for name, level in _imports(tree):
            if name is None:  # chosen as it runs: it may be any
                waiting += _all_beside(file.parent)
                continue
            places = paths if not level else [path.parents[level - 1]]
            waiting += _modules(name, places)
        for text in _constants(tree):
            for place in dict.fromkeys([path.parent, recipe.resolve(), Path.cwd()]):
                if Path(text).suffix in _READ or (place / text / "config.json").is_file():
                    waiting += _files_at(place / text)
    return sorted(found)


def _own_paths() -> list[Path]:
    """Folders on `sys.path` that are neither Python's nor installed packages' nor ours."""
    installed = {Path(sysconfig.get_path(n)).resolve() for n in ("stdlib", "platstdlib", "purelib")}
    paths = [Path(entry or ".").resolve() for entry in sys.path]
    return [
        path
        for path in paths
        if path.is_dir()
        and path != user_modules.ROOT
        and not any(path == place or place in path.parents for place in installed)
    ]


def _imports(tree: ast.Module) -> Iterator[tuple[str | None, int]]:
    """Names that are imported, with the level of relative ones; None for one that is computed."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, 0) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = f"{node.module}." if node.module else ""
            yield from ((base + alias.name, node.level) for alias in node.names)
        elif isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else None
            called = node.func.id if isinstance(node.func, ast.Name) else called
            if called in ("import_module", "__import__") and node.args:
                first = node.args[0]
                constant = isinstance(first, ast.Constant) and isinstance(first.value, str)
                yield (first.value.lstrip(".") if constant else None), 0  # type: ignore[attr-defined]


def _modules(name: str, places: list[Path]) -> list[Path]:
    """Files of a module and of the packages it lies in; the last part may be no module."""
    for place in places:
        found, here = [], place
        for part in name.split("."):
            file, here = here / f"{part}.py", here / part
            found += [p for p in (file, here / "__init__.py") if p.is_file()]
            if not here.is_dir():
                break
        if found:
            return found
    return []


def _all_beside(folder: Path) -> list[Path]:
    return [
        path
        for path in folder.rglob("*.py")
        if not any(p in _SKIPPED or p.startswith(".") for p in path.relative_to(folder).parts)
    ]


def _constants(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        text = node.value if isinstance(node, ast.Constant) else None
        if isinstance(text, str) and 0 < len(text) < 256 and text.isprintable():
            yield text


def _files_at(path: Path) -> list[Path]:
    """A file, or the files of a folder with a model in it."""
    try:
        if path.is_file():
            return [path]
        if (path / "config.json").is_file() or (path / "model.bin").is_file():
            return [p for p in path.iterdir() if p.suffix in _IN_FOLDER]
    except (OSError, ValueError):  # a text that is no path
        pass
    return []


def _state(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns


@lru_cache(maxsize=1024)
def _digest(path: Path, size: int, modified: int) -> str:
    return sha256(path)
