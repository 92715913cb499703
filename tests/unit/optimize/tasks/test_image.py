"""What is known of a recipe's model before it is built."""

from pathlib import Path

import pytest

from optimize.recipe.reader import Named
from optimize.recipe.schema import Recipe
from optimize.tasks.image import ImageClassification


@pytest.mark.parametrize(
    ("model", "checkpoint", "random"),
    [
        (Named("resnet", {"width": 8}), None, True),
        (Named("resnet"), "mine.pt", False),
        (Named("convnet"), None, True),
        (Named("efficientnet_lite"), None, False),
        (Named("timm", {"name": "resnet18"}), None, True),
        (Named("timm/resnet18"), None, True),
        (Named("timm", {"name": "resnet18", "pretrained": True}), None, False),
        (Named("timm", {"name": "resnet18", "checkpoint_path": "a.pt"}), None, False),
        (Named("./empty"), None, True),
        (Named("./whole"), None, False),
        (Named("./absent"), None, False),
        (Named("mine.py:build"), None, False),
        (Named("model.pt"), None, False),
    ],
    ids=str,
)
def test_models_that_nobody_has_trained_are_known(
    tmp_path: Path, model: Named, checkpoint: str | None, random: bool
) -> None:
    for name in ("empty", "whole"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    (tmp_path / "whole" / "model.safetensors").touch()
    recipe = Recipe(
        name="a",
        task="image_classification",
        data=Named("mine.py:load"),
        model=model,
        stages=[],
        checkpoint=checkpoint,
        folder=tmp_path,
    )
    assert ImageClassification().has_random_weights(recipe) == random
