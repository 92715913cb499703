"""Small real modules to export, and a way to skip what is not installed."""

import importlib
import importlib.util
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from optimize.data.dataset import Dataset
from optimize.export.convert import convert
from optimize.export.formats import registry
from optimize.export.subject import Axis, Exportable, Subject
from optimize.export.subjects import image
from optimize.models.architectures.bert import BertClassifier, BertShape


@pytest.fixture
def needs() -> Callable[[str], None]:
    """Skip unless a format's packages are installed; with EXPORTS=1 fail instead."""

    def needs(name: str) -> None:
        form = importlib.import_module(f"optimize.export.formats.{name}")
        if name == "aoti" and not form.compiler():
            pytest.skip("there is no C++ compiler: apt-get install g++")
        if os.environ.get("EXPORTS"):
            registry.load(name)
        elif any(importlib.util.find_spec(module) is None for module in form.MODULES):
            pytest.skip(f"{name} is not installed: make extras-{name}, or make test-exports")

    return needs


Converted = Callable[..., Path]


@pytest.fixture(scope="session")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Converted:
    """`converted(format, subject, precision)` converts as the command does, each file once.

    Whoever changes a file copies it before.
    """
    made: dict[tuple[str, int, str], tuple[Subject, Path]] = {}

    def converted(name: str, subject: Subject, precision: str = "float32") -> Path:
        key = (name, id(subject), precision)
        if key not in made:
            form = importlib.import_module(f"optimize.export.formats.{name}")
            path = tmp_path_factory.mktemp(name) / form.file("small", subject.name)
            path.parent.mkdir(parents=True, exist_ok=True)
            convert(name, subject, path, precision)
            made[key] = subject, path  # keeps the subject, whose id is the key
        return made[key][1]

    return converted


@pytest.fixture(scope="session")
def pictures(trained: nn.Module, dataset: Dataset) -> Exportable:
    """A classifier trained on real pictures, with 500 held-out ones."""
    return image.make(trained, dataset)


SHAPE = BertShape(
    vocab_size=60,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=64,
    max_position_embeddings=48,
)


def ids(*sizes: int) -> torch.Tensor:
    """Rows of so many tokens, padded with 0 to the longest."""
    generator = torch.Generator().manual_seed(sum(sizes))
    rows = torch.zeros(len(sizes), max(sizes), dtype=torch.int32)
    for row, size in zip(rows, sizes, strict=True):
        row[:size] = torch.randint(1, 60, (size,), generator=generator, dtype=torch.int32)
    return rows


@pytest.fixture(scope="session")
def sentences() -> Subject:
    """An encoder with attention masks, large weights so that a wrong mask shows."""
    torch.manual_seed(0)
    model = BertClassifier(SHAPE, classes=3).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0) if parameter.dim() > 1 else None
    return Subject(
        name="model",
        module=model.requires_grad_(False),
        inputs=("ids",),
        outputs=("logits",),
        pieces=[(ids(20, 13),), (ids(9),), (ids(24, 3, 11),), (ids(*range(8, 24, 2)),)],
        # Eight rows are not enough: a held-out row's logits were twice any of theirs, and cut off.
        calibration=[(ids(*range(first, 32)),) for first in range(3, 19)],
        axes={"batch": Axis(), "tokens": Axis(least=2, most=32, sizes=(32,), limit=48)},
        dynamic=({0: "batch", 1: "tokens"},),
    )
