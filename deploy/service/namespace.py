"""An archive's modules in a namespace of their own.

In a TorchServe worker an archive has a process to itself and `import handlers.base` means its
own copy. Here many archives share one process, so that each is imported below a unique package
(`marpress_archive_3`) and its modules see an `__import__` that finds the archive's names there:
`handlers.base` becomes `marpress_archive_3.handlers.base`. All other names are the process's.
"""

import builtins
import importlib
import importlib.abc
import importlib.machinery
import itertools
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

_numbers = itertools.count(1)
_lock = threading.RLock()


def load(folder: Path, entry: str) -> tuple[ModuleType, str]:
    """Import the module file `entry` of `folder`; the module and its namespace, for `forget`."""
    space = f"marpress_archive_{next(_numbers)}"
    package = ModuleType(space, f"The modules of {folder}.")
    package.__path__ = [str(folder)]
    with _lock:
        path = list(sys.path)
        sys.modules[space] = package
        sys.meta_path.insert(0, _Finder(space, _top_level(folder)))
        try:
            return importlib.import_module(f"{space}.{Path(entry).stem}"), space
        except BaseException:
            forget(space)
            raise
        finally:
            # Entry modules put their folder on the path, for TorchServe's sake.
            sys.path[:] = [p for p in sys.path if p in path or not p.startswith(str(folder))]


def forget(space: str) -> None:
    """Drop a namespace's modules from sys.modules; objects in use keep them alive."""
    with _lock:
        sys.meta_path[:] = [
            finder
            for finder in sys.meta_path
            if not (isinstance(finder, _Finder) and finder.space == space)
        ]
        for name in [n for n in sys.modules if n == space or n.startswith(space + ".")]:
            del sys.modules[name]


def _top_level(folder: Path) -> frozenset[str]:
    modules = {p.stem for p in folder.glob("*.py")}
    return frozenset(modules | {p.parent.name for p in folder.glob("*/__init__.py")})


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the modules of one namespace in its folder."""

    def __init__(self, space: str, names: frozenset[str]) -> None:
        self.space = space
        self.names = names

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if not fullname.startswith(self.space + "."):
            return None
        for folder in path or ():
            # Resolved, so that a debugger meets the file that its user opened.
            details: Any = (self._loader, importlib.machinery.SOURCE_SUFFIXES)
            finder = importlib.machinery.FileFinder(str(Path(folder).resolve()), details)
            spec = finder.find_spec(fullname)
            if spec is not None:
                return spec
        return None

    def _loader(self, name: str, path: str) -> "_Loader":
        return _Loader(name, path, self)

    def import_(
        self,
        name: str,
        globals: Mapping[str, object] | None = None,
        locals: Mapping[str, object] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        """`__import__` for the archive's modules."""
        root = name.partition(".")[0]
        if level or root not in self.names:
            return builtins.__import__(name, globals, locals, fromlist or (), level)
        own = builtins.__import__(f"{self.space}.{name}", globals, locals, fromlist or (), 0)
        # Without a fromlist Python binds the name's first part: the archive's, not the space.
        return own if fromlist else sys.modules[f"{self.space}.{root}"]


class _Loader(importlib.machinery.SourceFileLoader):
    """Runs a module with the archive's own `__import__`, and leaves no .pyc behind."""

    def __init__(self, name: str, path: str, finder: _Finder) -> None:
        super().__init__(name, path)
        self._finder = finder

    def exec_module(self, module: ModuleType) -> None:
        own: dict[str, Any] = {**vars(builtins), "__import__": self._finder.import_}
        module.__dict__["__builtins__"] = own
        super().exec_module(module)

    def get_code(self, fullname: str) -> CodeType | None:
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)
