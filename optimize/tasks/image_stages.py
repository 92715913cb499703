"""The stages of image recipes: their options, and the library calls they make."""

import copy
import dataclasses
import functools
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from optimize.data.dataset import Dataset
from optimize.errors import DataError, ModelError
from optimize.lowering import Lowered
from optimize.models.answers import check_answers
from optimize.models.notes import notes_of
from optimize.pruning.options import PruneOptions
from optimize.pruning.prune import prune, widths
from optimize.pruning.sensitivity import accuracy_on, pruning_table
from optimize.pruning.weights import NO_SPEED, zeros, zeros_held
from optimize.quantization import kernels
from optimize.quantization.fake_quantize import fake_quantized, input_ranges, layers
from optimize.quantization.kernels import Kernels
from optimize.quantization.quantize import QuantizeOptions, quantize
from optimize.quantization.static import to_static_int8
from optimize.recipe.schema import Named
from optimize.tasks.base import Context, State
from optimize.tasks.splits import split_of
from optimize.tasks.training import training_arguments
from optimize.training.distillation import DistillOptions, distill, teacher_logits
from optimize.training.fit import TrainOptions, fit
from optimize.utils.wording import few

BuildModel = Callable[[Named, Dataset, Path], nn.Module]


@dataclass(frozen=True)
class DistillStage(DistillOptions):
    """Distil the current model into `student`, or into a copy of its own shape.

    Attributes:
        student: the smaller model's architecture, as the recipe's `model`.
    """

    searched: ClassVar[bool] = True
    student: Named = field(default_factory=lambda: Named("convnet"))


@dataclass(frozen=True)
class PruneStage(PruneOptions):
    """Prune the current model, then `recover` by distillation from the original.

    Attributes:
        recover: how to train after pruning; its epochs are shared by the iterations.
        sensitivity: ratios for the report's table of each layer's sensitivity; none by default,
            because it takes an evaluation per layer and ratio.
        sensitivity_samples: images in each of those evaluations.
    """

    searched: ClassVar[bool] = True
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
        recover: first train with simulated int8, by distillation from the original
            (quantization-aware training); a tenth of the usual learning rate suffices.
    """

    searched: ClassVar[bool] = True
    recover: DistillOptions | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.recover is not None and self.method != "static_int8":
            raise ValueError(f"recover trains for static_int8, not for {self.method}")


def training_logits(state: State, flip: bool, context: Context[Dataset]) -> Tensor:
    """The original's logits of the training images, computed once per run."""
    split = split_of(context.data, "train")
    name = f"training logits{', mirrored too' if flip else ''}"
    return context.memory.once(
        state.original, name, lambda: teacher_logits(state.original, split, flip)
    )


def _float(state: State, stage: str) -> None:
    """Refuse a stage that works on the float model once there is none any more.

    Raises:
        ModelError: says where the stage belongs.
    """
    if state.model is not state.float_model:
        raise ModelError(
            f"{stage} works on the float model, and a quantize stage comes before it: put the "
            f"{stage} stage before quantize, or leave it out"
        )


def run_train(state: State, options: TrainOptions, context: Context[Dataset]) -> State:
    """Train the model itself; it becomes the original."""
    _float(state, "train")
    model = copy.deepcopy(state.model)  # other candidates of a search start from it too
    arguments = training_arguments(options, context, "train")
    fit(model, split_of(context.data, "train"), options, **arguments)
    return State.of(model, training=dataclasses.asdict(arguments["history"]))


def distill_into(
    build: BuildModel,
) -> Callable[[State, DistillStage, Context[Dataset]], State]:
    """The stage that distils the original into a student from `build`."""

    def run(state: State, options: DistillStage, context: Context[Dataset]) -> State:
        torch.manual_seed(context.seed)
        student = build(options.student, context.data, context.folder).eval()
        check_answers(student, (context.data.test.inputs[:3],), options.student.name)
        for line in notes_of(student):
            context.say(f"    note: {line}")
        return _distill(state, options, context, student)

    return run


def _distill(
    state: State, options: DistillStage, context: Context[Dataset], student: nn.Module
) -> State:
    logits = training_logits(state, options.flip, context)
    arguments = training_arguments(options, context, "distill")
    distill(student, logits, split_of(context.data, "train"), options, **arguments)
    return state.then(student, training=dataclasses.asdict(arguments["history"]))


def run_prune(state: State, options: PruneStage, context: Context[Dataset]) -> State:
    """Prune, recover after each step, and record the details."""
    _float(state, "prune")
    image = context.data.test.inputs[:1]
    details: dict[str, Any] = {}
    if options.sensitivity:
        split = context.data.validation or split_of(context.data, "train")
        accuracy = accuracy_on(split, options.sensitivity_samples)
        details["sensitivity"] = pruning_table(
            state.model, image, options.sensitivity, accuracy, keep=options.keep
        )
    details["widths_before"] = widths(state.model)
    if options.structure == "weights":
        details["notes"] = [NO_SPEED]
        context.say(f"    warning: {NO_SPEED}")
    recover = None
    if options.recover is not None:
        recover = functools.partial(_recover, state, options, context, details)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="structure: weights")
        pruned = prune(
            state.model,
            image,
            options,
            split=context.data.train,
            recover=recover,
            details=details,
        )
    details["widths"] = widths(pruned)
    if details.get("dead"):
        context.say(f"    dead channels removed, exactly: {details['dead']}")
    if details.get("stuck"):
        context.say(f"    not pruned, their channels cannot be removed: {few(details['stuck'])}")
    if options.structure == "weights":
        details["zeros"] = zeros(pruned)
    return state.then(pruned, **details)


