import os
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from optimize.data.dataset import Dataset
from optimize.errors import ModelError
from optimize.evaluation import latency
from optimize.evaluation.latency import Contestant
from optimize.models.architectures import resnet
from optimize.utils import pickles, torchscript


@pytest.fixture
def inputs(dataset: Dataset, tmp_path: Path) -> Path:
    path = tmp_path / "inputs.pt"
    torch.save(dataset.test.inputs[:8].clone(), path)
    return path


@pytest.mark.slow
def test_both_are_measured_in_processes_of_their_own(
    trained: nn.Module, dataset: Dataset, inputs: Path, tmp_path: Path
) -> None:
    script, eager = tmp_path / "small.pt", tmp_path / "large.pt"
    torchscript.save(torchscript.script(trained, dataset.test.inputs[:1]), script)
    torch.save(resnet.build(10, width=32).eval(), eager)
    found = latency.measure(
        {"small": Contestant(script), "large": Contestant(eager, eager=True)},
        inputs,
        threads=(1,),
        rounds=2,
    )
    for contestant in found.values():
        assert set(contestant) == {"batch1_threads1", "batch8_threads1"}
        assert all(0 < c["p50"] <= c["p95"] for c in contestant.values())
    # Forty times the arithmetic: whatever the machine does meanwhile, it cannot be faster.
    assert found["small"]["batch8_threads1"]["p50"] < found["large"]["batch8_threads1"]["p50"]


def test_a_file_that_does_not_load_is_reported(inputs: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.pt").write_text("no model")
    with pytest.raises(
        ModelError, match=r"broken\.pt stopped while .*: ModelError: .* is not a whole TorchScript"
    ):
        latency.measure(
            {"broken": Contestant(tmp_path / "broken.pt")}, inputs, threads=(1,), rounds=1
        )


class Pair(nn.Module):
    """Takes two tensors, whose rows differ from call to call; refuses negative ones."""

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        if bool((a < 0).any()):
            raise ValueError("negative numbers are not for me")
        return a.sum() + b.sum()


def test_calls_may_take_several_tensors_and_differ_in_shape(tmp_path: Path) -> None:
    path, inputs = tmp_path / "pair.pt", tmp_path / "calls.pt"
    pickles.save(Pair(), path)
    calls = [(torch.ones(n, 3), torch.ones(2, dtype=torch.int32)) for n in (1, 4, 2)]
    torch.save({"batch1": calls[:1], "all": calls}, inputs)
    found = latency.measure({"pair": Contestant(path, eager=True)}, inputs, threads=(1,), rounds=1)
    assert set(found["pair"]) == {"batch1_threads1", "all_threads1"}
    torch.save({"batch1": [*calls, (-torch.ones(1), torch.ones(1))]}, inputs)
    with pytest.raises(ModelError, match=r"stopped while .*: ValueError: negative numbers are not"):
        latency.measure({"pair": Contestant(path, eager=True)}, inputs, threads=(1,), rounds=1)


def test_the_last_words_of_a_process_that_ends_are_reported(tmp_path: Path) -> None:
    class Fatal(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            print("the kernel gave up", file=sys.stderr, flush=True)
            os._exit(4)

    path, inputs = tmp_path / "fatal.pt", tmp_path / "inputs.pt"
    pickles.save(Fatal(), path)
    torch.save(torch.ones(8, 2), inputs)
    with pytest.raises(ModelError, match=r"ended with code 4 \(the kernel gave up\)"):
        latency.measure({"fatal": Contestant(path, eager=True)}, inputs, threads=(1,), rounds=1)
