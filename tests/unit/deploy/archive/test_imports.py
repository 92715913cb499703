"""Imports of every form are followed, in real files."""

from pathlib import Path

import pytest

from deploy.archive.imports import closure
from deploy.errors import BadInput

FILES = {
    "__init__.py": "",
    "handler.py": "import json\nimport handlers.direct\nfrom handlers import by_name, Attribute\n",
    "direct.py": "def later():\n    from handlers.lazy import thing\n",
    "by_name.py": "import handlers.handler\n",  # a circle
    "lazy.py": "try:\n    from .relative import x\nexcept ImportError:\n    pass\n",
    "relative.py": "from . import sibling\nimport numpy.random as handlers_random\n",
    "sibling.py": "from handlers.inner.deep import value\n",
    "inner/__init__.py": "from ..outer import y\n",
    "inner/deep.py": "from .beside import z\nvalue = 1\n",
    "inner/beside.py": "from .. import missing\n",
    "outer.py": "",
    "unused.py": "import handlers.also_unused\n",
    "also_unused.py": "",
    "inner/unused.py": "",
}


@pytest.fixture
def package(tmp_path: Path) -> Path:
    folder = tmp_path / "handlers"
    for name, source in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(source)
    (tmp_path / "handlers.py").write_text("import os\n")  # beside the package, not of it
    return folder


def test_what_is_imported_is_found_and_nothing_else(package: Path) -> None:
    found = {
        path.relative_to(package).as_posix() for path in closure(package, package / "handler.py")
    }
    assert set(FILES) - found == {"unused.py", "also_unused.py", "inner/unused.py"}
    assert found <= set(FILES)


def test_a_module_without_imports_needs_its_package_only(package: Path) -> None:
    assert closure(package, package / "outer.py") == [package / "__init__.py", package / "outer.py"]


def test_a_file_that_is_not_python_is_named(package: Path) -> None:
    (package / "lazy.py").write_text("def (:\n")
    with pytest.raises(BadInput, match=r"lazy\.py is not valid Python: .*line 1"):
        closure(package, package / "handler.py")
