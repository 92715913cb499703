"""What is checked and timed is what serves: there is one loader of every runtime's files."""

import re
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from handlers import backend
from handlers.errors import ModelError
from optimize.evaluation.session import served

ROOT = Path(__file__).resolve().parents[4]
LOADERS = r"\b(InferenceSession|compile_model|aoti_load_package)\("


def test_no_other_module_opens_a_runtime_of_its_own() -> None:
    """Other settings than the worker's would make the report's ratio one of another session."""
    places = {
        path.relative_to(ROOT).as_posix()
        for folder in ("handlers", "optimize", "deploy")
        for path in (ROOT / folder).rglob("*.py")
        if re.search(LOADERS, path.read_text(encoding="utf-8"))
    }
    # Adopted handlers load as TorchServe has them load, and are not measured.
    assert places - {"deploy/compat/torch_handler/base_handler.py"} == {"handlers/backend.py"}


def test_a_file_is_loaded_on_its_threads_and_for_its_engine(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(nn.Linear(3, 2)).save(str(path))
    threads, engine = torch.get_num_threads(), torch.backends.quantized.engine
    try:
        predict = served(path, "onednn", threads=2)
        assert (torch.get_num_threads(), torch.backends.quantized.engine) == (2, "onednn")
        assert predict(torch.ones(4, 3)).shape == (4, 2)
    finally:
        torch.set_num_threads(threads)
        torch.backends.quantized.engine = engine


@pytest.mark.parametrize("suffix", sorted(backend.LOADERS))
def test_a_file_that_is_none_is_refused(tmp_path: Path, suffix: str) -> None:
    for package, of in (("onnxruntime", ".onnx"), ("openvino", ".xml")):
        if suffix == of:
            pytest.importorskip(package)
    (tmp_path / "model.bin").write_bytes(b"")
    (tmp_path / f"model{suffix}").write_bytes(b"no model")
    with pytest.raises(ModelError, match="model"):
        served(tmp_path / f"model{suffix}")
