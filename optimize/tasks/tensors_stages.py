"""The stages of recipes of tensors: their options, and the library calls they make."""

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
from torch import nn
from torch.export import Dim

from optimize.data.tensors import Rows
from optimize.errors import ModelError
from optimize.lowering.capture import Free
from optimize.models.answers import check_answers
from optimize.models.flat import PREFIX
from optimize.pruning.options import PruneOptions
from optimize.pruning.prune import prune, widths
from optimize.pruning.weights import NO_SPEED, zeros, zeros_held
from optimize.quantization.quantize import QuantizeOptions, quantize
from optimize.recipe.schema import Named
from optimize.tasks.base import Context, Inputs, State
from optimize.tasks.tensors_data import Outputs, Problem, answers_of, outputs_of
from optimize.training.tensors import (
    Loss,
    TensorDistillOptions,
    TensorTrainOptions,
    distillation,
    fit,
    supervised,
)
from optimize.training.trainer import History
from optimize.utils.wording import few

BuildModel = Callable[[Named, Problem, Path], nn.Module]


@dataclass(frozen=True)
class TensorDistillStage(TensorDistillOptions):
    """Distil the current model into `student`.

    Attributes:
        student: the smaller model's architecture, as the recipe's `model`.
    """

    searched: ClassVar[bool] = True
    student: Named = field(default_factory=lambda: Named("mlp"))


@dataclass(frozen=True)
class TensorPruneStage(PruneOptions):
    """Prune the current model, then `recover` by distillation from the original.

    Attributes:
        recover: how to train after pruning; its epochs are shared by the iterations.
    """

    searched: ClassVar[bool] = True
    recover: TensorDistillOptions | None = None


@dataclass(frozen=True)
class TensorQuantizeStage(QuantizeOptions):
    """Quantize the current model."""

    searched: ClassVar[bool] = True


def run_train(state: State, options: TensorTrainOptions, context: Context[Problem]) -> State:
    """Train the model itself; it becomes the original."""
    _float(state, "train")
    model = copy.deepcopy(state.model)  # other candidates of a search start from it too
    loss = _supervised(options, context, "train")
    history = _fit(model, options, loss, context, "train")
    return State.of(model, training=dataclasses.asdict(history))


def distill_into(
    build: BuildModel,
) -> Callable[[State, TensorDistillStage, Context[Problem]], State]:
    """The stage that distils the original into a student from `build`."""

    def run(state: State, options: TensorDistillStage, context: Context[Problem]) -> State:
        torch.manual_seed(context.seed)
        student = build(options.student, context.data, context.folder).eval()
        rows = context.data.data.split("test")[:3]
        check_answers(student, rows.inputs, options.student.name)
        history = _fit(student, options, _taught(state, options, context), context, "distill")
        return state.then(student, training=dataclasses.asdict(history))

    return run


def run_prune(state: State, options: TensorPruneStage, context: Context[Problem]) -> State:
    """Prune, recover after each step, and record the details."""
    _float(state, "prune")
    wrapped = context.data.built.wrapped
    details: dict[str, Any] = {"widths_before": widths(state.model)}
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
            context.data.data.split("test")[:1].inputs,
            _with_prefix(options, wrapped),
            recover=recover,
            details=details,
        )
    details["widths"] = widths(pruned)
    if details.get("stuck"):
        context.say(f"    not pruned, their channels cannot be removed: {few(details['stuck'])}")
    if options.structure == "weights":
        details["zeros"] = zeros(pruned)
    return state.then(pruned, **details)


def run_quantize(state: State, options: TensorQuantizeStage, context: Context[Problem]) -> State:
    """Quantize, and record which layers stayed in float and why."""
    _float(state, "quantize")
    problem = context.data
    details: dict[str, Any] = {"method": options.method}
    accuracy = None
    if options.max_drop is not None or options.sensitivity:
        split = "validation" if problem.count("validation") else "train"
        accuracy = functools.partial(_quality, problem, split)
    quantized = quantize(
        state.model,
        calibration_rows(context, options.calibration).inputs,
        _with_prefix(options, problem.built.wrapped),
        accuracy=accuracy,
        details=details,
        free=free_dimensions(problem),
    )
    _check_lengths(state.model, quantized, problem, options)
    left = details["left_in_float"]
    if not details["lowered"]:
        context.say(f"    warning: {options.method} changed no layer: {_reasons(left)}")
    elif left:
        context.say(f"    left in float: {_reasons(left)}")
    engine = getattr(quantized, "engine", None)
    return dataclasses.replace(state, model=quantized, engine=engine, details=details)


def calibration_rows(context: Context[Problem], count: int) -> Rows:
    """Real rows to calibrate with, drawn from the training split, or the validation split."""
    data = context.data.data
    rows = data.split("train" if data.count("train") else "validation")
    generator = torch.Generator().manual_seed(context.seed)
    return rows[torch.randperm(len(rows), generator=generator)[:count]]


def free_dimensions(problem: Problem) -> Free:
    """The dimensions that vary, for `torch.export`. A recurrent layer takes any length though its
    graph names one: so lengths are left to it (AUTO), and looked at afterwards."""
    axes = problem.data.dynamic_axes
    return [
        {0: Dim.DYNAMIC, **dict.fromkeys(axes.get(name, {}), Dim.AUTO)}
        for name in problem.data.inputs
    ]


