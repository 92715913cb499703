"""Small real models and data that several tests of `optimize` share."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from optimize.data import fashion_mnist
from optimize.data.dataset import Dataset
from optimize.evaluation import latency
from optimize.models.architectures import convnet
from optimize.training.fit import TrainOptions, fit


@pytest.fixture(autouse=True, scope="session")
def few_rounds() -> Iterator[None]:
    """Latencies are measured for real and briefly: no test asserts a time."""
    defaults = latency.measure.__kwdefaults__
    rounds, defaults["rounds"] = defaults["rounds"], 2
    yield
    defaults["rounds"] = rounds


@pytest.fixture(scope="session")
def dataset() -> Dataset:
    """A slice of the real data: 2,400 training images, 600 for validation, 500 for test."""
    return fashion_mnist.load(limit=3000, validation=600)


@pytest.fixture(scope="session")
def trained(dataset: Dataset) -> nn.Module:
    """A small network trained on the slice for seconds: well above chance. Do not change it."""
    assert dataset.train is not None
    torch.manual_seed(0)
    model = convnet.build(len(dataset.labels), widths=(32, 32, 64), strides=(2, 2, 2))
    return fit(model, dataset.train, TrainOptions(epochs=4, batch_size=64, learning_rate=0.05))


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    """A complete recipe that runs in seconds."""
    path = tmp_path / "small.yaml"
    path.write_text(SMALL, encoding="utf-8")
    return path


SMALL = """\
name: small
task: image_classification
seed: 3
data:
  fashion_mnist: {limit: 1500, validation: 300}
model:
  resnet: {width: 8, blocks: 1}
stages:
  - train: {epochs: 2, batch_size: 64, learning_rate: 0.05}
  - distill:
      student: {convnet: {widths: [32, 32], strides: [2, 2]}}
      epochs: 2
      batch_size: 64
  - prune:
      ratio: 0.5
      recover: {epochs: 1, batch_size: 64}
  - quantize: {calibration: 128}
controls: true
budget: {max_drop: 0.9}
"""
