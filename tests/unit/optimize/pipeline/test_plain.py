"""Modules as plain data: the same values, sharing and memory layout, and never any code."""

import json
from collections.abc import Callable

import pytest
import torch
from torch import nn

from optimize.lowering.kernels.onednn import Packed
from optimize.models.architectures import convnet, resnet
from optimize.models.architectures.bert import BertClassifier, BertShape
from optimize.pipeline import plain
from optimize.pruning.vocabulary import SharedEmbedding

SHAPE = BertShape(60, 32, 2, 2, 64, 16)


def shared_vocabulary() -> nn.Module:
    model = BertClassifier(SHAPE, 3)
    table = SharedEmbedding(torch.arange(60) // 2, torch.randn(30, 32))
    model.embeddings.word = table  # type: ignore[assignment]
    return model


def through_json(module: nn.Module) -> nn.Module:
    written, tensors = plain.pack({"model": module})
    return plain.unpack(json.loads(json.dumps(written)), tensors)["model"]


@pytest.mark.parametrize(
    ("build", "inputs"),
    [
        (lambda: resnet.build(4, width=8), torch.randint(0, 255, (2, 1, 12, 12)).byte()),
        (lambda: convnet.build(4), torch.randint(0, 255, (2, 1, 12, 12)).byte()),
        (lambda: BertClassifier(SHAPE, 3), torch.randint(1, 60, (2, 9))),
        (shared_vocabulary, torch.randint(1, 60, (2, 9))),
    ],
)
def test_our_own_models_come_back_as_they_were(
    build: Callable[[], nn.Module], inputs: torch.Tensor
) -> None:
    model = build().eval()
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    next(iter(model.parameters())).requires_grad_(False)
    again = through_json(model)
    assert torch.equal(again(inputs), model(inputs))
    assert not again.training and str(again) == str(model)
    ours, theirs = model.state_dict(keep_vars=True), again.state_dict(keep_vars=True)
    assert list(ours) == list(theirs)
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]) and type(tensor) is type(theirs[name]), name
        assert tensor.stride() == theirs[name].stride(), name
        assert tensor.requires_grad == theirs[name].requires_grad, name


def test_what_is_shared_stays_shared() -> None:
    first, second = nn.Linear(3, 3), nn.Linear(3, 3)
    second.weight = first.weight
    both = nn.Sequential(first, second, first)
    written, tensors = plain.pack({"one": both, "other": both, "part": first})
    again = plain.unpack(written, tensors)
    one = again["one"]
    assert isinstance(one, nn.Sequential)
    assert again["other"] is one and one[0] is one[2] is again["part"]
    assert one[0].weight is one[1].weight and len(tensors) == 3


class Foreign(nn.Linear):
    """A user's class: its code is no data."""


def hooked() -> nn.Module:
    layer = nn.Linear(2, 2)
    layer.register_forward_hook(lambda module, given, made: made)
    return layer


def with_function() -> nn.Module:
    layer = nn.Linear(2, 2)
    layer.activation = torch.relu  # type: ignore[assignment]
    return layer


@pytest.mark.parametrize(
    "build",
    [
        lambda: nn.Sequential(Foreign(2, 2)),
        lambda: torch.fx.symbolic_trace(nn.Linear(2, 2)),
        lambda: nn.utils.parametrizations.orthogonal(nn.Linear(2, 2)),
        Packed,
        hooked,
        with_function,
    ],
)
def test_what_is_more_than_data_is_refused(build: Callable[[], nn.Module]) -> None:
    with pytest.raises(plain.NotPlain):
        plain.pack({"model": build()})


@pytest.mark.parametrize(
    "name",
    ["os:system", "torch.nn.modules.container:OrderedDict", "tests.mine:Model", "optimize.run:run"],
)
def test_only_modules_of_torch_and_ours_are_made(name: str) -> None:
    written, tensors = plain.pack({"model": nn.ReLU()})
    written["modules"][0]["class"] = name
    with pytest.raises(plain.NotPlain):
        plain.unpack(written, tensors)
