"""A file in a process of its own: ends, failures, and what is sent to it."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from optimize.errors import ExportRefused
from optimize.export.runner import Runner
from optimize.export.subject import Exportable
from optimize.utils import pickles

Needs = Callable[[str], None]
Converted = Callable[..., Path]


@pytest.mark.slow
def test_a_file_that_is_cut_off_is_refused(
    needs: Needs, pictures: Exportable, converted: Converted, tmp_path: Path
) -> None:
    needs("onnx")
    path = tmp_path / "model.onnx"
    path.write_bytes(converted("onnx", pictures.subjects[0]).read_bytes()[:-500])
    with pytest.raises(ExportRefused, match=r"model.onnx does not run: "), Runner("onnx", path):
        pass


@pytest.mark.parametrize(
    ("end", "told"),
    [
        (lambda: os._exit(3), r"ended with code 3 \(no message\)"),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "was killed: most likely memory ran out"),
    ],
)
def test_a_process_that_ends_is_told_of(
    pictures: Exportable, tmp_path: Path, end: Callable[[], None], told: str
) -> None:
    class Fatal(nn.Module):
        def forward(self, pixels: Tensor) -> Tensor:
            end()
            return pixels

    path = tmp_path / "eager.pt"
    pickles.save(Fatal(), path)
    with (
        Runner("eager", path) as run,
        pytest.raises(ExportRefused, match=rf"eager.pt: its process {told}"),
    ):
        run(*pictures.subjects[0].pieces[0])


class Sum(nn.Module):
    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return a + b


def test_an_input_changed_in_place_is_sent_again(tmp_path: Path) -> None:
    """A tensor that is the same as in the call before stays with the process, unless written to."""
    path = tmp_path / "eager.pt"
    pickles.save(Sum(), path)
    a, b = torch.ones(2), torch.zeros(2)
    with Runner("eager", path) as run:
        assert run(a, b)[0].tolist() == [1, 1]
        assert run._changed((a, b)) == [None, None]
        assert run(a, b)[0].tolist() == [1, 1]
        a[0] = 5
        assert run(a, b)[0].tolist() == [5, 1]
        assert run(a, torch.ones(2))[0].tolist() == [6, 2]
        with torch.inference_mode():
            made = torch.zeros(2)  # such tensors have no version: always sent
            assert run(a, made)[0].tolist() == [5, 1]
            made += 3
            assert run(a, made)[0].tolist() == [8, 4]
