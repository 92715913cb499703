"""What makes a finished run out of date: everything that its model is made from, and no more."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from optimize.models.sources import dependencies
from optimize.models.sources.dependencies import named_files, source_files
from optimize.pipeline.job import begin
from optimize.recipe.schema import Named
from optimize.tasks.registry import read_recipe
from optimize.utils import distribution

MINE = """
import importlib
import torch
from torch import nn
from blocks import Block
import parts.tail

def data():
    labels = torch.arange(12) % 3
    images = (labels * 90).to(torch.uint8)[:, None, None, None].expand(-1, 1, 4, 4)
    return {"train": (images, labels), "test": (images, labels)}

def build():
    from late import width
    importlib.import_module("by_name")
    return Block(torch.load("frozen.pt"))

def student():
    from small import Small
    return Small()
"""
BLOCKS = "from torch import nn\nfrom deep import settings\nclass Block(nn.Identity): pass\n"
RECIPE = """
name: mine
task: image_classification
data: mine.py:data
model: {mine.py:build: {}}
checkpoint: weights.pt
stages:
  - train: {epochs: 1}
  - distill: {student: other.py:build}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    files = {
        "mine.py": MINE, "blocks.py": BLOCKS, "late.py": "width = 1", "by_name.py": "",
        "parts/__init__.py": "", "parts/tail.py": "", "small.py": "", "deep.py": "settings = 1",
        "unused.py": "", "other.py": "", "mine.yaml": RECIPE, "frozen.pt": "", "notes.md": "",
    }  # fmt: skip
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    torch.save({}, tmp_path / "weights.pt")
    return tmp_path


def names(found: list[Path], folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in found}


def test_a_file_stands_for_all_that_it_imports_from_beside_it(folder: Path) -> None:
    found = source_files(folder / "mine.py", folder)
    assert names(found, folder) == {
        "mine.py", "blocks.py", "deep.py", "late.py", "by_name.py", "small.py", "frozen.pt",
        "parts/__init__.py", "parts/tail.py",
    }  # fmt: skip


def test_a_module_chosen_as_it_runs_may_be_any(folder: Path) -> None:
    (folder / "other.py").write_text("import importlib\nnet = importlib.import_module('un' + X)")
    assert "unused.py" in names(source_files(folder / "other.py", folder), folder)


def test_imports_from_elsewhere_on_the_path_count(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = tmp_path_factory.mktemp("more")
    (more / "theirs.py").write_text("")
    monkeypatch.syspath_prepend(more)
    (folder / "other.py").write_text("import torch, numpy.linalg, json, optimize, theirs")
    assert source_files(folder / "other.py", folder) == sorted(
        [folder / "other.py", more / "theirs.py"]
    )


def test_a_hugging_face_folder_stands_for_its_files(tmp_path: Path) -> None:
    hub = tmp_path / "hub"
    hub.mkdir()
    for name in ("config.json", "model.safetensors", "preprocessor_config.json", "README.md"):
        (hub / name).write_text(name)
    kinds = {"config.json", "model.safetensors", "preprocessor_config.json"}
    for spec in (Named("./hub"), Named("bert", {"path": "hub"})):
        assert {path.name for path in named_files(spec, tmp_path)} == kinds


def edit(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text((folder / name).read_text() + "\n# more")


CHANGES = {
    "the file": edit("mine.py"),
    "a file that it imports": edit("blocks.py"),
    "what that one imports": edit("deep.py"),
    "an import inside a function": edit("late.py"),
    "the checkpoint": lambda folder: torch.save({"a": 1}, folder / "weights.pt"),
    "weights that the code names": edit("frozen.pt"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_every_stage_is_made_anew_when_its_model_changes(
    folder: Path, change: Callable[[Path], object]
) -> None:
    def digests() -> list[str]:
        job = begin(read_recipe(folder / "mine.yaml"), None, resume=True, say=lambda line: None)
        return [job.stages_digest(count) for count in range(3)]

    before = digests()
    assert digests() == before
    change(folder)
    assert not set(before) & set(digests())


def test_what_a_model_does_not_use_changes_nothing(folder: Path) -> None:
    def digests() -> list[str]:
        job = begin(read_recipe(folder / "mine.yaml"), None, resume=True, say=lambda line: None)
        assert job.digest().startswith(job.stages_digest(2))
        return [job.stages_digest(count) for count in range(3)]

    before = digests()
    for name in ("unused.py", "notes.md"):
        edit(name)(folder)
    assert digests() == before
    edit("other.py")(folder)  # the student's: what is trained before it stays
    after = digests()
    assert after[:2] == before[:2] and after[2] != before[2]


def test_our_own_version_counts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = read_recipe(folder / "mine.yaml")
    one = begin(recipe, None, resume=True, say=lambda line: None).digest()
    monkeypatch.setattr(torch, "__version__", "3.0.0")
    distribution.fingerprint.cache_clear()
    try:
        assert begin(recipe, None, resume=True, say=lambda line: None).digest() != one
    finally:
        monkeypatch.undo()
        distribution.fingerprint.cache_clear()


def test_a_file_is_read_again_only_if_it_changed(tmp_path: Path) -> None:
    file = tmp_path / "weights.pt"
    file.write_bytes(b"1")
    first = dependencies.digest([file])
    read = dependencies._digest.cache_info().misses
    assert dependencies.digest([file]) == first
    assert dependencies._digest.cache_info().misses == read
    file.write_bytes(b"22")
    assert dependencies.digest([file]) != first
