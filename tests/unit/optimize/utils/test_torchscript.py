import gc
import weakref
import zipfile
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from optimize.data.dataset import Dataset
from optimize.errors import ModelError, ParityError
from optimize.quantization.quantize import ENGINE, quantize
from optimize.utils import torchscript

pytestmark = pytest.mark.slow


@pytest.fixture
def saved(trained: nn.Module, dataset: Dataset, tmp_path: Path) -> Path:
    path = tmp_path / "model.pt"
    torchscript.save(torchscript.script(trained, dataset.test.inputs[:1]), path)
    return path


def test_a_reloaded_file_answers_as_the_module(
    saved: Path, trained: nn.Module, dataset: Dataset
) -> None:
    assert torchscript.check_parity(trained, saved, dataset.test.inputs[:8]) < 1e-5


def test_a_quantized_file_answers_as_the_module(
    trained: nn.Module, dataset: Dataset, tmp_path: Path
) -> None:
    assert dataset.train is not None
    quantized = quantize(trained, dataset.train.inputs)
    path = tmp_path / "int8.pt"
    torchscript.save(torchscript.script(quantized, dataset.test.inputs[:1]), path)
    inputs = dataset.test.inputs[:8]
    assert torchscript.check_parity(quantized, path, inputs, engine=ENGINE) < 1e-5


def test_the_file_is_compressed_and_the_same_every_time(
    trained: nn.Module, dataset: Dataset, tmp_path: Path
) -> None:
    script = torchscript.script(trained, dataset.test.inputs[:1])
    plain, first, again = (tmp_path / name / "model.pt" for name in ("plain", "first", "again"))
    plain.parent.mkdir()
    script.save(str(plain))
    size = torchscript.save(script, first)
    assert size == first.stat().st_size < plain.stat().st_size
    torchscript.save(torchscript.script(trained, dataset.test.inputs[:1]), again)
    assert again.read_bytes() == first.read_bytes()
    names = zipfile.ZipFile(again).namelist()
    assert names and not any(name.endswith(".debug_pkl") for name in names)


def test_another_models_file_is_found_out(saved: Path, dataset: Dataset) -> None:
    torch.manual_seed(9)
    other = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))

    class Pixels(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = other

        def forward(self, x: Tensor) -> Tensor:
            return self.body(x.float() / 255)

    with pytest.raises(ParityError, match="differs"):
        torchscript.check_parity(Pixels(), saved, dataset.test.inputs[:8])


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_a_baked_in_batch_size_is_found_out(dataset: Dataset, tmp_path: Path) -> None:
    class Baked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(784, 10)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(x.float().reshape(int(x.shape[0]), 784))

    model = Baked().eval()
    path = tmp_path / "baked.pt"
    torchscript.save(torchscript.script(model, dataset.test.inputs[:1]), path)
    with pytest.raises(ParityError, match="fresh process"):
        torchscript.check_parity(model, path, dataset.test.inputs[:8])


def test_what_is_not_torchscript_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="not a TorchScript file"):
        torchscript.load(tmp_path / "none.pt")
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(ModelError, match="not a TorchScript file"):
        torchscript.load(tmp_path / "text.pt")


def test_a_model_that_cannot_be_traced_is_refused() -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise KeyError("no such layer")

    with pytest.raises(ModelError, match="cannot be traced"):
        torchscript.script(Broken(), torch.zeros(1))


def test_an_operator_that_scripting_knows_is_kept() -> None:
    operator, _ = torch._C._jit_get_operation("aten::relu")
    torch.jit._builtins._register_builtin(operator, "aten::relu")
    alive = weakref.ref(operator)
    del operator
    gc.collect()
    assert alive() is not None, "its address would stand for relu, whatever is made there next"