def cut(problem: Problem, inputs: Inputs, shorter: bool) -> Inputs:
    """The inputs, of the free dimensions the first two thirds if `shorter`."""
    axes = problem.data.dynamic_axes
    if not shorter:
        return inputs
    found = []
    for name, tensor in zip(problem.data.inputs, inputs, strict=True):
        for dim in axes.get(name, {}):
            tensor = tensor.narrow(dim, 0, max(1, tensor.shape[dim] * 2 // 3))
        found.append(tensor.contiguous())
    return tuple(found)


def _check_lengths(
    model: nn.Module, quantized: nn.Module, problem: Problem, options: QuantizeOptions
) -> None:
    """Refuse a quantized model that takes the data's sizes only, where others were asked for."""
    if not problem.data.dynamic_axes:
        return
    rows = cut(problem, problem.data.split("test")[:2].inputs, True)
    try:
        pairs = zip(outputs_of(quantized, rows), outputs_of(model, rows), strict=True)
        same = all(found.shape == wanted.shape for found, wanted in pairs)
    except Exception:  # a size that is written into the graph
        same = False
    if not same:
        raise ModelError(
            f"{options.method} fixes the sizes that dynamic_axes names, because the model's code "
            "computes with them; take them from x.shape where they are used, leave dynamic_axes "
            "out, or leave the quantize stage out"
        )


def _reasons(left: dict[str, str]) -> str:
    """Layers by the reason why they were left."""
    layers: dict[str, list[str]] = {}
    for name, reason in left.items():
        layers.setdefault(reason, []).append(name.removeprefix(PREFIX))
    listed = "; ".join(f"{few(names)} ({reason})" for reason, names in layers.items())
    return listed or "there is none"


def _quality(problem: Problem, split: str, model: nn.Module) -> float:
    """The gated metric on a split, larger for better."""
    answers = answers_of(model, problem.data.split(split), split)
    metric = problem.judge.metric
    value = problem.judge.measure(problem.pairs(answers, split))(
        torch.arange(problem.count(split))
    )[metric.name]
    return value if metric.higher_is_better else -value


def _float(state: State, stage: str) -> None:
    """Refuse a stage that works on the float model once there is none any more."""
    if state.model is not state.float_model:
        raise ModelError(
            f"{stage} works on the float model, and a quantize stage comes before it: put the "
            f"{stage} stage before quantize, or leave it out"
        )


def _with_prefix(options: Any, wrapped: bool) -> Any:
    """The options with layers' names as the wrapped model has them."""
    if not wrapped or not options.keep:
        return options
    keep = [n if n.startswith(PREFIX) else PREFIX + n for n in options.keep]
    return dataclasses.replace(options, keep=keep)


def _loss_name(options: TensorTrainOptions, problem: Problem) -> str:
    return problem.judge.loss if options.loss == "auto" else options.loss


def _supervised(options: TensorTrainOptions, context: Context[Problem], stage: str) -> Loss:
    """The loss against the targets. Raises ModelError if there are none."""
    problem = context.data
    targets = problem.data.split("train").targets
    if not targets:
        raise ModelError(
            f"stage {stage} needs targets, and this recipe has none: name them with targets: "
            "[NAME], or leave the stage out"
        )
    return supervised(
        targets, _loss_name(options, problem), problem.judged, options.label_smoothing
    )


def _taught(state: State, options: TensorDistillOptions, context: Context[Problem]) -> Loss:
    """The loss against the original's answers, and the targets if there are some."""
    problem = context.data
    rows = problem.data.split("train")
    teacher: Outputs = context.memory.once(
        state.original, "training answers", lambda: answers_of(state.original, rows, "teacher")
    )
    labelled = None
    if rows.targets and options.alpha < 1:
        labelled = _supervised(options, context, "distill")
    return distillation(teacher, _loss_name(options, problem), options, labelled)


def _recover(
    state: State,
    options: TensorPruneStage,
    context: Context[Problem],
    details: dict[str, Any],
    model: nn.Module,
    step: int,
) -> None:
    assert options.recover is not None
    share = dataclasses.replace(options.recover, epochs=options.recover.epochs / options.iterations)
    with zeros_held(model) if options.structure == "weights" else nullcontext():
        history = _fit(
            model, share, _taught(state, share, context), context, f"recover-{step}", step
        )
    details.setdefault("training", []).append(dataclasses.asdict(history))


def _fit(
    model: nn.Module,
    options: TensorTrainOptions,
    loss: Loss,
    context: Context[Problem],
    name: str,
    step: int = 0,
) -> History:
    """Train in place on the training split; `patience` decides by the metric."""
    problem, history = context.data, History()
    validate = None
    if options.patience:
        problem.data.split("validation")
        validate = functools.partial(_quality, problem, "validation")
    fit(
        model,
        problem.data.split("train"),
        options,
        loss,
        seed=context.seed + step,
        title=context.title,
        validate=validate,
        progress=context.progress(name, options.checkpoint_seconds),
        history=history,
        say=context.say,
    )
    return history
