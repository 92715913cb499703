"""oneDNN's packed weights depend on shapes: none may be packed again once a model is warm."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from optimize.lowering import lower_int8
from optimize.models.architectures.bert import BertClassifier, BertShape
from optimize.utils import torchscript

# Walks batch sizes and threads in one process; oneDNN's own log goes to the same stream.
_WALK = """
import sys, torch
torch.backends.quantized.engine = sys.argv[2]
torch.set_num_threads(int(sys.argv[4]))
model = torch.jit.load(sys.argv[1])
inputs = torch.load(sys.argv[3])
with torch.inference_mode():
    for threads in (1, 2):
        torch.set_num_threads(threads)
        for batch in range(1, 33):
            for _ in range(3):
                model(inputs[:batch])
            print(f"MEASURED {threads} {batch}", flush=True)
            model(inputs[:batch])
            print("DONE", flush=True)
"""


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.wide, self.depthwise = nn.Conv2d(32, 96, 1), nn.Conv2d(96, 96, 3, 1, 1, groups=96)
        self.narrow = nn.Conv2d(96, 32, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.depthwise(torch.relu(self.wide(x))))
        return torch.relu(x + self.narrow(y))


def network() -> tuple[nn.Module, Tensor]:
    layers = [nn.Conv2d(3, 32, 3, 2, 1), nn.ReLU(), Residual(), nn.Conv2d(32, 64, 3, 2, 1)]
    head = [nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)]
    return nn.Sequential(*layers, *head), torch.randn(32, 3, 32, 32)


def encoder() -> tuple[nn.Module, Tensor]:
    ids = torch.randint(1, 500, (32, 24))
    for row in range(32):
        ids[row, 24 - row % 16 :] = 0
    return BertClassifier(BertShape(500, 64, 2, 4, 128), 2), ids


def executions(
    path: Path, engine: str, inputs: Tensor, threads: int, scratch: Path
) -> dict[tuple[int, int], list[str]]:
    """oneDNN's log of one warm call, by threads and batch size."""
    torch.save(inputs, scratch / "inputs.pt")
    words = [str(path), engine, str(scratch / "inputs.pt"), str(threads)]
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _WALK, *words],
        env={**os.environ, "ONEDNN_VERBOSE": "profile_exec"},
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[tuple[int, int], list[str]] = {}
    current: list[str] | None = None
    for line in ran.stdout.splitlines():
        if line.startswith("MEASURED"):
            _, count, batch = line.split()
            current = found.setdefault((int(count), int(batch)), [])
        elif line == "DONE":
            current = None
        elif current is not None and ",exec," in line:
            current.append(line)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("hot_batch", [None, 8])
@pytest.mark.parametrize("build", [network, encoder])
def test_no_weight_is_packed_again_for_any_batch_or_threads(
    build: Callable[[], tuple[nn.Module, Tensor]], hot_batch: int | None, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model, inputs = build()
    lowered = lower_int8(model.eval(), [inputs[:8]], engine="onednn", hot_batch=hot_batch)
    torchscript.save(torchscript.script(lowered, inputs[:2]), tmp_path / "model.pt")
    found = executions(tmp_path / "model.pt", "onednn", inputs, 1, tmp_path)
    assert set(found) == {(threads, batch) for threads in (1, 2) for batch in range(1, 33)}
    for place, lines in found.items():
        kernels = [line for line in lines if ",convolution," in line or ",matmul," in line]
        assert len(kernels) >= len(lowered.lowered) - 1, place  # all but an embedding
        assert [line for line in lines if ",reorder," in line] == [], place
