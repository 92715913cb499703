"""What to try first follows from what happened."""

from dataclasses import dataclass
from typing import Any

import pytest

from optimize.evaluation.metrics import ACCURACY
from optimize.recipe.schema import Budget, StageSpec
from optimize.report.advice import advise, still_improving
from optimize.tasks.image_stages import DistillStage, PruneStage, QuantizeStage
from optimize.tasks.text_stages import PruneStage as TextPruneStage
from optimize.training.distillation import DistillOptions


def history(epoch_steps: int = 400, loss: list[float] | None = None) -> dict[str, Any]:
    losses = [1.0] * 100 if loss is None else loss
    return {
        "loss": list(enumerate(losses, 1)),
        "validation": [],
        "steps": 5 * epoch_steps,
        "epoch_steps": epoch_steps,
    }


def measured(**values: float) -> dict[str, dict[str, Any]]:
    """Rows of the accuracy after each stage; the last is the final model's too."""
    rows = {name: {"accuracy": value} for name, value in values.items()}
    named = {k if k == "original" else f"stage:{k}": row for k, row in rows.items()}
    return {**named, "final": dict(rows[list(rows)[-1]])}


def stage(options: Any, name: str) -> StageSpec:
    return StageSpec(name.partition("-")[0], name, options)


def test_the_stage_that_lost_most_is_named() -> None:
    rows = measured(original=0.9, prune=0.85, quantize=0.84)
    specs = [stage(PruneStage(), "prune"), stage(QuantizeStage(), "quantize")]
    said = advise(Budget(), ACCURACY, specs, rows)
    assert said[0] == "prune lost most: 5.00 points (6.00 points in all)"
    assert said[1:] == ["give prune `recover: {epochs: 1}`: it then trains what it compressed"]


@pytest.mark.parametrize(
    ("trained", "word"),
    [
        (history(), None),
        (history(12), "trained for 60 steps, 12 an epoch"),
        (history(loss=[1 - i / 200 for i in range(100)]), "still improving"),
    ],
)
def test_a_training_that_was_too_short_comes_first(
    trained: dict[str, Any], word: str | None
) -> None:
    rows = measured(original=0.9, prune=0.8)
    rows["stage:prune"]["details"] = {"training": [trained]}
    spec = stage(PruneStage(ratio=0.5, recover=DistillOptions()), "prune")
    said = advise(Budget(), ACCURACY, [spec], rows)
    assert "lower prune's `ratio` (now 0.5)" in said[-1]
    assert len(said) == (2 if word is None else 3)
    assert word is None or word in said[1]


@dataclass(frozen=True)
class Mystery:
    """Options of a stage that we know nothing of."""


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (QuantizeStage(), "`max_drop: 0.005`"),
        (QuantizeStage(max_drop=0.1), "`recover: {epochs: 1}`"),
        (QuantizeStage(max_drop=0.1, recover=DistillOptions(3)), "`recover.epochs` (now 3)"),
        (DistillStage(epochs=4), "a wider `student`, or more `epochs` (now 4)"),
        (TextPruneStage(heads=4, recover=DistillOptions()), "`heads` (now 4)"),
        (Mystery(), "compress less in s, or leave it out"),
    ],
)
def test_the_option_to_change_is_one_the_stage_has(options: Any, word: str) -> None:
    rows = measured(original=0.9, s=0.8)
    assert word in advise(Budget(), ACCURACY, [stage(options, "s")], rows)[-1]


def test_an_original_beyond_the_floor_is_trained_first() -> None:
    rows = measured(original=0.6, prune=0.59)
    rows["original"]["details"] = {"training": history(9)}
    said = advise(Budget(floor=0.8), ACCURACY, [stage(PruneStage(), "prune")], rows)
    assert "the original itself is beyond the floor" in said[0]
    assert "the original trained for 45 steps" in said[1] and len(said) == 2


def test_nothing_lost_is_nothing_said() -> None:
    assert advise(Budget(), ACCURACY, [], measured(original=0.9)) == []
    assert advise(Budget(), ACCURACY, [], measured(original=0.9, quantize=0.91)) == []


@pytest.mark.parametrize(
    ("values", "improving"),
    [([0.5, 0.6, 0.7], True), ([0.5, 0.7, 0.7], True), ([0.5, 0.7, 0.6], False), ([0.5], False)],
)
def test_the_best_epoch_was_the_last(values: list[float], improving: bool) -> None:
    found = {**history(), "validation": list(enumerate(values, 1))}
    assert still_improving(found) == improving
