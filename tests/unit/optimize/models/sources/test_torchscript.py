"""A user's TorchScript file is looked at before it is loaded."""

from pathlib import Path

import pytest
import torch

from optimize.errors import ModelError
from optimize.models.sources import torchscript


class Reaches(torch.nn.Module):
    """Takes a file for its memory."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.from_file("precious", True, 4) + images.float().mean()


class Means(torch.nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.float().mean((2, 3))


def test_an_operator_that_reaches_files_is_refused_by_name(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(Reaches()), str(tmp_path / "a.pt"))
    with pytest.raises(ModelError, match=r"calls aten::from_file.*allow_ops: \[aten::from_file\]"):
        torchscript.build("a.pt", folder=tmp_path)
    assert torchscript.build("a.pt", allow_ops=["aten::from_file"], folder=tmp_path)


def test_what_computes_is_taken(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(Means()), str(tmp_path / "a.pt"))
    model = torchscript.build("a.pt", folder=tmp_path)
    assert model(torch.ones(2, 3, 4, 4, dtype=torch.uint8)).tolist() == [[1.0] * 3] * 2


def test_what_is_no_torchscript_says_so(tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(2)}, tmp_path / "a.pt")
    with pytest.raises(ModelError, match=r"not a TorchScript file .*holds no code"):
        torchscript.build("a.pt", folder=tmp_path)
