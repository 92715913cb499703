import dataclasses
from pathlib import Path

import pytest

from optimize.errors import RecipeError
from optimize.recipe import schema
from optimize.tasks.registry import read_recipe
from tests.unit.optimize.conftest import SMALL

ROOT = Path(__file__).resolve().parents[4]


def broken(change: str, to: str) -> str:
    assert change in SMALL
    return SMALL.replace(change, to)


# what is wrong, the recipe, the line of the message, a word it must hold
BAD = [
    ("empty", "", None, "empty"),
    ("not yaml", "name: [", 1, ""),
    ("tab", "name:\n\t- x", 2, ""),
    ("a list", "- name", 1, "mapping"),
    ("a word", "hello", 1, "mapping"),
    ("no name", broken("name: small\n", ""), 1, "'name'"),
    ("no task", broken("task: image_classification\n", ""), 1, "'task'"),
    ("no stages", SMALL[: SMALL.index("stages:")], 1, "'stages'"),
    ("unknown key", broken("seed: 3", "sede: 3"), 3, "seed"),
    ("twice", broken("seed: 3", "name: other"), 3, "twice"),
    ("bad name", broken("name: small", "name: a/b"), 1, "letters"),
    ("name is a list", broken("name: small", "name: [a]"), 1, "text"),
    ("unknown task", broken("image_classification", "image"), 2, "image_classification"),
    ("seed is text", broken("seed: 3", "seed: three"), 3, "whole number"),
    ("seed is fractional", broken("seed: 3", "seed: 3.5"), 3, "whole number"),
    ("seed is negative", broken("seed: 3", "seed: -1"), 3, "0 or more"),
    ("seed is boolean", broken("seed: 3", "seed: true"), 3, "whole number"),
    ("two models", broken("resnet: {width: 8, blocks: 1}", "resnet: {}\n  convnet: {}"), 7, "one"),
    ("model is a list", broken("  resnet: {width: 8, blocks: 1}", "  - resnet"), 7, "mapping"),
    ("stages is a mapping", broken("stages:\n  - train", "stages:\n  train"), None, ""),
    ("stages is text", SMALL[: SMALL.index("stages:")] + "stages: train", 8, "list"),
    ("unknown stage", broken("- prune:", "- shrink:"), 14, "shrink"),
    ("unknown option", broken("ratio: 0.5", "ration: 0.5"), 15, "ratio"),
    ("ratio of 1", broken("ratio: 0.5", "ratio: 1"), 15, "between 0 and 1"),
    ("ratio as text", broken("ratio: 0.5", "ratio: half"), 15, "number"),
    ("ratio not a number", broken("ratio: 0.5", "ratio: .nan"), 15, "finite"),
    ("ratio infinite", broken("ratio: 0.5", "ratio: .inf"), 15, "finite"),
    ("importance", broken("ratio: 0.5", "importance: random"), 15, "magnitude"),
    ("no epochs", broken("{epochs: 1, batch", "{epochs: 0, batch"), 16, "above 0"),
    ("option is a list", broken("{epochs: 1,", "{epochs: [1],"), 16, "number"),
    (
        "options are text",
        broken("- quantize: {calibration: 128}", "- quantize: int8"),
        17,
        "mapping",
    ),
    ("calibration", broken("calibration: 128", "calibration: 0"), 17, "2 images"),
    ("method", broken("calibration: 128", "method: int3"), 17, "static_int8"),
    ("controls", broken("controls: true", "controls: maybe"), 18, "true or false"),
    ("budget is text", broken("{max_drop: 0.9}", "tight"), 19, "mapping"),
    ("budget key", broken("max_drop: 0.9", "max_loss: 0.9"), 19, "max_drop"),
    ("serving", SMALL + "serving: {workers: 0}\n", 20, "start at 1"),
    ("too many examples", SMALL + "report: {examples: 9}\n", 20, "0 to 8"),
    ("serving list", SMALL + "serving: {batch_sizes: 8}\n", 20, "list"),
]


