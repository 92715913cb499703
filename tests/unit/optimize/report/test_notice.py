import dataclasses
from pathlib import Path

import pytest

from optimize.errors import RecipeError
from optimize.recipe.schema import Licences
from optimize.report import notice
from optimize.tasks.registry import read_recipe
from tests.unit.optimize.conftest import SMALL
from tests.unit.optimize.report.reports import report


def test_what_the_recipe_does_not_state_is_unknown() -> None:
    assert notice.to_json(Licences(data="CC0-1.0")) == {
        "weights": "unknown: the recipe does not state it",
        "data": "CC0-1.0",
    }


def test_the_notice_names_terms_and_holds_the_recipes_own_text(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(
        f"{SMALL}\nlicences: {{weights: MIT, notice: THANKS.txt}}\n", encoding="utf-8"
    )
    with pytest.raises(RecipeError, match=r"small.yaml:\d+: notice .*THANKS.txt: No such file"):
        read_recipe(tmp_path / "small.yaml")
    (tmp_path / "THANKS.txt").write_text("Drawn by Ada.\n", encoding="utf-8")
    recipe = read_recipe(tmp_path / "small.yaml")
    stated = notice.to_json(recipe.licences)
    text = notice.text(report(licences=stated), recipe)
    assert "recipe names. Licence: MIT\n" in text and "(a file). Licence: unknown: the" in text
    assert text.endswith("\n\nDrawn by Ada.\n")
    other = dataclasses.replace(recipe, licences=Licences(weights="GPL-3.0-only"))
    assert other.digest() != recipe.digest()