def _recover(
    state: State,
    options: PruneStage,
    context: Context[Dataset],
    details: dict[str, Any],
    model: nn.Module,
    step: int,
) -> None:
    assert options.recover is not None
    share = dataclasses.replace(options.recover, epochs=options.recover.epochs / options.iterations)
    arguments = training_arguments(share, context, f"recover-{step}")
    arguments["seed"] = context.seed + step
    if options.iterations > 1:
        arguments["title"] = f"{context.title} {step + 1}/{options.iterations}"
    logits = training_logits(state, share.flip, context)
    with zeros_held(model) if options.structure == "weights" else nullcontext():
        distill(model, logits, split_of(context.data, "train"), share, **arguments)
    details.setdefault("training", []).append(dataclasses.asdict(arguments["history"]))


def calibration_images(context: Context[Dataset], count: int) -> Tensor:
    """Real images to calibrate with, drawn from the training split.

    Raises:
        DataError: there are none.
    """
    dataset = context.data
    images = dataset.train.inputs if dataset.train is not None else dataset.calibration
    if images is None:
        raise DataError(f"data set {dataset.name} has no images to calibrate with")
    generator = torch.Generator().manual_seed(context.seed)
    return images[torch.randperm(len(images), generator=generator)[:count]]


def run_quantize(state: State, options: QuantizeStage, context: Context[Dataset]) -> State:
    """Quantize, after `recover` if set, and record which layers stayed in float and why."""
    _float(state, "quantize")
    images = calibration_images(context, options.calibration)
    details: dict[str, Any] = {"method": options.method}
    model = state.model
    if options.recover is not None:
        model = _train_for_int8(state, options, context, images, details)
    options = _with_fastest_kernels(model, images, options, context, details)
    accuracy = None
    if options.max_drop is not None or options.sensitivity:
        split = context.data.validation or split_of(context.data, "train")
        accuracy = accuracy_on(split, len(split) if options.max_drop is not None else 1000)
    quantized = quantize(model, images, options, accuracy=accuracy, details=details)
    if options.max_drop is not None:
        in_float = [name for name in details["left_in_float"] if name not in options.keep]
        context.say(
            f"    {details['lowered']} layers in {options.method}, {len(in_float)} in float; drop "
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


def _with_fastest_kernels(
    model: nn.Module,
    images: Tensor,
    options: QuantizeStage,
    context: Context[Dataset],
    details: dict[str, Any],
) -> QuantizeStage:
    """The options with `engine: auto` settled by measuring, and no other batch made hot."""
    if options.method != "static_int8" or options.engine != "auto" or options.hot_batch:
        return options
    batch = context.recipe.serving.batch_size
    loads = {f"batch{n}": context.data.test.inputs[:n] for n in sorted({1, batch})}

    def build(tried: Kernels) -> Lowered:
        return to_static_int8(
            model,
            images[: kernels.FEW],
            keep_float=options.keep,
            ranges="minmax",
            engine=tried.engine,
            hot_batch=tried.hot_batch,
            attention=tried.attention,
        )

    found = kernels.fastest(build, loads, other_engine=not kernels.has_groups(model))
    if found is None:
        return options
    details["kernels"] = found.to_json()
    context.say(f"    kernels: {found.kernels}, the fastest here")
    return dataclasses.replace(
        options,
        engine=found.kernels.engine or "auto",
        hot_batch=found.kernels.hot_batch or 0,
        attention=found.kernels.attention,
    )


def _train_for_int8(
    state: State,
    options: QuantizeStage,
    context: Context[Dataset],
    images: Tensor,
    details: dict[str, Any],
) -> nn.Module:
    assert options.recover is not None
    recover = options.recover
    if recover.precision == "auto":  # bfloat16 would round the int8 steps away
        recover = dataclasses.replace(recover, precision="fp32")
    model = copy.deepcopy(state.model)
    in_float = [
        n for n in layers(model) if any(n == k or n.startswith(f"{k}.") for k in options.keep)
    ]
    qparams = input_ranges(model, images, options.ranges)
    arguments = training_arguments(recover, context, "int8")
    logits = training_logits(state, recover.flip, context)
    with fake_quantized(model, qparams, only=[n for n in qparams if n not in in_float]):
        split = split_of(context.data, "train")
        distill(model, logits, split, recover, freeze_norm=True, **arguments)
    details["training"] = dataclasses.asdict(arguments["history"])
    return model
