"""The import rules of docs/architecture.md, read from the sources without importing them."""

import ast
import graphlib
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("optimize", "handlers", "deploy", "marpress", "benchmarks")
# What a handler may import: an archive must load where only these are installed.
LIGHT = {"torch", "numpy", "PIL", "simplejpeg", "tokenizers", "safetensors", "soundfile", "soxr"}
# Engines that a worker uses where they are installed, imported inside functions; and the server.
OPTIONAL = {"av", "onnxruntime", "openvino", "ts"}


def sources() -> dict[str, Path]:
    """Module name -> file, of all our packages."""
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
    }


def imported(tree: ast.Module) -> set[str]:
    """Dotted names that a module imports, anywhere but under `if TYPE_CHECKING`."""
    found: set[str] = set()
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting += node.orelse
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute here"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        waiting += ast.iter_child_nodes(node)
    return found


def imported_at_start(tree: ast.Module) -> set[str]:
    """Dotted names that are imported with the module, not when a function is called."""
    body = [node for node in tree.body if not isinstance(node, ast.FunctionDef | ast.ClassDef)]
    return imported(ast.Module(body, []))


FILES = sources()
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in FILES.items()}


def edges() -> dict[str, set[str]]:
    """Module -> modules of ours that it imports; a package stands for its __init__."""
    graph: dict[str, set[str]] = {}
    for name, tree in TREES.items():
        targets = {
            found if found in FILES else found.rpartition(".")[0] for found in imported(tree)
        }
        graph[name] = {t for t in targets if t in FILES and t != name}
    return graph


def folders() -> dict[str, set[str]]:
    """The same between folders: optimize's and deploy's are apart, other packages are one each."""

    def folder(module: str) -> str:
        parts = module.split(".")
        return ".".join(parts[:2]) if parts[0] in ("optimize", "deploy") else parts[0]

    graph: dict[str, set[str]] = {}
    for name, targets in edges().items():
        graph.setdefault(folder(name), set()).update(map(folder, targets))
    return {name: targets - {name} for name, targets in graph.items()}


@pytest.mark.parametrize("graph", [edges, folders], ids=["modules", "folders"])
def test_no_import_circles(graph) -> None:
    try:
        graphlib.TopologicalSorter(graph()).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


def test_a_circle_would_be_found() -> None:
    with pytest.raises(graphlib.CycleError):
        graphlib.TopologicalSorter({"a": {"b"}, "b": {"c"}, "c": {"a"}}).prepare()


@pytest.mark.parametrize(
    ("package", "forbidden"),
    [
        ("handlers", {"optimize", "deploy", "marpress", "benchmarks"}),
        ("optimize", {"deploy", "marpress", "benchmarks"}),
        ("deploy", {"optimize", "marpress", "benchmarks"}),
        ("marpress", {"benchmarks"}),
    ],
)
def test_imports_run_downwards(package: str, forbidden: set[str]) -> None:
    upwards = {
        f"{name} imports {target}"
        for name, tree in TREES.items()
        if name.partition(".")[0] == package
        for target in imported(tree)
        if target.partition(".")[0] in forbidden
    }
    assert not upwards


def test_handlers_import_only_what_a_worker_has() -> None:
    allowed = {*sys.stdlib_module_names, "handlers", *LIGHT}
    heavy: set[str] = set()
    for name, tree in TREES.items():
        if name.partition(".")[0] == "handlers":
            late = imported(tree) - imported_at_start(tree)
            for target in imported(tree):
                top = target.partition(".")[0]
                if top not in allowed and not (top in OPTIONAL and target in late):
                    heavy.add(f"{name} imports {target}")
    assert not heavy


def test_optimizes_top_level_is_small() -> None:
    modules = sorted(path.name for path in (ROOT / "optimize").glob("*.py"))
    assert len(modules) <= 8, modules
