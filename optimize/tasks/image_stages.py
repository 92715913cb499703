"""The stages of image recipes: what a recipe may say, and the library calls it becomes."""

import copy
import dataclasses
import functools
import warnings
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from optimize.data.dataset import Dataset, Split
from optimize.errors import DataError
from optimize.pruning.dead import remove_dead
from optimize.pruning.prune import PruneOptions, prune, widths
from optimize.pruning.sensitivity import accuracy_on, pruning_table
from optimize.pruning.weights import NO_SPEED, held, zeros
from optimize.quantization.fake_quantize import input_ranges, layers, simulated
from optimize.quantization.quantize import QuantizeOptions, quantize
from optimize.tasks.base import Context, State
from optimize.training.distillation import DistillOptions, distill, teacher_logits
from optimize.training.fit import TrainOptions, fit
from optimize.training.trainer import History


@dataclass(frozen=True)
class PruneStage(PruneOptions):
    """Prune the current model, then `recover` by distillation from the original.

    Attributes:
        recover: how to train after pruning; its epochs are shared by the iterations.
        sensitivity: ratios of the report's table of what each layer costs alone; none by
            default, as it takes an evaluation per layer and ratio.
        sensitivity_samples: images each of those evaluations sees.
    """

    recover: DistillOptions | None = None
    sensitivity: list[float] = field(default_factory=list)
    sensitivity_samples: int = 1000

    def __post_init__(self) -> None:
        super().__post_init__()
        if any(not 0 < ratio < 1 for ratio in self.sensitivity) or self.sensitivity_samples < 1:
            raise ValueError(
                "sensitivity is a list of ratios between 0 and 1, sensitivity_samples 1 or more"
            )


@dataclass(frozen=True)
class QuantizeStage(QuantizeOptions):
    """Quantize the current model.

    Attributes:
        recover: first train on with int8 simulated, by distillation from the original
            (quantization-aware training); a tenth of the usual learning rate serves.
    """

    recover: DistillOptions | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.recover is not None and self.method != "static_int8":
            raise ValueError(f"recover trains for static_int8, not for {self.method}")


def split_of(dataset: Dataset, name: str) -> Split:
    """A split of the data set, by name.

    Raises:
        DataError: there is none.
    """
    split: Split | None = getattr(dataset, name)
    if split is None or not len(split):
        raise DataError(f"data set {dataset.name} has no {name} split, and this recipe needs one")
    return split


def example(dataset: Dataset) -> Tensor:
    """One real image uint8 `[1, C, H, W]`."""
    return dataset.test.inputs[:1]


def given(options: TrainOptions, context: Context, name: str) -> dict[str, Any]:
    """What `fit` and `distill` take beside model, data and options."""
    if options.patience:
        split_of(context.dataset, "validation")
    return {
        "seed": context.seed,
        "title": context.title,
        "validation": context.dataset.validation,
        "progress": context.progress(name, options.checkpoint_seconds),
        "history": History(),
    }


def training_logits(state: State, flip: bool, context: Context) -> Tensor:
    """What the original says of the training images, computed once per run."""
    views = 2 if flip else 1
    if state.training is None or len(state.training) < views:
        split = split_of(context.dataset, "train")
        state.training = teacher_logits(state.original, split, flip)
    return state.training


def run_train(state: State, options: TrainOptions, context: Context) -> State:
    """Train the model itself; it becomes the original."""
    arguments = given(options, context, "train")
    fit(state.model, split_of(context.dataset, "train"), options, **arguments)
    details = {"training": dataclasses.asdict(arguments["history"])}
    return State(state.model, state.model, state.model, details=details)


def run_distill(
    state: State, options: DistillOptions, context: Context, student: nn.Module
) -> State:
    """Distil the original into `student`."""
    logits = training_logits(state, options.flip, context)
    arguments = given(options, context, "distill")
    distill(student, logits, split_of(context.dataset, "train"), options, **arguments)
    details = {"training": dataclasses.asdict(arguments["history"])}
    return dataclasses.replace(state, model=student, float_model=student, details=details)


