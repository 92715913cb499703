"""The optimizers that recipes name, for images and texts alike."""

from typing import Any

import pytest
import torch
from torch import nn

from optimize.data.dataset import Split
from optimize.models.architectures import convnet
from optimize.training import optimizer
from optimize.training.finetune import FineTuneOptions
from optimize.training.finetune import fit as fit_text
from optimize.training.fit import TrainOptions, fit
from optimize.training.trainer import TrainerOptions
from tests.unit.optimize.training.texts import fresh, toy


def images() -> Split:
    """Three grey levels to tell apart."""
    torch.manual_seed(0)
    labels = torch.arange(240) % 3
    pixels = torch.randint(0, 40, (240, 1, 8, 8)) + (labels * 90)[:, None, None, None]
    return Split(pixels.byte(), labels)


def accuracy(model: nn.Module, split: Split) -> float:
    with torch.inference_mode():
        return (model(split.inputs).argmax(1) == split.targets).double().mean().item()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (TrainOptions(), {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
        (TrainOptions(momentum=0.0), {"momentum": 0.0, "nesterov": False}),
        (TrainOptions(optimizer="adamw"), {"lr": 0.001, "betas": (0.9, 0.999), "eps": 1e-8}),
        (
            TrainOptions(optimizer="adamw", learning_rate=0.1, betas=[0.8, 0.9]),
            {"lr": 0.1, "betas": (0.8, 0.9)},
        ),
        (FineTuneOptions(), {"lr": 0.0001, "betas": (0.9, 0.999), "weight_decay": 0.01}),
        (FineTuneOptions(optimizer="sgd"), {"lr": 0.01, "momentum": 0.9}),
    ],
)
def test_options_reach_the_optimizer(options: TrainerOptions, expected: dict[str, Any]) -> None:
    built = optimizer.build(convnet.build(3), options)
    name = {"sgd": "SGD", "adamw": "AdamW"}[options.optimizer]
    assert type(built).__name__ == name
    assert {key: built.param_groups[0][key] for key in expected} == expected
    assert built.param_groups[1]["weight_decay"] == 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"optimizer": "adam"},
        {"optimizer": "adamw", "momentum": 0.9},
        {"optimizer": "sgd", "eps": 1e-6},
        {"optimizer": "sgd", "betas": [0.8, 0.9]},
        {"optimizer": "adamw", "betas": [0.9]},
        {"optimizer": "sgd", "momentum": 1.0},
        {"warmup": 1.0},
        {"max_grad_norm": -1.0},
        {"learning_rate": 0.0},
    ],
)
@pytest.mark.parametrize("kind", [TrainOptions, FineTuneOptions])
def test_options_of_another_optimizer_are_refused(kind: Any, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"optimizer|sgd|adamw|momentum|betas|warmup|above"):
        kind(**{"optimizer": "sgd", **wrong})


@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": "adamw", "learning_rate": 0.01},
        {"optimizer": "sgd", "momentum": 0.5},
        {"warmup": 0.0, "max_grad_norm": 1.0},
    ],
)
def test_images_are_learned_with_each(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = convnet.build(3, widths=(8,), strides=(2,))
    split = images()
    fit(model, split, TrainOptions(8, batch_size=24, flip=False, **options))
    assert accuracy(model, split) > 0.9


def test_clipping_bounds_a_step() -> None:
    """One step of SGD without momentum moves the weights by the learning rate times the norm."""
    split, moved = images(), {}
    for most in (0.0, 1e-3):
        torch.manual_seed(0)
        model = convnet.build(3, widths=(8,), strides=(2,))
        before = nn.utils.parameters_to_vector(model.parameters()).detach().clone()
        options = TrainOptions(
            0.1, batch_size=24, momentum=0.0, weight_decay=0.0, max_grad_norm=most, precision="fp32"
        )
        fit(model, split, options)
        after = nn.utils.parameters_to_vector(model.parameters()).detach()
        moved[most] = (after - before).norm().item()
    assert moved[1e-3] <= 0.1 * 1e-3 * 1.01 < moved[0.0]


@pytest.mark.parametrize(("size", "warned"), [(24, True), (4, False)])
def test_few_steps_are_said_before_training(size: int, warned: bool) -> None:
    said: list[str] = []
    model = convnet.build(3, widths=(8,), strides=(2,))
    fit(model, images(), TrainOptions(0.1, batch_size=size), say=said.append, title="1/2 train")
    assert len(said) == warned
    if warned:
        assert "1/2 train: an epoch has 10 steps, the whole training 1" in said[0]


def test_texts_say_so_too_and_take_sgd() -> None:
    said: list[str] = []
    options = FineTuneOptions(0.5, optimizer="sgd", batch_texts=16, max_grad_norm=0.0)
    model = fresh()
    before = nn.utils.parameters_to_vector(model.parameters()).detach().clone()
    fit_text(model, toy(), options, say=said.append)
    assert len(said) == 1 and "an epoch has" in said[0]
    assert not torch.equal(nn.utils.parameters_to_vector(model.parameters()), before)
