"""Every quantization method's file, loaded and answering in a real TorchServe worker."""

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from deploy.archive import mar
from optimize.quantization.quantize import QuantizeOptions, quantize
from optimize.utils import torchscript
from tests.integration import quadrant
from tests.integration.torchserve import Running


class Network(nn.Module):
    """The quadrant network, and a linear layer that changes nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.quadrant, self.head = quadrant.Quadrant(), nn.Linear(4, 4)
        with torch.no_grad():
            self.head.weight.copy_(torch.eye(4))
            self.head.bias.zero_()

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.head(self.quadrant(pixels))
        return logits


def pictures() -> Tensor:
    images = [
        np.asarray(Image.open(io.BytesIO(quadrant.picture(label, level=level))))
        for label in range(4)
        for level in (80, 160, 255)
    ]
    return torch.from_numpy(np.stack(images))[:, None]


@pytest.mark.parametrize("method", ["static_int8", "dynamic_int8", "weight_only_int8", "bf16"])
def test_a_worker_serves_it(served: Running, store: Path, tmp_path: Path, method: str) -> None:
    name = f"quadrant-{method}"
    artifact = quadrant.make(tmp_path, name=name)
    options = QuantizeOptions(method, calibration=12)  # type: ignore[arg-type]
    quantized = quantize(Network().eval(), pictures(), options)
    assert quantized.lowered
    torchscript.save(torchscript.script(quantized, pictures()[:1]), artifact / "model.pt")
    card = json.loads((artifact / "model.json").read_text())
    card["model"]["quantized_engine"] = quantized.engine
    quadrant.write(artifact / "model.json", card)
    sealed = mar.seal(artifact, tmp_path / "model_store").path
    shutil.copy(sealed, store)
    served.management.register(sealed.name)
    try:
        pids = served.pids(name)
        for label in range(4):
            given = served.inference.predict(name, quadrant.picture(label, side=60), "image/png")
            assert given["predictions"][0]["index"] == label
            plain = served.inference.predict("quadrant", quadrant.picture(label, side=60))
            close = plain["predictions"][0]["probability"]
            assert given["predictions"][0]["probability"] == pytest.approx(close, abs=0.05)
        assert served.pids(name) == pids, "a worker was restarted"
    finally:
        served.management.unregister(name)
