"""Python files of users, imported so that they find what lies beside them.

A user's file becomes a module `user_files.NAME`, where the package `user_files` has the file's own
folder and the recipe's for its path, as Python has a script's folder. `import net` inside such a
module looks there first. Nothing is put on `sys.path`: a user's `handlers.py` does not hide ours,
and modules of two recipes with one name stay apart, in packages of their own.

Whatever asks for a module by its bare name later (`importlib.import_module`, a function that was
unpickled) finds it by `Fallback`, after everything that is installed; child processes too.
"""

import builtins
import hashlib
import importlib
import importlib.abc
import importlib.util
import linecache
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

import cloudpickle

ROOT = Path(__file__).resolve().parents[2]
OURS = ("optimize", "handlers", "deploy", "marpress")
PREFIX = "user_files"
VARIABLE = "MARPRESS_IMPORT_PATH"
"""Environment variable with the folders that a child process looks for modules in last."""


@dataclass(frozen=True)
class Package:
    """A package of user's files: its name, and the folders that its modules import from."""

    name: str
    paths: tuple[str, ...]

    def find(self, top: str) -> ModuleSpec | None:
        """The module or package `top` in these folders; None if it is to be imported as usual."""
        if top in sys.builtin_module_names:
            return None
        spec = PathFinder.find_spec(top, self.paths)
        if spec is None:
            return None
        if spec.origin is None:  # a folder without __init__.py comes after what is installed
            return None if _installed(top) else spec
        return None if top in OURS and Path(spec.origin).is_relative_to(ROOT) else spec

    def import_module(
        self,
        name: str,
        names: Mapping[str, object] | None = None,
        local: Mapping[str, object] | None = None,
        fromlist: Sequence[str] = (),
        level: int = 0,
    ) -> ModuleType:
        """`__import__` of the package's modules."""
        top = name.partition(".")[0]
        if level or self.find(top) is None:
            return builtins.__import__(name, names, local, fromlist, level)
        if fromlist:
            return builtins.__import__(f"{self.name}.{name}", names, local, fromlist, 0)
        importlib.import_module(f"{self.name}.{name}")
        return sys.modules[f"{self.name}.{top}"]


_PACKAGES: dict[tuple[str, ...], Package] = {}


class Loader(SourceFileLoader):
    """Runs a source file, never from stale or with new bytecode beside it.

    Attributes:
        digest: SHA-256 of the source that was run last.
    """

    digest = ""

    def __init__(self, name: str, path: str, package: Package | None = None) -> None:
        super().__init__(name, path)
        self._package = package

    def get_code(self, fullname: str) -> Any:
        source = self.get_data(self.path)
        self.digest = hashlib.sha256(source).hexdigest()
        linecache.checkcache(self.path)
        return self.source_to_code(source, self.path)

    def exec_module(self, module: ModuleType) -> None:
        if self._package is not None:
            own = {**vars(builtins), "__import__": self._package.import_module}
            vars(module)["__builtins__"] = own
        cloudpickle.register_pickle_by_value(module)
        super().exec_module(module)

    def changed(self) -> bool:
        """Whether the file is no longer what was run."""
        try:
            return hashlib.sha256(self.get_data(self.path)).hexdigest() != self.digest
        except OSError:
            return True


