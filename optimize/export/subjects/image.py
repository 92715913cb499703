"""Image classifiers: one module from uint8 pixels to logits."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from optimize.data.dataset import Dataset
from optimize.evaluation import accuracy
from optimize.evaluation.metrics import ACCURACY
from optimize.export import source
from optimize.export.subject import Axis, Exportable, Subject
from optimize.recipe.schema import Recipe
from optimize.tasks import image

SERVED = True  # the files take and return what model.pt does
BATCH = 8
SAMPLES = 2000
CALIBRATION = 256


def make(module: nn.Module, dataset: Dataset) -> Exportable:
    """An image classifier to export.

    Args:
        module: float32, uint8 `[N, C, H, W]` to logits `[N, classes]`.
        dataset: its held-out inputs check the files, its training inputs calibrate them.
    """
    test = dataset.test[:SAMPLES]
    crops = dataset.agreement if dataset.agreement is not None else test.inputs
    calibration = dataset.train.inputs if dataset.train is not None else dataset.calibration
    chosen = test.inputs[:CALIBRATION] if calibration is None else calibration
    order = torch.randperm(len(chosen), generator=torch.Generator().manual_seed(0))
    subject = Subject(
        name="model",
        # Training leaves weights in channels-last order, which ExecuTorch does not accept.
        module=copy.deepcopy(module).eval().to(memory_format=torch.contiguous_format),  # type: ignore[call-overload]
        inputs=("pixels",),
        outputs=("logits",),
        # Traced with a batch of two: torch.export would make a batch of one a constant.
        pieces=[(crops[start : start + n],) for start, n in ((0, 2), (2, 1), (3, 3), (6, 8))],
        calibration=[(part,) for part in chosen[order[:CALIBRATION]].split(BATCH)],
        axes={"batch": Axis()},
        dynamic=({0: "batch"},),
    )
    reference: list[Tensor] = []

    def measure(
        run: dict[str, Callable[..., list[Tensor]]], limit: int | None = None
    ) -> dict[str, Any]:
        """Accuracy on the labelled samples, agreement on the unlabelled ones if there are any."""
        if not reference:
            reference.append(_answers(subject, crops))
        agreed = accuracy.agreement(_answers(run["model"], crops), reference[0])
        return {
            **image.score(_answers(run["model"], test.inputs), test.targets),
            "agreement": agreed,
            "agreement_samples": len(crops),
        }

    return Exportable(
        [subject], ACCURACY, measure, served=True, notes=_notes(len(test), len(crops))
    )


def _notes(labelled: int, compared: int) -> list[str]:
    if labelled >= 500:
        return []
    return [
        f"only {labelled} held-out samples have labels: the check is agreement with the PyTorch "
        f"module on {compared}"
    ]


def _answers(run: Callable[..., list[Tensor]], inputs: Tensor) -> Tensor:
    return torch.cat([run(part)[0].float() for part in inputs.split(BATCH)])


def load(recipe: Recipe, folder: Path, report: dict[str, Any]) -> Exportable:
    """See `optimize.export.subjects.load`."""
    dataset = image.ImageClassification().load_data(recipe)
    source.same_data(dataset.fingerprint(), recipe, report)
    state = source.final_state(recipe, folder, report)
    return make(state.float_model, dataset)
