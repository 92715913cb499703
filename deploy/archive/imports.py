"""Which modules of a package a handler needs: its imports, followed without running them."""

import ast
from collections.abc import Iterator
from pathlib import Path

from deploy.errors import BadInput


def closure(package: Path, source: Path) -> list[Path]:
    """The package's files that a file imports, directly or through others, and itself if it is
    one of them.

    Imports inside functions count; those by a computed name (`importlib.import_module`) are
    missed.

    Args:
        package: the package's folder, named as it is imported.
        source: a module in it, or a file elsewhere that imports from it.

    Returns:
        Sorted paths, including the `__init__.py` of every package around them.

    Raises:
        BadInput: a file is not valid Python.
    """
    files: set[Path] = set()
    names = list(_imports(source, package))
    if source.is_relative_to(package):
        names.append(".".join(source.relative_to(package.parent).with_suffix("").parts))
    while names:
        for path in _files(package, names.pop()):
            if path not in files:
                files.add(path)
                names += _imports(path, package)
    return sorted(files)


def parse(path: Path) -> ast.Module:
    """A file's syntax tree. Raises BadInput if it is not valid Python."""
    try:
        return ast.parse(path.read_bytes())
    except (SyntaxError, ValueError) as error:
        raise BadInput(f"{path} is not valid Python: {error}") from error


def _files(package: Path, name: str) -> Iterator[Path]:
    """The files that importing `name` runs; none where it is an attribute, or another package's."""
    first, *parts = name.split(".")
    if first != package.name:
        return
    folder = package
    for part in ["", *parts]:
        folder = folder / part
        for path in (folder / "__init__.py", folder.with_suffix(".py")):
            if path.is_file() and path.is_relative_to(package):
                yield path


def _imports(path: Path, package: Path) -> Iterator[str]:
    """Dotted names that a file imports; `from a import b` gives `a.b`, module or not."""
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = [node.module] if node.module else []
            if node.level:
                if not path.is_relative_to(package):
                    raise BadInput(
                        f"{path} imports a module beside it: in an archive only "
                        f"`from {package.name} import ...` reaches one"
                    )
                relative = path.relative_to(package.parent).parts
                parts = [*relative[: len(relative) - node.level], *parts]
            yield from (".".join([*parts, alias.name]) for alias in node.names)
