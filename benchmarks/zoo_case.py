"""One model of the zoo through one stage, in a process of its own."""

import io
import multiprocessing
import os
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from optimize.errors import OptimizeError
from optimize.pruning.dead import remove_dead
from optimize.pruning.prune import PruneOptions, prune
from optimize.quantization.quantize import Method, QuantizeOptions, quantize
from optimize.utils import torchscript

Stage = Literal["static_int8", "dynamic_int8", "weight_only_int8", "bf16", "prune"]
STAGES: tuple[Stage, ...] = ("static_int8", "dynamic_int8", "weight_only_int8", "bf16", "prune")
_CALIBRATION, _RATIO, _ROUND_TO = 8, 0.5, 4
_BATCHES = (5, 1, 2)


@dataclass
class Outcome:
    """How a stage ended with a model.

    Attributes:
        ending: `done`; `refused`, with a sentence for the user; `failed`, with a traceback or
            wrong answers; `crashed`, the process; `late`, stopped.
        error: of the answers against the float model's, the norm of the difference over the norm.
        mates: the same between an answer alone and among others in a batch.
        lowered: layers that the stage changed.
        left: the other layers, with the reason.
        message: of an error.
    """

    ending: Literal["done", "refused", "failed", "crashed", "late"]
    error: float = 0.0
    mates: float = 0.0
    lowered: list[str] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)
    message: str = ""


def warm() -> None:
    """Import what stages import on their first use, once for all processes to come."""
    torch.set_num_threads(1)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 2)).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantize(model, torch.zeros(2, 3, 2, 2))


def run(build: Callable[[], nn.Module], side: int, stage: Stage, seconds: float) -> Outcome:
    """Run a stage in a forked process: a crash is an outcome like any other."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_child, args=(build, side, stage, sender))
    child.start()
    sender.close()
    try:
        if not receiver.poll(seconds):
            return Outcome("late", message=f"not done after {seconds:.0f} s")
        outcome: Outcome = receiver.recv()
        return outcome
    except EOFError:
        child.join()
        return Outcome("crashed", message=f"the process ended with {child.exitcode}")
    finally:
        if child.is_alive():
            child.join(5)
            child.kill()
        child.join()


def _child(build: Callable[[], nn.Module], side: int, stage: Stage, sender: Connection) -> None:
    torch.set_num_threads(1)
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    warnings.simplefilter("ignore")
    try:
        outcome = attempt(build(), side, stage)
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        first = (str(error).strip().splitlines() or [""])[0]
        place = f"{Path(where.filename).name}:{where.lineno}"
        outcome = Outcome("failed", message=f"{type(error).__name__}: {first} ({place})")
    sender.send(outcome)
    sender.close()


def attempt(model: nn.Module, side: int, stage: Stage) -> Outcome:
    """A stage, the file that follows it saved and loaded again, and its answers at three sizes
    of batches. Raises what escapes the stage, but for errors that users are told."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(_CALIBRATION, 3, side // 4, side // 4, generator=generator)
    noise = torch.rand(_CALIBRATION, 3, side, side, generator=generator)
    pictures = nn.functional.interpolate(coarse, size=(side, side), mode="bilinear")
    pixels = ((0.8 * pictures + 0.2 * noise) * 255).to(torch.uint8)
    try:
        changed = _changed(model, pixels, stage)
        loaded = _reloaded(changed, pixels[:2])
    except OptimizeError as error:
        return Outcome("refused", message=str(error).splitlines()[0])  # then the model's own lines
    outcome = Outcome(
        "done",
        lowered=list(getattr(changed, "lowered", ())),
        left=dict(getattr(changed, "left_in_float", {})),
    )
    with torch.inference_mode():
        whole = model(pixels) if stage != "prune" else changed(pixels)
        answers = {size: loaded(pixels[:size]).clone() for size in _BATCHES}
    several, alone = answers[5], answers[1]
    outcome.error = max(_difference(a, whole[: len(a)]) for a in answers.values())
    outcome.mates = _difference(several[:1], alone)
    if any(a.shape != whole[: len(a)].shape or not a.isfinite().all() for a in answers.values()):
        outcome.ending, outcome.message = "failed", "answers of another shape, or not finite"
    if stage == "prune" and whole.shape != model(pixels).shape:
        outcome.ending, outcome.message = "failed", f"answers {list(whole.shape)} after pruning"
    return outcome


def _changed(model: nn.Module, pixels: Tensor, stage: Stage) -> nn.Module:
    if stage == "prune":
        options = PruneOptions(ratio=_RATIO, round_to=_ROUND_TO)
        remove_dead(model, pixels[:1], round_to=_ROUND_TO)
        return prune(model, pixels[:1], options)
    method: Method = stage
    return quantize(model, pixels, QuantizeOptions(method=method))


def _reloaded(model: nn.Module, example: Tensor) -> torch.jit.ScriptModule:
    file = io.BytesIO()
    scripted = torchscript.script(model, example)
    with torchscript.silenced():
        torch.jit.save(scripted, file)
        file.seek(0)
        return torch.jit.load(file)  # type: ignore[no-any-return]


def _difference(answers: Tensor, expected: Tensor) -> float:
    if answers.shape != expected.shape:
        return float("inf")
    return float((answers - expected).norm() / expected.norm().clamp(min=1e-12))