def run_prune(state: State, options: PruneStage, context: Context) -> State:
    """Prune, recover after each step, and note what happened."""
    image = example(context.dataset)
    details: dict[str, Any] = {}
    if options.sensitivity:
        split = context.dataset.validation or split_of(context.dataset, "train")
        accuracy = accuracy_on(split, options.sensitivity_samples)
        details["sensitivity"] = pruning_table(
            state.model, image, options.sensitivity, accuracy, keep=options.keep
        )
    details["widths_before"] = widths(state.model)
    if options.structure == "channels":
        _, dead = remove_dead(
            state.model, image, keep=tuple(options.keep), round_to=options.round_to
        )
        details["dead"] = dead
        if dead:
            context.say(f"    dead channels removed, exactly: {dead}")
    else:
        details["notes"] = [NO_SPEED]
        context.say(f"    warning: {NO_SPEED}")
    recover = None
    if options.recover is not None:
        recover = functools.partial(_recover, state, options, context, details)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="structure: weights")
        pruned = prune(state.model, image, options, split=context.dataset.train, recover=recover)
    details["widths"] = widths(pruned)
    if options.structure == "weights":
        details["zeros"] = zeros(pruned)
    return dataclasses.replace(state, model=pruned, float_model=pruned, details=details)


def _recover(
    state: State,
    options: PruneStage,
    context: Context,
    details: dict[str, Any],
    model: nn.Module,
    step: int,
) -> None:
    assert options.recover is not None
    share = dataclasses.replace(options.recover, epochs=options.recover.epochs / options.iterations)
    arguments = given(share, context, f"recover-{step}")
    arguments["seed"] = context.seed + step
    if options.iterations > 1:
        arguments["title"] = f"{context.title} {step + 1}/{options.iterations}"
    logits = training_logits(state, share.flip, context)
    with held(model) if options.structure == "weights" else nullcontext():
        distill(model, logits, split_of(context.dataset, "train"), share, **arguments)
    details.setdefault("training", []).append(dataclasses.asdict(arguments["history"]))


def calibration_images(context: Context, count: int) -> Tensor:
    """Real images to calibrate with, drawn from the training split.

    Raises:
        DataError: there are none.
    """
    dataset = context.dataset
    images = dataset.train.inputs if dataset.train is not None else dataset.calibration
    if images is None:
        raise DataError(f"data set {dataset.name} has no images to calibrate with")
    generator = torch.Generator().manual_seed(context.seed)
    return images[torch.randperm(len(images), generator=generator)[:count]]


def run_quantize(state: State, options: QuantizeStage, context: Context) -> State:
    """Quantize, after training for it if asked, and note which layers stayed in float and why."""
    images = calibration_images(context, options.calibration)
    details: dict[str, Any] = {"method": options.method}
    model = state.model
    if options.recover is not None:
        model = _train_for_int8(state, options, context, images, details)
    accuracy = None
    if options.max_drop is not None or options.sensitivity:
        split = context.dataset.validation or split_of(context.dataset, "train")
        accuracy = accuracy_on(split, len(split) if options.max_drop is not None else 1000)
    quantized = quantize(model, images, options, accuracy=accuracy, details=details)
    if options.max_drop is not None:
        kept = [name for name in details["left_in_float"] if name not in options.keep]
        context.say(
            f"    {details['lowered']} layers in {options.method}, {len(kept)} in float; drop "
            f"{details['drop']:.4f} of {options.max_drop:.4f} on the validation split"
        )
    float_model = model if options.recover is not None else state.float_model
    return dataclasses.replace(
        state,
        model=quantized,
        float_model=float_model,
        engine=getattr(quantized, "engine", None),
        details=details,
    )


def _train_for_int8(
    state: State,
    options: QuantizeStage,
    context: Context,
    images: Tensor,
    details: dict[str, Any],
) -> nn.Module:
    assert options.recover is not None
    recover = options.recover
    if recover.precision == "auto":  # bfloat16 would round the int8 steps away
        recover = dataclasses.replace(recover, precision="fp32")
    model = copy.deepcopy(state.model)
    kept = [n for n in layers(model) if any(n == k or n.startswith(f"{k}.") for k in options.keep)]
    affines = input_ranges(model, images, options.ranges)
    arguments = given(recover, context, "int8")
    logits = training_logits(state, recover.flip, context)
    with simulated(model, affines, only=[n for n in affines if n not in kept]):
        split = split_of(context.dataset, "train")
        distill(model, logits, split, recover, freeze_norm=True, **arguments)
    details["training"] = dataclasses.asdict(arguments["history"])
    return model
