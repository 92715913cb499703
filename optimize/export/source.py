"""What exporting reads of an artifact: its recipe, data, and the float model in `stages/`."""

from pathlib import Path
from typing import Any

from optimize.errors import RecipeError
from optimize.pipeline.finished import last_state
from optimize.recipe.schema import Recipe
from optimize.tasks.base import State
from optimize.tasks.registry import read_recipe
from optimize.utils.signatures import Untrusted


def recipe_of(
    folder: Path, report: dict[str, Any], path: Path | None, overrides: list[str]
) -> Recipe:
    """The recipe that made an artifact: `path`, or `recipes/NAME.yaml` by the report's name.

    Raises:
        RecipeError: there is none, or its name or task is another.
    """
    file = path or Path("recipes") / f"{report['recipe']}.yaml"
    if not file.is_file():
        raise RecipeError(
            f"{folder} was made from a recipe named {report['recipe']!r}, and there is no {file}: "
            "say where it is with --recipe"
        )
    recipe = read_recipe(file, overrides)
    if (recipe.name, recipe.task) != (report["recipe"], report["task"]):
        raise RecipeError(
            f"this is the recipe of {recipe.name!r} ({recipe.task}), and {folder} was made from "
            f"{report['recipe']!r} ({report['task']})",
            str(file),
        )
    return recipe


def same_data(fingerprint: str, used: Recipe, report: dict[str, Any]) -> None:
    """Refuse data that is not what the artifact was measured on.

    Raises:
        RecipeError: it differs.
    """
    if fingerprint != report["data"]["fingerprint"]:
        raise RecipeError(
            "loads other data than the artifact was made and measured on: use the recipe (and the "
            "--set settings) of that run, or run it again",
            used.file,
        )


def final_state(used: Recipe, folder: Path, report: dict[str, Any]) -> State:
    """The last stage's state, with the compressed model before quantization.

    Raises:
        RecipeError: the artifact has no stages, or none of the run that the report is of.
    """
    again = f"run `python -m optimize run {used.file} --output {folder}` first"
    try:
        state = last_state(folder / "stages", report["digest"])
    except Untrusted as error:
        raise RecipeError(
            f"{folder}/stages, where the float model to export lies, is not used: {error}; {again}"
        ) from error
    except Exception as error:  # a pickle can raise anything
        raise RecipeError(
            f"{folder}/stages is damaged, and the float model to export lies in it: {again}"
        ) from error
    if state is None:
        raise RecipeError(
            f"{folder}/stages has no stage of the run that {folder}/report.json is of, and the "
            f"float model to export lies there: {again}"
        )
    return state
