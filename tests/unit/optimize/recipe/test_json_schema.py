"""The schema of recipes: up to date, true to every recipe there is, as strict as `read`."""

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from optimize.recipe.json_schema import NAME_OF_FILE
from optimize.recipe.reader import Loader
from optimize.tasks import registry
from tests.unit.optimize.recipe.test_read import BAD

ROOT = Path(__file__).resolve().parents[4]
FILE = ROOT / "recipes" / NAME_OF_FILE
SCHEMA = registry.json_schema()
CHECK = jsonschema.Draft202012Validator(SCHEMA)
# Refused by `read` for what several values say together, or for a number's range.
VALUES = {
    *("twice", "ratio of 1", "ratio not a number", "ratio infinite", "no epochs", "calibration"),
    *("serving", "too many examples"),
}
PAGES = sorted([*(ROOT / "docs").rglob("*.md"), ROOT / "README.md"])


def load(text: str) -> Any:
    return yaml.load(text, Loader)


def test_the_file_is_what_the_options_say() -> None:
    """`python -m optimize schema > recipes/recipe.schema.json` writes it anew."""
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert json.loads(FILE.read_text(encoding="utf-8")) == SCHEMA


def test_the_command_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    from optimize.__main__ import main

    assert main(["schema"]) == 0
    assert capsys.readouterr().out == FILE.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda p: p.stem)
def test_a_recipe_of_this_repository(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.startswith(f"# yaml-language-server: $schema={NAME_OF_FILE}\n")
    CHECK.validate(load(text))


def parts() -> list[tuple[str, dict[str, Any]]]:
    """Recipes in documents, whole or as far as they are shown, with where they stand."""
    found = []
    for page in PAGES:
        for block in re.findall(r"^```ya?ml[^\n]*\n(.*?)^```", page.read_text(), re.M | re.S):
            # Alternatives of one key stand below each other.
            chunks = [block] if "\ntask:" in block else re.split(r"\n(?=[a-z_]+:)", block)
            for chunk in chunks:
                shown = load(chunk)
                if isinstance(shown, dict) and {*shown} & ({*SCHEMA["properties"]} - {"name"}):
                    found.append((f"{page.relative_to(ROOT)}: {chunk[:60]}", shown))
    return found


@pytest.mark.parametrize(("where", "shown"), parts())
def test_what_documents_show(where: str, shown: dict[str, Any]) -> None:
    """A part of a recipe fits the recipes of one task at least."""
    wholes = []
    for task in registry.names():
        needed = {"name": "a", "task": task, "data": "a/b", "model": "a/b", "stages": []}
        wholes.append({**needed, **shown})
    assert any(CHECK.is_valid(whole) for whole in wholes), where


def test_documents_show_recipes() -> None:
    assert len(parts()) >= 10


@pytest.mark.parametrize(("title", "text"), [bad[:2] for bad in BAD], ids=[bad[0] for bad in BAD])
def test_what_run_refuses_is_refused(title: str, text: str) -> None:
    try:
        shown = load(text)
    except yaml.YAMLError:
        return  # no schema is needed to see it
    assert CHECK.is_valid(shown) is (title in VALUES)


FASHION = load((ROOT / "recipes" / "fashion.yaml").read_text())


@pytest.mark.parametrize(
    "wrong",
    [
        {"bugdet": {"max_drop": 0.1}},
        {"budget": {"max_dorp": 0.1}},
        {"data": "fashion_minst"},
        {"data": {"fashion_mnist": {"limt": 5}}},
        {"model": {"resnet": {"widht": 5}}},
        {"model": {"resnet": {}, "convnet": {}}},
        {"stages": [{"quantise": {}}]},
        {"stages": [{"quantize": {"calibrate": 5}}]},
        {"stages": [{"quantize": {"method": "int8"}}]},
        {"stages": [{"prune": {"recover": {"epoch": 5}}}]},
        {"stages": [{"distill": {"student": {"convnet": {"widht": [3]}}}}]},
        {"stages": [{"vocabulary": {"rows": 5}}]},  # another task's
        {"input": {"sise": 5}},
        {"metric": "regression"},  # the task has its own
        {"search": {"trial": 5}},
        {"seed": 0.5},
    ],
    ids=str,
)
def test_a_misspelt_word_is_refused(wrong: dict[str, Any]) -> None:
    CHECK.validate(FASHION)
    assert not CHECK.is_valid({**FASHION, **wrong})


def test_a_users_own_names_have_any_options() -> None:
    own = {"data": {"mine.py:load": {"anything": 1}}, "model": {"./net.py:Net": {"depth": 3}}}
    CHECK.validate({**FASHION, **own})
    CHECK.validate({**FASHION, "model": "timm/resnet18", "data": "pictures/", "search": True})


def test_options_are_described() -> None:
    """Each of a stage's options says what it means; editors show it."""
    options = {
        f"{name}.{option}": entry
        for name, made in SCHEMA["$defs"].items()
        for option, entry in made.get("properties", {}).items()
    }
    missing = sorted(name for name, entry in options.items() if not entry.get("description"))
    assert len(options) > 100 and missing == []
