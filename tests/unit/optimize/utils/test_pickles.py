"""A stage's state comes back as it was, and torch's notices about its own pickles do not."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from optimize.errors import ModelError, StorageError
from optimize.utils import pickles


@pytest.mark.filterwarnings(r"ignore:torch\.quantize_per_tensor")
def test_quantized_weights_load_without_a_word(tmp_path: Path) -> None:
    weight = torch.randn(4, 3)
    scales, zeros = torch.full((4,), 0.1), torch.zeros(4, dtype=torch.long)
    pickles.save(torch.quantize_per_channel(weight, scales, zeros, 0, torch.qint8), tmp_path / "w")
    again = f"""
from pathlib import Path
from optimize.utils import pickles
print(pickles.load(Path({str(tmp_path / "w")!r})).dequantize().flatten().tolist())
"""
    found = subprocess.run([sys.executable, "-c", again], capture_output=True, text=True)
    assert found.stderr == ""
    wanted = (weight / 0.1).round().clamp(-128, 127) * 0.1
    values = torch.tensor([float(value) for value in found.stdout.strip("[]\n").split(",")])
    torch.testing.assert_close(values.view(4, 3), wanted)


def test_what_torch_refuses_to_pickle_is_no_full_disk(tmp_path: Path) -> None:
    computed = parametrizations.orthogonal(nn.Linear(2, 2))
    with pytest.raises(ModelError, match=r"cannot be pickled.*parametrized modules"):
        pickles.save(computed, tmp_path / "module")
    with pytest.raises(StorageError, match="free some space"):
        pickles.save(1, Path("/dev/full"))
