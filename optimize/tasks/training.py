"""Arguments of training functions other than model, data and options, from the context."""

from typing import Any

from optimize.tasks.base import Context
from optimize.tasks.splits import S, split_of
from optimize.training.trainer import History, TrainerOptions


def training_arguments(options: TrainerOptions, context: Context[S], name: str) -> dict[str, Any]:
    """Arguments `seed`, `title`, `validation`, `progress`, `history` and `say` of a `fit`.

    Args:
        options: of the training.
        context: of the stage.
        name: of the training within the stage, for its checkpoints.

    Raises:
        DataError: `patience` without a validation split.
    """
    if options.patience:
        split_of(context.data, "validation")
    return {
        "seed": context.seed,
        "title": context.title,
        "validation": context.data.validation,
        "progress": context.progress(name, options.checkpoint_seconds),
        "history": History(),
        "say": context.say,
    }
