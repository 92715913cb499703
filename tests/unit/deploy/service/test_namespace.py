import sys

import pytest

from deploy.service import namespace


def write(folder, name, text):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def package(folder, word):
    """A folder laid out as an archive: an entry that puts itself on the path, and handlers/."""
    write(folder, "handlers/__init__.py", "")
    write(folder, "handlers/word.py", f"WORD = {word!r}\n")
    write(
        folder,
        "handlers/base.py",
        "import json\nimport handlers.word\nfrom handlers import word as by_name\n"
        "from handlers.word import WORD\nfrom . import word as relative\n\n"
        "def late():\n    from handlers.word import WORD\n    return WORD\n\n"
        "def everything():\n"
        "    return {WORD, handlers.word.WORD, by_name.WORD, relative.WORD, late()}\n",
    )
    write(
        folder,
        "entry.py",
        "import sys\nfrom pathlib import Path\n\n"
        "sys.path.insert(0, str(Path(__file__).parent))\nfrom handlers import base\n\n"
        "class Entry:\n    def words(self):\n        return base.everything()\n",
    )
    return folder


def test_two_archives_with_the_same_names_live_side_by_side(tmp_path):
    path, before = list(sys.path), set(sys.modules)
    first, one = namespace.load(package(tmp_path / "1", "first"), "entry.py")
    second, two = namespace.load(package(tmp_path / "2", "second"), "entry.py")
    assert first.Entry().words() == {"first"}
    assert second.Entry().words() == {"second"}
    assert first.Entry().words() == {"first"}, "a later import changed the earlier archive"
    assert sys.path == path
    assert "handlers" not in set(sys.modules) - before
    namespace.forget(one)
    assert second.Entry().words() == {"second"}
    namespace.forget(two)
    assert not [name for name in sys.modules if name.startswith((one, two))]
    assert not list(tmp_path.rglob("*.pyc"))


def test_the_process_own_modules_are_shared(tmp_path):
    write(tmp_path, "entry.py", "import json\nimport os.path\nJSON, PATH = json, os.path\n")
    module, space = namespace.load(tmp_path, "entry.py")
    import json
    import os.path

    assert module.JSON is json
    assert module.PATH is os.path
    namespace.forget(space)


def test_code_that_fails_to_import_leaves_nothing_behind(tmp_path):
    package(tmp_path, "x")
    write(tmp_path, "handlers/word.py", "raise ValueError('broken on purpose')\n")
    before, finders, path = set(sys.modules), list(sys.meta_path), list(sys.path)
    with pytest.raises(ValueError, match="broken on purpose"):
        namespace.load(tmp_path, "entry.py")
    assert set(sys.modules) == before
    assert sys.meta_path == finders
    assert sys.path == path


def test_frames_carry_the_file_that_a_debugger_opens(tmp_path):
    source = package(tmp_path / "checkout", "edited")
    folder = tmp_path / "archive"
    folder.mkdir()
    (folder / "entry.py").write_text((source / "entry.py").read_text())
    (folder / "handlers").symlink_to(source / "handlers")
    module, space = namespace.load(folder, "entry.py")
    assert module.base.everything.__code__.co_filename == str(source / "handlers" / "base.py")
    namespace.forget(space)
