"""Quantization: fewer bits for weights and activations, by the method a recipe names."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import nn

from optimize.errors import DataError, ModelError, OptimizeError, OptionError
from optimize.lowering import ENGINE, Lowered
from optimize.lowering.capture import Free
from optimize.lowering.inputs import Inputs, count, rows
from optimize.lowering.int8 import Attention
from optimize.lowering.observers import Ranges
from optimize.quantization.accuracy_control import within_budget
from optimize.quantization.bfloat16 import to_bfloat16
from optimize.quantization.dynamic import to_dynamic_int8
from optimize.quantization.equalize import equalize
from optimize.quantization.fake_quantize import quantization_table
from optimize.quantization.graph import Quantized
from optimize.quantization.static import Fallback, to_static_int8
from optimize.quantization.weight_only import store_int8
from optimize.recipe.schema import explored

__all__ = ["ENGINE", "QuantizeOptions", "quantize", "refuse_quantized"]

Method = Literal["static_int8", "dynamic_int8", "weight_only_int8", "bf16"]


@dataclass(frozen=True)
class QuantizeOptions:
    """How to quantize.

    Attributes:
        method: `static_int8`, the fastest, with activation ranges from calibration data;
            `dynamic_int8`, linear layers only, ranges at each call; `weight_only_int8`, a
            quarter of the bytes at float speed; `bf16`, half the bytes and no calibration.
        calibration: number of real inputs that set the activation ranges.
        ranges: `mse` clips where the squared error is least, `entropy` where the divergence
            is, `minmax` takes the whole observed range.
        equalize: alpha of SmoothQuant, which moves the scales of activations into weights
            where that is exact; 0 leaves it out.
        max_drop: accuracy that quantization may lose on the validation split; layers go back
            to float, the costliest first, until it holds. None: all layers whatever it costs.
        fallback: what those layers, and those in `keep`, compute in.
        engine: the kernels of `static_int8`: `fbgemm` starts them faster, `onednn` computes
            faster; `auto` goes by the size of the layers, and a recipe's stage then measures
            whether another choice is faster here (`optimize.quantization.kernels`).
        hot_batch: with `onednn`, keep kernels ready for batch 1 and for this batch size, by
            copies in memory; 0: for the first size they meet, or with `auto` as measured.
        attention: what self-attention on `onednn` computes in.
        keep: names of layers, or of modules that contain them, to leave in float.
        sensitivity: put what int8 costs in each layer alone into the report.
    """

    method: Method = field(default="static_int8", metadata=explored())
    calibration: int = 512
    ranges: Ranges = "mse"
    equalize: float = 0.0
    max_drop: float | None = None
    fallback: Fallback = "fp32"
    engine: Literal["auto", "fbgemm", "onednn"] = "auto"
    hot_batch: int = 0
    attention: Attention = "bf16"
    keep: list[str] = field(default_factory=list)
    sensitivity: bool = False

    def __post_init__(self) -> None:
        if self.calibration < 2:
            raise ValueError("calibration must be 2 images or more")
        if not 0 <= self.equalize <= 1:
            raise ValueError("equalize must be between 0 and 1; 0.5 is usual, 0 leaves it out")
        if self.max_drop is not None and self.max_drop >= 1:
            raise ValueError("max_drop is a share: 0.01 is one point")
        if self.method != "static_int8":
            for name in ("ranges", "equalize", "fallback", "engine", "hot_batch", "attention"):
                if getattr(self, name) != getattr(QuantizeOptions, name):
                    raise ValueError(f"{name} belongs to method static_int8, not {self.method}")
        if self.hot_batch and self.engine == "fbgemm":
            raise ValueError("hot_batch belongs to engine onednn; fbgemm needs none")


def quantize(
    model: nn.Module,
    calibration: Inputs,
    options: QuantizeOptions | None = None,
    *,
    accuracy: Callable[[nn.Module], float] | None = None,
    details: dict[str, Any] | None = None,
    free: Free | None = None,
) -> nn.Module:
    """Quantize a float model; returns a new module on the CPU, in eval mode.

    Args:
        model: from tensors, as uint8 `[N, C, H, W]`, to a tensor or a tuple of tensors; left as
            it is. In a `Normalized` whose mean is one whole number the pixels become the
            quantized input as they are.
        calibration: real inputs, from the training data; a tuple for a model of several.
        options: see `QuantizeOptions`.
        accuracy: of a model on held-out data, which `max_drop` decides by.
        details: filled with what was found out, for the report.
        free: the dimensions that vary, see `optimize.lowering.capture`.

    Returns:
        A module that names its changed layers in `lowered`, the others with the reason in
        `left_in_float`, and in `engine` what `torch.backends.quantized.engine` must be in the
        process that runs it (None: anything).

    Raises:
        ModelError: the graph cannot be captured (data-dependent control flow, say).
        DataError: fewer than two calibration inputs.
        OptionError: an option that does not fit this model.
    """
    options = options or QuantizeOptions()
    details = details if details is not None else {}
    images = rows(calibration, 0, options.calibration)
    if count(images) < 2:
        raise DataError("quantization needs calibration data: two inputs or more")
    if options.equalize:
        try:
            model, details["equalized"] = equalize(model, images, options.equalize)
        except OptimizeError:
            raise
        except Exception as error:  # what follows the layers knows not every operator
            first = (str(error).strip().splitlines() or [""])[0][:200]
            raise ModelError(
                f"equalize cannot follow this model's layers ({type(error).__name__}: {first}); "
                "leave equalize out"
            ) from error

    def build(kept: Collection[str]) -> nn.Module:
        return _build(model, images, options, [*options.keep, *kept], free)

    if options.sensitivity:
        details["sensitivity"] = quantization_table(
            model, images, accuracy=accuracy, ranges=options.ranges
        )
    if options.max_drop is None:
        quantized, reasons = build([]), dict.fromkeys(options.keep, "kept in float as asked")
    else:
        if accuracy is None:
            raise OptionError("max_drop needs held-out data to decide by; leave it out")

        def ranking() -> list[str]:
            if "sensitivity" not in details:  # the error ranks, and no drop need be measured
                details["sensitivity"] = quantization_table(model, images, ranges=options.ranges)
            return [row["layer"] for row in details["sensitivity"]]

        found = within_budget(build, accuracy, accuracy(model), options.max_drop, ranking)
        quantized = found.model
        details |= {"max_drop": options.max_drop, "drop": found.drop, "trials": found.trials}
        errors = {row["layer"]: row["error"] for row in details.get("sensitivity", [])}
        reasons = dict.fromkeys(options.keep, "kept in float as asked")
        for name in found.kept:
            reasons[name] = (
                f"kept in {options.fallback} to lose at most {options.max_drop:g}: int8 here "
                f"alone changes the answers by {errors[name]:.2%}"
            )
    left: dict[str, str] = dict(getattr(quantized, "left_in_float", {}))
    for name, reason in reasons.items():
        inside = [k for k in left if k == name or k.startswith(f"{name}.")]
        left.update(dict.fromkeys(inside or [name], reason))
    details["left_in_float"] = left
    details["lowered"] = len(getattr(quantized, "lowered", ()))
    return quantized


def refuse_quantized(model: nn.Module, stage: str) -> None:
    """Raise ModelError if `stage` changes a model's layers and `model` is a quantized one, whose
    layers are one graph of kernels with packed weights."""
    if stage in ("train", "prune", "quantize") and isinstance(model, Lowered | Quantized):
        raise ModelError(
            f"stage {stage} comes after quantize, and a quantized model cannot be changed any "
            "more: its weights are packed for their kernels. Put quantize last (stages: [prune, "
            "quantize]); to train for int8 give it recover: {...}"
        )


def _build(
    model: nn.Module,
    images: Inputs,
    options: QuantizeOptions,
    keep: Collection[str],
    free: Free | None,
) -> nn.Module:
    if options.method == "static_int8":
        return to_static_int8(
            model,
            images,
            keep_float=keep,
            ranges=options.ranges,
            fallback=options.fallback,
            engine=None if options.engine == "auto" else options.engine,
            hot_batch=options.hot_batch or None,
            free=free,
            attention=options.attention,
        )
    methods = {
        "dynamic_int8": to_dynamic_int8,
        "weight_only_int8": store_int8,
        "bf16": to_bfloat16,
    }
    return methods[options.method](model, images, keep_float=keep, free=free)
