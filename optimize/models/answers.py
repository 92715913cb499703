"""Whether a model's answer to an input is a function of that input.

It is not where chance decides (dropout left on) or the other rows of the batch do (statistics of
the batch). A server's batches hold different clients' requests, so such a model cannot be served.
"""

import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from optimize.errors import ModelError
from optimize.utils import blame
from optimize.utils.wording import few

# Relative to the largest answer. Runs on the same shapes call the same kernels; other shapes call
# others, whose sums of float32 are rounded otherwise.
SAME_SHAPES, OTHER_SHAPES, HALF_PRECISION = 1e-4, 1e-2, 1e-1
_NORMS: Any = nn.modules.batchnorm._BatchNorm


def check_answers(model: nn.Module, call: tuple[Any, ...], name: str) -> None:
    """Refuse a model that answers the same batch differently, or a row by its batch mates.

    The batch runs twice, each row alone, and the first and the last row among copies of
    themselves. Only floating-point outputs with as many rows as the inputs are compared.

    Args:
        model: in eval mode.
        call: the arguments of one call, trees of tensors with the same number of rows.
        name: of the model, for the message.

    Raises:
        ModelError: says which, where that shows, and what to do; also where one row alone loses
            its first dimension.
    """
    answers = _run(model, call)
    chance = _difference(answers, _run(model, call))
    if chance > SAME_SHAPES:
        raise ModelError(
            f"model {name} answers the same batch differently each time (by {chance:.2g} of its "
            f"largest answer): {_chance(model, call)}. Its answers must not depend on chance: call "
            "F.dropout with training=self.training, and draw nothing at random in eval mode"
        )
    lengths = {len(x) for x in pytree.tree_leaves(call) if isinstance(x, Tensor) and x.dim()}
    if len(lengths) != 1 or (rows := lengths.pop()) < 2 or not _by_row(answers, rows):
        return
    half = any(p.dtype in (torch.float16, torch.bfloat16) for p in model.parameters())
    for row in range(rows):
        try:
            alone = _run(model, _rows(call, [row]))
        except Exception as error:  # the user's code can raise anything
            raise ModelError(
                f"model {name} answers {rows} rows at once and fails on one row alone, which a "
                f"server's batch may hold: {blame.first_line(error)}{_batch_norms(model)}"
            ) from error
        for wanted, answer in zip(answers, alone, strict=False):
            if _by_row([wanted], rows) and answer.dim() < wanted.dim():
                raise ModelError(
                    f"model {name} answers {rows} rows with {list(wanted.shape)} and one row alone "
                    f"with {list(answer.shape)}: give squeeze() and its like the dimensions that "
                    "they may remove, flatten(1) for instance"
                )
        expected = [answer[row : row + 1] for answer in _by_row(answers, rows)]
        found = _difference(expected, _by_row(alone, 1))
        if found > (HALF_PRECISION if half else OTHER_SHAPES):
            raise ModelError(_mates(model, name, found))
    for row in (0, rows - 1):
        copies = _by_row(_run(model, _rows(call, [row] * rows)), rows)
        expected = [answer[row : row + 1] for answer in _by_row(answers, rows)]
        found = _difference(expected, [answer[row : row + 1] for answer in copies])
        if found > (HALF_PRECISION if half else 1e-3):
            raise ModelError(_mates(model, name, found))


def fresh_statistics(model: nn.Module) -> list[str]:
    """A sentence if there are batch normalisations whose running statistics are still those of a
    new layer: a checkpoint without them, or none."""
    fresh = [
        name
        for name, m in model.named_modules()
        if isinstance(m, _NORMS)
        and m.num_batches_tracked == 0
        and m.running_mean is not None
        and m.running_var is not None
        and not m.running_mean.any()
        and bool((m.running_var == 1).all())
    ]
    if not fresh:
        return []
    return [
        f"the running statistics of {few(fresh)} are those of a new layer: the checkpoint holds "
        "none, or the model was never trained in training mode"
    ]


def _run(model: nn.Module, call: tuple[Any, ...]) -> list[Tensor]:
    with torch.no_grad():
        return [x for x in pytree.tree_leaves(model(*call)) if isinstance(x, Tensor)]


def _rows(call: tuple[Any, ...], index: list[int]) -> tuple[Any, ...]:
    def chosen(x: Any) -> Any:
        return x[index] if isinstance(x, Tensor) and x.dim() else x

    return tuple(pytree.tree_map(chosen, call))


def _by_row(answers: list[Tensor], rows: int) -> list[Tensor]:
    return [x for x in answers if x.is_floating_point() and x.dim() and len(x) == rows]


def _difference(expected: list[Tensor], answers: list[Tensor]) -> float:
    """The largest difference relative to the largest answer; answers of other shapes, as for other
    lengths of texts, are not compared."""
    worst = 0.0
    for wanted, answer in zip(expected, answers, strict=False):
        if wanted.shape == answer.shape and wanted.numel() and not torch.equal(wanted, answer):
            scale = wanted.abs().max().clamp(min=1e-6)
            worst = max(worst, float((wanted.double() - answer.double()).abs().max() / scale))
    return worst


def _mates(model: nn.Module, name: str, difference: float) -> str:
    found = _batch_norms(model) or (
        "; look for a mean, a maximum or a softmax over the first dimension, a path (control "
        "flow) chosen by the whole batch, or a number that comes from the batch's size"
    )
    return (
        f"model {name} answers a row by the other rows of its batch (alone or among others, by "
        f"{difference:.2g} of its largest answer), and a server's batches hold different clients' "
        f"requests{found}"
    )


def _batch_norms(model: nn.Module) -> str:
    """The normalisations with the batch's own statistics, and what to do; "" if there are none."""
    own = [
        name
        for name, m in model.named_modules()
        if isinstance(m, _NORMS) and (m.training or m.running_mean is None)
    ]
    if not own:
        return ""
    return (
        f": {few(own)} normalises by the batch's own statistics. Keep running statistics "
        "(track_running_stats=True, and no .train() in forward) and train the model with them, or "
        "use group normalisation"
    )


def _chance(model: nn.Module, call: tuple[Any, ...]) -> str:
    """Where random numbers are drawn in a call."""
    left = [name for name, m in model.named_modules() if name and m.training]
    if left:
        return f"{few(left)} stays in training mode after model.eval()"
    with _Drawn(model) as drawn:
        _run(model, call)
    return ", ".join(drawn.places[:3]) or "memory that is not initialised, or state that is kept"


class _Drawn(TorchDispatchMode):
    """Notes the places in a model at which random numbers are drawn."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: dict[nn.Module, str] = {m: name for name, m in model.named_modules()}
        self.places: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if torch.Tag.nondeterministic_seeded in func.tags:
            place = self._place(str(func.overloadpacket.__name__).rstrip("_"))
            if place not in self.places:
                self.places.append(place)
        return func(*args, **(kwargs or {}))

    def _place(self, operation: str) -> str:
        layer, line = "", ""
        for frame in _stack():
            code, module = frame.f_code, frame.f_locals.get("self")
            if code.co_filename.endswith("nn/functional.py"):
                operation = code.co_name
            if not layer and isinstance(module, nn.Module):
                layer = self.names.get(module, "")
            if not line and blame.is_users(code.co_filename):
                line = f" at {code.co_filename}:{frame.f_lineno}"
        return operation + (f" in layer {layer}" if layer else "") + line


def _stack() -> Iterator[FrameType]:
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        yield frame
        frame = frame.f_back
