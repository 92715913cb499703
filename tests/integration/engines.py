"""The quadrant artifact with its network in the files of other engines, exported for real."""

import importlib.util
import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.integration import quadrant

NEEDS = {
    "onnx": ("onnxruntime", "onnxscript"),
    "pt2": (),
    "openvino": ("openvino",),
}


def make(folder: Path, engine: str) -> Path:
    """The artifact `quadrant-ENGINE`; skips the test where the engine is not installed."""
    missing = [name for name in NEEDS[engine] if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"{' and '.join(missing)} not installed: make setup installs them")
    if engine == "pt2" and not (shutil.which("g++") or shutil.which("c++")):
        pytest.skip("AOTInductor compiles with g++, which is not installed")
    artifact = quadrant.make(folder, name=f"quadrant-{engine}")
    (artifact / "model.pt").unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # exporters announce their own future changes
        model, files = EXPORTS[engine](artifact)
    set_model(artifact, model, files)
    return artifact


def set_model(artifact: Path, file: str, files: list[str]) -> None:
    """Have the card name another model file and the files that belong to it."""
    card = json.loads((artifact / "model.json").read_text())
    card["model"]["file"] = file
    card["files"] = files
    quadrant.write(artifact / "model.json", card)


def _onnx(artifact: Path) -> tuple[str, list[str]]:
    torch.onnx.export(
        _program(),
        (),
        str(artifact / "model.onnx"),
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    return "model.onnx", []


def _pt2(artifact: Path) -> tuple[str, list[str]]:
    from torch._inductor import aoti_compile_and_package

    aoti_compile_and_package(_program(), package_path=str(artifact / "model.pt2"))
    return "model.pt2", []


def _openvino(artifact: Path) -> tuple[str, list[str]]:
    import openvino

    converted = openvino.convert_model(_program())
    openvino.save_model(converted, str(artifact / "model.xml"), compress_to_fp16=False)
    return "model.xml", ["model.bin"]


EXPORTS: dict[str, Any] = {"onnx": _onnx, "pt2": _pt2, "openvino": _openvino}


def _program() -> Any:
    """The network for any batch size."""
    pixels = torch.zeros(2, 1, quadrant.SIZE, quadrant.SIZE, dtype=torch.uint8)
    batch = torch.export.Dim("batch", min=1, max=64)
    return torch.export.export(quadrant.Quadrant().eval(), (pixels,), dynamic_shapes=({0: batch},))
