"""What a user's file gets, and what is said when it fails: their own lines."""

from pathlib import Path
from typing import Any

import pytest
import torch

from optimize.data.dataset import Dataset, Split
from optimize.errors import DataError, ModelError, OptimizeError, RecipeError
from optimize.models.sources.user_file import load_function
from optimize.recipe.schema import Named
from optimize.tasks import image, image_data
from optimize.tasks.named import call_users

PIXELS = torch.zeros(4, 3, 8, 8, dtype=torch.uint8)
DATA = Dataset("tiny", "here", ["red", "green"], Split(PIXELS, torch.tensor([0, 1, 0, 1])))
HEAD = "from torch import nn\nclass Net(nn.Module):\n"
NET = """
    def __init__(self, classes=2, **options):
        super().__init__()
        self.options, self.head = options, nn.LazyLinear(classes)
    def forward(self, pixels):
        return self.head(pixels.float().flatten(1))
"""


def build(folder: Path, text: str, function: str = "build", **options: Any) -> Any:
    (folder / "mine.py").write_text(text)
    return image.build_model(Named(f"mine.py:{function}", options, ("r.yaml", 4)), DATA, folder)


@pytest.mark.parametrize(
    ("signature", "options", "given"),
    [
        ("", {}, {}),
        ("classes", {}, {"classes": 2}),
        ("num_classes=1000, channels=1", {}, {"num_classes": 2, "channels": 3}),
        ("labels", {}, {"labels": ["red", "green"]}),
        ("**options", {"width": 3}, {"width": 3}),
        ("classes, *parts, **options", {"depth": 2}, {"classes": 2, "depth": 2}),
        ("channels, width=8", {"channels": 1}, {"channels": 1}),
    ],
)
def test_a_function_gets_what_it_names_and_what_the_recipe_says(
    tmp_path: Path, signature: str, options: dict[str, Any], given: dict[str, Any]
) -> None:
    text = f"{HEAD}{NET}\ndef build({signature}):\n    return Net(seen=dict(locals()))\n"
    seen = build(tmp_path, text, **options).options["seen"]
    found = {**{k: v for k, v in seen.items() if k not in ("options", "parts", "width")}}
    assert {**found, **seen.get("options", {})} == given


def test_a_class_is_a_function_too(tmp_path: Path) -> None:
    model = build(tmp_path, HEAD + NET, "Net", width=5)
    assert model.head.out_features == 2 and model.options == {"width": 5}


@pytest.mark.parametrize(
    ("signature", "options", "said"),
    [
        ("classes", {"width": 3}, r"no option 'width'; it takes none"),
        ("classes, depth=1", {"width": 3}, r"no option 'width'; it takes depth$"),
        ("width", {}, r"missing a required argument: 'width'; write it as an option: \{mine"),
    ],
)
def test_options_that_do_not_fit_are_the_recipes_mistake(
    tmp_path: Path, signature: str, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(RecipeError, match=said) as caught:
        build(tmp_path, f"def build({signature}): pass", **options)
    assert str(caught.value).startswith("r.yaml:4: ")


FAILURES = {
    "missing package": (
        "import torch\nimport nothing_here\n",
        r"No module named 'nothing_here'; install what brings nothing_here, or put "
        r"nothing_here\.py beside .*\n  .*/mine\.py:2: import nothing_here$",
    ),
    "missing in the file beside": (
        "from beside import x\n",
        r"No module named 'absent'; .*\n  .*/mine\.py:1: from beside import x\n"
        r"  .*/beside\.py:1: import absent$",
    ),
    "missing submodule": (
        "import torch.nothing_here\n", "; the package torch has no module nothing_here"
    ),
    "relative": (
        "from .nothing import x\n", r"No module named 'nothing'; .* put nothing\.py beside"
    ),
    "name": (
        "from beside2 import thing\n", r"cannot import name 'thing' from 'beside2'.*\n  .*mine.py:1"
    ),
    "syntax": ("x = 1\ndef build(:\n", r"SyntaxError.*\n  .*/mine\.py:2: def build\(:"),
    "raises": ("value = {}\nvalue['a']\n", r"KeyError: 'a'\n  .*/mine\.py:2: value\['a'\]$"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "said"), FAILURES.values(), ids=FAILURES.keys())
def test_a_file_that_does_not_import_shows_its_own_lines(
    tmp_path: Path, text: str, said: str
) -> None:
    (tmp_path / "beside.py").write_text("import absent\n")
    (tmp_path / "beside2.py").write_text("")
    with pytest.raises(ModelError, match=f"fails to import: (?s:.*){said}") as caught:
        build(tmp_path, text)
    assert "optimize/" not in str(caught.value) and "user_files" not in str(caught.value)


@pytest.mark.parametrize("kind", ["build", "forward", "data"])
def test_a_function_that_raises_shows_its_own_lines(tmp_path: Path, kind: str) -> None:
    text = f"""{HEAD}
    def forward(self, pixels):
        return helper(pixels)

def helper(x):
    return x.reshape(-1, 7)

def build():
    {"helper(nn.Linear(2, 2).weight)" if kind == "build" else "pass"}
    return Net()

def data():
    return helper(nn.Linear(2, 2).weight)
"""
    refusal: type[OptimizeError] = DataError if kind == "data" else ModelError
    with pytest.raises(refusal, match="shape '\\[-1, 7\\]' is invalid") as caught:
        if kind == "data":
            (tmp_path / "mine.py").write_text(text)
            image_data.load_data(Named("mine.py:data"), tmp_path, 0)
        build(tmp_path, text)
    lines = str(caught.value).splitlines()
    assert lines[-1] == f"  {tmp_path}/mine.py:8 in helper: return x.reshape(-1, 7)"
    assert not any("optimize/" in line for line in lines)


def test_a_function_that_is_not_there_is_told_what_is(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def make(): pass\ndef train(): pass\n")
    with pytest.raises(ModelError, match="has no function 'build'; it has make, train"):
        load_function("mine.py:build", tmp_path)
    with pytest.raises(ModelError, match="is not a file"):
        load_function("other.py:build", tmp_path)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("import argparse\nargparse.ArgumentParser().parse_args(['--no'])\n", 2),
        ("import sys\n\ndef build():\n    sys.exit()\n", 4),
    ],
)
def test_a_file_that_ends_the_program_is_an_error(tmp_path: Path, text: str, line: int) -> None:
    """Its exit code would be taken for ours: 0 for a gate that passed."""
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(ModelError, match=rf"(?s)SystemExit.*under `if __name__.*mine\.py:{line}"):
        function = load_function("mine.py:build", tmp_path)
        call_users(function, Named("mine.py:build"), ModelError)


def test_classes_are_offered_in_place_of_a_missing_name(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("from pathlib import Path\nclass Net: pass\n")
    with pytest.raises(ModelError, match=r"has no function 'Nett'; it has Net$"):
        load_function("mine.py:Nett", tmp_path)
