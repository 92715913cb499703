"""What to try first when a budget was missed, from what happened in the run."""

from collections.abc import Mapping, Sequence
from typing import Any

from optimize.evaluation.metrics import Metric
from optimize.recipe.schema import Budget, StageSpec
from optimize.training.trainer import FEW_STEPS

_IMPROVING = 0.05  # share by which the loss fell within the last fifth of the training


def advise(
    budget: Budget,
    metric: Metric,
    stages: Sequence[StageSpec],
    measured: Mapping[str, Mapping[str, Any]],
) -> list[str]:
    """Sentences, the most useful one first; none if the final model lost nothing.

    Args:
        budget: what was missed.
        metric: what it was measured in.
        stages: of the recipe.
        measured: the report's rows: `original`, `stage:NAME` in order, and `final`.
    """
    original, final = measured["original"][metric.name], measured["final"][metric.name]
    if budget.floor is not None and metric.lost(budget.floor, original) > 1e-9:
        return [
            "the original itself is beyond the floor: train it better first, compressing less "
            "does not help",
            *_of_training("the original", measured["original"]),
        ]
    lost = _lost(metric, measured)
    if not lost or metric.lost(original, final) <= 0 >= max(lost.values()):
        return []
    worst = max(lost, key=lambda name: lost[name])
    amount = metric.amount(lost[worst])
    total = metric.amount(metric.lost(original, final))
    said = [f"{worst} lost most: {amount}" + (f" ({total} in all)" if len(lost) > 1 else "")]
    said += _of_training(worst, measured[f"stage:{worst}"])
    spec = next((stage for stage in stages if stage.name == worst), None)
    if spec is not None:
        said.append(_option(spec, budget))
    return said


def _lost(metric: Metric, measured: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """What each stage lost against the one before it."""
    before, lost = measured["original"][metric.name], {}
    for name, row in measured.items():
        if name.startswith("stage:"):
            lost[name.removeprefix("stage:")] = metric.lost(before, row[metric.name])
            before = row[metric.name]
    return lost


def _of_training(name: str, row: Mapping[str, Any]) -> list[str]:
    """What the history of a stage's training says, if it trained."""
    found = row.get("details", {}).get("training") or []
    histories = found if isinstance(found, list) else [found]
    said = []
    few = [h for h in histories if 0 < h.get("epoch_steps", 0) < FEW_STEPS]
    if few:
        steps = sum(history["steps"] for history in histories)
        said.append(
            f"{name} trained for {steps} steps, {few[0]['epoch_steps']} an epoch: raise its "
            "epochs or make its batches smaller"
        )
    elif any(map(still_improving, histories)):
        said.append(f"{name} was still improving when its training ended: raise its epochs")
    return said


def still_improving(history: Mapping[str, Any]) -> bool:
    """Whether a training's best epoch was its last, or its loss fell to the end.

    Args:
        history: an `optimize.training.trainer.History` as a mapping.
    """
    validation = history.get("validation") or []
    if len(validation) > 1:
        best = max(value for _, value in validation)
        return bool(validation[-1][1] == best and validation[0][1] < best)
    losses = [value for _, value in history.get("loss") or []]
    fifth = len(losses) // 5
    if not fifth:
        return False
    before, last = sum(losses[-2 * fifth : -fifth]), sum(losses[-fifth:])
    return bool(last < before * (1 - _IMPROVING))


def _option(spec: StageSpec, budget: Budget) -> str:
    """The option of a stage to change first."""
    options = spec.options
    recover = getattr(options, "recover", None)
    if hasattr(options, "max_drop") and options.max_drop is None:
        allowed = budget.max_drop / 2
        return f"give {spec.name} `max_drop: {allowed:g}`: its costliest layers then stay in float"
    if hasattr(options, "recover") and recover is None:
        return f"give {spec.name} `recover: {{epochs: 1}}`: it then trains what it compressed"
    if hasattr(options, "ratio"):
        return f"lower {spec.name}'s `ratio` (now {options.ratio:g}), or raise `recover.epochs`"
    if hasattr(options, "heads") and hasattr(options, "neurons"):
        return (
            f"keep more of {spec.name}'s `heads` (now {options.heads}) or `neurons` (now "
            f"{options.neurons})"
        )
    for name in ("layers", "rows", "rank", "margin"):
        if hasattr(options, name):
            return f"raise {spec.name}'s `{name}` (now {getattr(options, name)})"
    if hasattr(options, "student"):
        return f"give {spec.name} a wider `student`, or more `epochs` (now {options.epochs:g})"
    if recover is not None:
        return f"raise {spec.name}'s `recover.epochs` (now {recover.epochs:g})"
    return f"compress less in {spec.name}, or leave it out"
