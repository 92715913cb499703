"""Users' files that import what lies beside them, and several users' in one process."""

import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from optimize.utils import pickles, user_modules
from optimize.utils.child import Child
from optimize.utils.user_modules import load

MODULE = "tests.unit.optimize.utils.test_user_modules"


def start() -> Callable[[Any], Any]:
    """The child's side: load a pickle, call it."""
    return lambda path: pickles.load(path)()


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / f"{name.replace('__', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder / "mine.py"


@pytest.fixture(autouse=True)
def nothing_left() -> Any:
    path = list(sys.path)
    yield
    user_modules._FALLBACK.follow(())
    assert sys.path == path
    assert not {"net", "parts.net", "blocks"} & set(sys.modules)


@pytest.mark.parametrize(
    "statement",
    [
        "from net import answer",
        "import net; answer = net.answer",
        "import parts.net as net; answer = net.answer",
        "import parts.net; answer = parts.net.answer",
        "from parts import net; answer = net.answer",
        "from .net import answer",
        "def answer():\n    from net import answer\n    return answer()",
    ],
)
def test_a_file_imports_what_lies_beside_it(tmp_path: Path, statement: str) -> None:
    text = "def answer(): return 7"
    mine = write(tmp_path, mine=statement, net=text, parts__net=text)
    assert load(mine, tmp_path).answer() == 7
    assert not list(tmp_path.rglob("*.pyc"))


def test_a_file_imports_what_lies_beside_the_recipe(tmp_path: Path) -> None:
    write(tmp_path / "models", mine="from common.net import answer")
    write(tmp_path, common__net="def answer(): return 8")
    assert load(tmp_path / "models" / "mine.py", tmp_path).answer() == 8


def test_a_file_of_a_package_is_imported_as_such(tmp_path: Path) -> None:
    package = tmp_path / "theirs" / "deep"
    write(package, mine="from ..net import one\nfrom theirs.deep.two import two", two="two = 2")
    write(tmp_path / "theirs", net="one = 1")
    for folder in (package, package.parent):
        (folder / "__init__.py").write_text("")
    found = load(package / "mine.py", tmp_path / "elsewhere")
    assert (found.one, found.two) == (1, 2)


def test_names_of_installed_modules_mean_what_python_makes_of_them(tmp_path: Path) -> None:
    mine = write(
        tmp_path,
        mine="import handlers, torch, random, os\nfrom numpy import pi",
        handlers="name = 'theirs'",
        random="name = 'theirs'",
        os__notes="",  # folders without __init__.py come after what is installed
        numpy__notes="",
    )
    found = load(mine, tmp_path)
    assert (found.handlers.name, found.random.name) == ("theirs", "theirs")
    assert found.os is os and found.pi > 3
    assert importlib.import_module("handlers").__file__ == str(
        user_modules.ROOT / "handlers" / "__init__.py"
    )


def test_our_own_packages_are_ours_from_a_recipe_in_the_checkout(tmp_path: Path) -> None:
    mine = write(tmp_path, mine="from optimize.utils import user_modules")
    assert load(mine, user_modules.ROOT).user_modules is user_modules


def test_modules_of_two_recipes_with_one_name_stay_apart(tmp_path: Path) -> None:
    text = """
import importlib
from net import answer
def early(): return answer
def late():
    import net
    return net.answer
def by_name(): return importlib.import_module("net").answer
"""
    one = load(write(tmp_path / "one", mine=text, net="answer = 1"), tmp_path)
    assert one.by_name() == 1
    two = load(write(tmp_path / "two", mine=text, net="answer = 2"), tmp_path)
    assert (two.early(), two.late(), two.by_name()) == (2, 2, 2)
    assert (one.early(), one.late()) == (1, 1)
    assert load(tmp_path / "one" / "mine.py", tmp_path).by_name() == 1


def test_an_edited_file_is_imported_anew(tmp_path: Path) -> None:
    mine = write(tmp_path, mine="from net import answer", net="answer = 1")
    first = load(mine, tmp_path)
    assert load(mine, tmp_path) is first and first.answer == 1
    write(tmp_path, net="answer = 2")  # same size, same second
    assert load(mine, tmp_path).answer == 2


def test_a_file_that_failed_is_imported_once_it_is_mended(tmp_path: Path) -> None:
    mine = write(tmp_path, mine="import nett")
    with pytest.raises(ModuleNotFoundError, match="nett"):
        load(mine, tmp_path)
    write(tmp_path, nett="")
    load(mine, tmp_path)


def test_a_name_that_is_no_identifier(tmp_path: Path) -> None:
    write(tmp_path, mine="answer = 3").rename(tmp_path / "my-net.v2.py")
    assert load(tmp_path / "my-net.v2.py", tmp_path).answer == 3


def test_a_pickle_takes_all_of_the_users_code_along(tmp_path: Path) -> None:
    """In a process that knows nothing of their folder, which is gone."""
    text = "from net import Net\nimport net\ndef answer(): return Net().value() + net.more()"
    code = "class Net:\n    def value(self): return 5\ndef more(): return 10"
    pickles.save(load(write(tmp_path, mine=text, net=code), tmp_path).answer, tmp_path / "it.pt")
    for file in tmp_path.glob("*.py"):
        file.unlink()
    script = "import sys, pathlib; from optimize.utils import pickles\n" \
        "print(pickles.load(pathlib.Path(sys.argv[1]))())"  # fmt: skip
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script, str(tmp_path / "it.pt")],
        capture_output=True, text=True, check=False, cwd=user_modules.ROOT,
    )  # fmt: skip
    assert ran.stdout.strip() == "15", ran.stderr


LATE = """
import sys
sys.path.append({more!r})
import blocks
def answer():
    import importlib
    from net import value
    return value + importlib.import_module("parts.net").value + blocks.value()
"""


def test_a_child_process_imports_what_its_parent_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more, folders = tmp_path / "more", list(sys.path)
    monkeypatch.setattr(sys, "path", folders)
    mine = write(
        tmp_path, mine=LATE.format(more=str(more)), net="value = 1", parts__net="value = 10"
    )
    write(more, blocks="def value(): return 100")
    pickles.save(load(mine, tmp_path).answer, tmp_path / "it.pt")
    (tmp_path / "net.py").write_text("value = 2")
    with Child(MODULE) as running:
        assert running.ask(tmp_path / "it.pt") == 112
    del sys.modules["blocks"]
    folders.remove(str(more))


if __name__ == "__main__":
    from optimize.utils import child

    child.serve(start)