@pytest.mark.parametrize(("text", "line", "word"), [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_a_bad_recipe_is_refused_with_its_line(
    tmp_path: Path, text: str, line: int | None, word: str
) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(RecipeError) as caught:
        read_recipe(path)
    message = str(caught.value)
    assert message.startswith(f"{path}:{line}: " if line else f"{path}:"), message
    assert word in message
    assert caught.value.exit_code == 2


def test_a_missing_file_and_binary_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="cannot be read"):
        read_recipe(tmp_path / "none.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(RecipeError, match="not UTF-8"):
        read_recipe(tmp_path / "binary.yaml")


def test_values_reach_their_dataclasses(recipe_file: Path) -> None:
    found = read_recipe(recipe_file)
    assert (found.name, found.seed, found.controls) == ("small", 3, True)
    assert found.model == schema.Named("resnet", {"width": 8, "blocks": 1}, (str(recipe_file), 7))
    assert [s.name for s in found.stages] == ["train", "distill", "prune", "quantize"]
    assert found.stages[1].options.student.options["widths"] == [32, 32]
    assert found.stages[2].options.recover.epochs == 1.0
    assert found.stages[2].options.round_to == 16
    assert found.serving.warm_up() == [1, 2, 3, 4]


def test_a_repeated_stage_gets_a_name_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "twice.yaml"
    path.write_text(broken("  - quantize", "  - prune:\n  - quantize"), encoding="utf-8")
    assert [s.name for s in read_recipe(path).stages][2:4] == ["prune", "prune-2"]


def test_settings_override_the_file(recipe_file: Path) -> None:
    settings = ["seed=9", "stages.0.train.epochs=7", "serving.workers=5", "budget.max_drop=0.5"]
    found = read_recipe(recipe_file, settings)
    assert found.seed == 9
    assert found.stages[0].options.epochs == 7.0
    assert found.serving.workers == 5
    assert found.budget.max_drop == 0.5


@pytest.mark.parametrize(
    "setting", ["seed", "=3", "stages.0.train.epoch=7", "nothing.at.all=1", "seed=["]
)
def test_a_bad_setting_is_refused(recipe_file: Path, setting: str) -> None:
    with pytest.raises(RecipeError):
        read_recipe(recipe_file, [setting])


def test_the_digest_follows_what_decides_the_result(recipe_file: Path, tmp_path: Path) -> None:
    found = read_recipe(recipe_file)
    assert found.digest() == read_recipe(recipe_file).digest()
    moved = tmp_path / "moved.yaml"
    moved.write_text("# a comment moves every line\n" + SMALL, encoding="utf-8")
    assert read_recipe(moved).digest() == found.digest()
    later = read_recipe(recipe_file, ["stages.2.prune.ratio=0.25"])
    assert later.digest(2) == found.digest(2)
    assert later.digest(3) != found.digest(3)
    assert read_recipe(recipe_file, ["seed=4"]).digest(1) != found.digest(1)
    assert dataclasses.replace(found, controls=False).digest() != found.digest()


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda p: p.stem)
def test_the_recipes_of_this_repository_are_sound(path: Path) -> None:
    assert read_recipe(path).name == path.stem


@pytest.mark.parametrize(
    ("written", "value"),
    [("1e-3", 0.001), (".5", 0.5), ("1E+2", 100.0), ("2", 2.0), ("5.e-1", 0.5)],
)
def test_numbers_are_numbers_as_people_write_them(
    recipe_file: Path, written: str, value: float
) -> None:
    """YAML 1.1 reads 1e-3 as a text."""
    text = recipe_file.read_text().replace("learning_rate: 0.05", f"learning_rate: {written}")
    recipe_file.write_text(text.replace("width: 8", f"width: {written}"))
    found = read_recipe(recipe_file, [f"budget.max_drop={written}"])
    assert found.stages[0].options.learning_rate == value
    assert found.budget.max_drop == value
    assert found.model.options["width"] == value


def test_a_whole_number_may_have_an_exponent(recipe_file: Path) -> None:
    assert read_recipe(recipe_file, ["serving.max_pixels=1e7"]).serving.max_pixels == 10_000_000
    for wrong in ("1e-3", "1.0", "'1e7'"):
        with pytest.raises(RecipeError, match="a whole number"):
            read_recipe(recipe_file, [f"serving.max_pixels={wrong}"])
