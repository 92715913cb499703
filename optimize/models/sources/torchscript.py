"""A user's TorchScript file: `model: {torchscript: classifier.pt}`.

Without its source a model can be measured, served unchanged and used as a teacher, but not pruned,
quantized or trained.
"""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from handlers import operators
from optimize.errors import ModelError
from optimize.models.normalized import of_pixels
from optimize.utils.torchscript import silenced

POSSIBLE = ("distill",)


class TorchScriptFile(nn.Module):
    """The module in a TorchScript file; unlike a ScriptModule it can be pickled."""

    def __init__(self, content: bytes) -> None:
        super().__init__()
        self.content = content
        with silenced():
            self.module = torch.jit.load(io.BytesIO(content), map_location="cpu").eval()

    def forward(self, *inputs: Tensor) -> Any:
        return self.module(*inputs)

    def __reduce__(self) -> tuple[Any, ...]:
        return TorchScriptFile, (self.content,)

    def __deepcopy__(self, memo: dict[int, Any]) -> "TorchScriptFile":
        return TorchScriptFile(self.content)

    def folded(self) -> int:
        """Number of values that are constants of the code; freezing turns parameters into these."""
        total = 0
        graph = self.module.inlined_graph  # its nodes live only as long as it does
        for node in graph.findAllNodes("prim::Constant"):
            if node.hasAttribute("value") and node.kindOf("value") == "t":
                tensor = node.t("value")
                total += tensor.numel() if tensor.ndim > 0 else 0
        return total


def build(
    name: str,
    mean: Any = None,
    std: Any = None,
    allow_ops: Sequence[str] = (),
    folder: Path = Path(),
) -> nn.Module:
    """The model in a TorchScript file.

    Args:
        name: the file, relative to the recipe.
        mean, std: of the pixels (0..255), one number or one per channel, if the file takes
            normalised float32; leave them out if it takes uint8 pixels.
        allow_ops: operators that the file may call beyond those that only compute.
        folder: base of a relative path.

    Returns:
        Module from uint8 `[N, C, H, W]` to the file's logits.

    Raises:
        ModelError: there is no such file, it is not TorchScript, or it calls other operators.
    """
    path = folder / Path(name).expanduser()
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}") from error
    return of_pixels(from_bytes(content, str(path), allow_ops, name), mean, std)


def from_bytes(
    content: bytes, what: str, allow_ops: Sequence[str] = (), name: str = "FILE"
) -> nn.Module:
    """The model in the bytes of a TorchScript file; `what` and `name` say which it is.

    Raises ModelError: it is not TorchScript, or it calls operators outside the allowed ones.
    """
    try:
        # Before it is loaded, which runs code of the file.
        found = operators.outside(io.BytesIO(content), allow_ops)
        if found:
            raise ModelError(
                f"{what} calls {', '.join(found)}, which may reach files or other processes; if "
                f"you know what for: model: {{torchscript: {{name: {name}, "
                f"allow_ops: [{', '.join(found)}]}}}}"
            )
        return TorchScriptFile(content)
    except (RuntimeError, ValueError) as error:
        raise ModelError(
            f"{what} is not a TorchScript file ({str(error).strip().splitlines()[0]}); weights "
            "alone (a state_dict) need source: model: file.py:build with checkpoint:"
        ) from error


def refuse(model: nn.Module, stage: str) -> None:
    """Raise ModelError if `stage` needs the source of the model and it is a TorchScript file."""
    if stage in POSSIBLE or not any(isinstance(m, TorchScriptFile) for m in model.modules()):
        return
    raise ModelError(
        f"stage {stage} needs the model's source, and a TorchScript file holds none: name a "
        "function that builds it (model: file.py:build with checkpoint:), distil it into a "
        "student first (- distill: {student: ...}), or serve it as it is (stages: [])"
    )
