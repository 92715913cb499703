from pathlib import Path

import pytest
import torch
from torch import nn

from optimize.data.dataset import Dataset
from optimize.errors import ModelError
from optimize.evaluation import latency
from optimize.evaluation.latency import Contestant
from optimize.models.architectures import resnet
from optimize.utils import torchscript


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
    with pytest.raises(ModelError, match=r"broken\.pt stopped"):
        latency.measure(
            {"broken": Contestant(tmp_path / "broken.pt")}, inputs, threads=(1,), rounds=1
        )