class _Finder(importlib.abc.MetaPathFinder):
    """Finds modules in the packages of user's files."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if path is None or not fullname.startswith(PREFIX):
            return None
        top = fullname.partition(".")[0]
        package = next((p for p in _PACKAGES.values() if p.name == top), None)
        return _loading(PathFinder.find_spec(fullname, path, target), package)


class Fallback(importlib.abc.MetaPathFinder):
    """Finds by its bare name, after all other finders, what the last loaded file can import."""

    def __init__(self) -> None:
        self.paths: tuple[str, ...] = ()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if path is not None or not self.paths:
            return None
        spec = PathFinder.find_spec(fullname, self.paths, target)
        return _loading(spec) if spec is not None and _has_source(spec) else None

    def follow(self, paths: tuple[str, ...]) -> None:
        """Look in `paths` from now on; modules of other folders are forgotten."""
        if paths != self.paths:
            _forget([n for n, m in list(sys.modules.items()) if _loader(m, bare=True) is not None])
            self.paths = paths
        if self not in sys.meta_path:
            sys.meta_path.append(self)


def _installed(top: str) -> bool:
    """Whether Python finds a module or package `top` without us."""
    others = [finder for finder in sys.meta_path if not isinstance(finder, _Finder | Fallback)]
    found = (finder.find_spec(top, None) for finder in others)
    return any(spec is not None and spec.origin is not None for spec in found)


def _has_source(spec: ModuleSpec) -> bool:
    """Whether it is a module, or a folder that holds some: `onnx/` may hold exported files."""
    folders = spec.submodule_search_locations or []
    return spec.origin is not None or any(any(Path(f).glob("*.py")) for f in folders)


def _loading(spec: ModuleSpec | None, package: Package | None = None) -> ModuleSpec | None:
    if spec is not None and type(spec.loader) is SourceFileLoader:
        spec.loader = Loader(spec.loader.name, spec.loader.path, package)
    return spec


def _loader(module: ModuleType, bare: bool = False) -> Loader | None:
    """The loader of a user's module; `bare` for those only that have no package."""
    loader = getattr(getattr(module, "__spec__", None), "loader", None)
    if not isinstance(loader, Loader) or (bare and loader._package is not None):
        return None
    return loader


def _forget(names: list[str]) -> None:
    for name in names:
        sys.modules.pop(name, None)


_FINDER = _Finder()
_FALLBACK = Fallback()


def package_of(file: Path, recipe: Path) -> tuple[Package, str]:
    """The package that a user's file belongs to, and the file's name in it.

    A file that is part of a package (folders with `__init__.py`) is imported as such.

    Args:
        file: absolute.
        recipe: the recipe's folder, whose modules can be imported too.
    """
    root = file.parent
    while (root / "__init__.py").is_file() and root != root.parent:
        root = root.parent
    paths = tuple(dict.fromkeys(map(str, (file.parent, root, recipe.resolve()))))
    if paths not in _PACKAGES:
        number = len(_PACKAGES) + 1
        _PACKAGES[paths] = Package(PREFIX if number == 1 else f"{PREFIX}_{number}", paths)
    parts = [*file.parent.relative_to(root).parts, re.sub(r"\W", "_", file.stem)]
    return _PACKAGES[paths], ".".join(parts)


def load(file: Path, recipe: Path) -> ModuleType:
    """Import a user's file, anew if it or what it imported from beside it has changed.

    Args:
        file: absolute.
        recipe: the recipe's folder.

    Raises:
        Exception: whatever the file raises.
    """
    package, name = package_of(file, recipe)
    importlib.invalidate_caches()
    for folder in package.paths:  # a finder remembers a folder's files by the folder's time
        sys.path_importer_cache.pop(folder, None)
    loaders = [_loader(module) for module in list(sys.modules.values())]
    if any(loader.changed() for loader in loaders if loader is not None):
        _forget([n for n, m in list(sys.modules.items()) if _loader(m) is not None])
    if _FINDER not in sys.meta_path:
        sys.meta_path.insert(0, _FINDER)
    _FALLBACK.follow(package.paths)
    if package.name not in sys.modules:
        parent = ModuleType(package.name)
        parent.__path__ = list(package.paths)
        sys.modules[package.name] = parent
        cloudpickle.register_pickle_by_value(parent)
    full = f"{package.name}.{name}"
    if full in sys.modules:
        return sys.modules[full]
    if "." in name:
        importlib.import_module(full.rpartition(".")[0])
    spec = importlib.util.spec_from_file_location(
        full, file, loader=Loader(full, str(file), package)
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[full] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[full]
        raise
    return module


def environment() -> dict[str, str]:
    """Variables that let a child process import what this one can."""
    paths = [*_FALLBACK.paths, *(str(Path(path or ".").resolve()) for path in sys.path)]
    return {VARIABLE: os.pathsep.join(dict.fromkeys(paths))}


def inherit() -> None:
    """In a child process: import what the parent can."""
    paths = tuple(filter(None, os.environ.get(VARIABLE, "").split(os.pathsep)))
    _FALLBACK.follow(paths)


def plain(text: str) -> str:
    """A message without the names that user's modules have in here."""
    return re.sub(rf"\b{PREFIX}(_\d+)?\.(?=\w)", "", text)
