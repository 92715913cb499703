"""Which handler an archive names, and whether it can be loaded here; read, not imported."""

import ast
import importlib.util
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from deploy.errors import BadInput, Missing

# TorchServe's handlers that are named without a file.
DEFAULT = ("base_handler", "image_classifier", "image_segmenter", "object_detector")
NEEDS_TORCHSERVE = ("text_classifier",)
ELSEWHERE = {
    "dali_image_classifier": "it needs NVIDIA's DALI on a GPU",
    "vllm_handler": "it needs vLLM, which serves its models itself",
    "trt_llm_handler": "it needs TensorRT-LLM, which serves its models itself",
}
OLD_PYTHON = re.compile(r"^\s*(print\s+[\"'\w]|exec\s+[\"'])", re.MULTILINE)


@dataclass(frozen=True)
class Handler:
    """`kind` is default, class or function; `file` its module's in the archive, None for a default.

    `missing` are packages that the archive's modules import at their start and that are not here.
    """

    kind: str
    file: str | None
    name: str
    missing: tuple[str, ...] = ()


def resolve(folder: Path, handler: str, what: str) -> Handler:
    """What TorchServe would load for the manifest's `handler`.

    Raises BadInput, with the way out, for one that cannot be loaded by anyone's installation.
    """
    module, _, function = handler.partition(":")
    name = module.removesuffix(".py").rpartition("/")[2]
    path = folder / f"{name}.py"
    if not path.is_file() and not (folder / name / "__init__.py").is_file():
        return _default(name, handler, what)
    if not path.is_file():
        path = folder / name / "__init__.py"
    relative = path.relative_to(folder).as_posix()
    tree = parse(path, f"{what}: {relative}")
    kind = _entry(tree, function or "handle", f"{what}: {relative}")
    missing = sorted({package for package in imported(folder, [path]) if _absent(package)})
    return Handler(kind, relative, function or name, tuple(missing))


def check_missing(handler: Handler, listed: set[str], what: str) -> None:
    """Raise Missing for packages that nothing here brings and that no requirements.txt lists."""
    if not handler.missing:
        return
    shown = ", ".join(handler.missing)
    verb = "is" if len(handler.missing) == 1 else "are"
    brings = {"torchserve" if n.startswith("ts.") else n.partition(".")[0] for n in handler.missing}
    way = f"pip install {' '.join(sorted(brings))}, or what brings it"
    if listed:
        way = "adopt it with --install, which installs its requirements.txt; or " + way
    raise Missing(f"{what}: its handler imports {shown}, which {verb} not installed: {way}")


def parse(path: Path, what: str) -> ast.Module:
    """A module's syntax tree. Raises BadInput, and says if it is Python 2."""
    try:
        source = path.read_text(encoding="utf-8")
        return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = f" in line {error.lineno}" if isinstance(error, SyntaxError) else ""
        text = source if isinstance(error, SyntaxError) else ""
        if OLD_PYTHON.search(text):
            raise BadInput(
                f"{what} is Python 2{line}: bring it to Python 3 (2to3) and build it again"
            ) from error
        reason = getattr(error, "msg", None) or str(error)
        raise BadInput(f"{what} cannot be read{line}: {str(reason)[:120]}") from error


def _default(name: str, handler: str, what: str) -> Handler:
    if name in DEFAULT:
        return Handler("default", None, name)
    if name in NEEDS_TORCHSERVE:
        missing = () if importlib.util.find_spec("ts") else ("torchserve",)
        return Handler("default", None, name, missing)
    if name in ELSEWHERE:
        raise BadInput(f"{what} uses TorchServe's handler {name}: {ELSEWHERE[name]}")
    known = ", ".join((*DEFAULT, *NEEDS_TORCHSERVE))
    raise BadInput(
        f"{what} names the handler {handler[:80]!r}: there is no such file inside, and it is none "
        f"of TorchServe's ({known}). Build it again with --handler FILE.py"
    )


def _entry(tree: ast.Module, function: str, what: str) -> str:
    defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assigned = {
        target.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    imported = {
        alias.asname or alias.name
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    if function in defined | assigned | imported:
        return "function"
    classes = [node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    top = [node.name for node in tree.body if isinstance(node, ast.ClassDef)]
    if len(top) == 1 or (not top and len(classes) >= 1):
        return "class"
    named = ", ".join(top) or "none"
    raise BadInput(
        f"{what} must define a function {function} or one class, and defines {named}: TorchServe "
        "does not load it either. Move the others to a file of their own (--extra-files)"
    )


def imported(folder: Path, starts: list[Path]) -> set[str]:
    """Dotted names that these modules of an archive import at their start, and theirs in turn."""
    found: set[str] = set()
    waiting, seen = [*starts], set(starts)
    while waiting:
        path = waiting.pop()
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (OSError, SyntaxError, ValueError, RecursionError):
            continue
        for name in _names(tree):
            inside = folder / name.replace(".", "/")
            own = [p for p in (inside.with_suffix(".py"), inside / "__init__.py") if p.is_file()]
            top = name.partition(".")[0]
            if not own and not (folder / f"{top}.py").is_file() and not (folder / top).is_dir():
                found.add(name)
            fresh = [p for p in own if p not in seen]
            waiting += fresh
            seen.update(fresh)
    return {name for name in found if name.partition(".")[0] not in sys.stdlib_module_names}


def _names(tree: ast.Module) -> set[str]:
    names_: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.Import):
            names_ |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names_.add(node.module)
    return names_


def _absent(name: str) -> bool:
    """Whether a module is neither installed nor brought by deploy/compat."""
    from deploy.compat import names  # imports torch, which takes seconds, and adopt alone needs it

    top = name.partition(".")[0]
    if top in ("ts", "torchvision", "captum"):
        return names.absent(name)
    return importlib.util.find_spec(top) is None
