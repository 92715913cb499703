"""Networks whose channels torch-pruning misreads or does not know, and what is left of them."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from optimize.errors import ModelError, OptionError
from optimize.evaluation.cost import parameters
from optimize.pruning.dead import remove_dead
from optimize.pruning.options import PruneOptions
from optimize.pruning.prune import prune, widths
from optimize.pruning.removal import without
from optimize.quantization.quantize import QuantizeOptions, quantize

EXAMPLE = torch.randint(
    0, 256, (1, 3, 16, 16), generator=torch.Generator().manual_seed(1), dtype=torch.uint8
)
HALF = PruneOptions(0.5, round_to=4)


class Network(nn.Module):
    """From pixels; what a network does lies in `go`."""

    def forward(self, pixels: Tensor):  # type: ignore[no-untyped-def]
        return self.go(pixels.float() / 127.5 - 1)  # type: ignore[operator]


def block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )


class Plain(Network):
    """A head and a head for training are made first, a projection for something else last."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.auxiliary = nn.Linear(32, 10), nn.Linear(32, 10)
        self.body = nn.Sequential(block(3, 32), block(32, 32))
        self.projection = nn.Linear(32, 16)

    def go(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean((2, 3))).log_softmax(1)


class Extended(Plain):
    """What comes before the head is made after it."""

    def __init__(self) -> None:
        super().__init__()
        self.more = nn.Conv2d(32, 32, 1)

    def go(self, x: Tensor) -> Tensor:
        return self.head(self.more(self.body(x)).relu().mean((2, 3)))


class Several(Network):
    """Outputs in a tuple in a dict; features are among them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = block(3, 32), block(32, 32)
        self.head, self.early = nn.Linear(32, 10), nn.Linear(32, 7)

    def go(self, x: Tensor) -> dict[str, object]:
        early = self.first(x)
        features = self.last(early).mean((2, 3))
        return {"logits": self.head(features), "more": (self.early(early.mean((2, 3))), features)}


class Functional(Plain):
    """The head is a function of a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(10, 32))

    def go(self, x: Tensor) -> Tensor:
        return F.linear(self.body(x).mean((2, 3)), self.weight)


class Upsampled(Network):
    """A transposed convolution, joined with what it came from."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.up = block(3, 32), block(32, 32), nn.ConvTranspose2d(32, 16, 2, 2)
        self.join, self.head = block(48, 32), nn.Linear(32, 10)

    def go(self, x: Tensor) -> Tensor:
        x = self.a(x)
        x = torch.cat([x, self.up(self.b(x)).relu()], 1)
        return self.head(self.join(x).mean((2, 3)))


class Sequence(Network):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv1d(3, 32, 5, 2), nn.BatchNorm1d(32), nn.ReLU(), nn.ConvTranspose1d(32, 32, 2, 2)
        )
        self.head = nn.Linear(32, 10)

    def go(self, x: Tensor) -> Tensor:
        return self.head(self.body(x.flatten(2)).relu().mean(2))


class Volume(Network):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv3d(1, 32, 3, 2, 1), nn.GroupNorm(4, 32), nn.ReLU(), nn.Conv3d(32, 32, 1)
        )
        self.head = nn.Linear(32, 10)

    def go(self, x: Tensor) -> Tensor:
        return self.head(self.body(x[:, None]).relu().flatten(2).mean(2))


class Halves(Network):
    """One half is processed, all are joined (YOLOv8's block)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.inner, self.join = block(3, 64), nn.Conv2d(32, 32, 1), block(96, 32)
        self.head = nn.Linear(32, 10)

    def go(self, x: Tensor) -> Tensor:
        parts = list(self.first(x).chunk(2, 1))
        parts.append(self.inner(parts[-1]))
        return self.head(self.join(torch.cat(parts, 1)).mean((2, 3)))


class Parts(Network):
    """Three parts of one layer's output are multiplied and added: a channel goes in all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Conv2d(3, 48, 3), nn.Linear(16, 10)

    def go(self, x: Tensor) -> Tensor:
        a, b, c = self.first(x).chunk(3, 1)
        return self.head((a * b.sigmoid() + c).mean((2, 3)))


class Padded(Network):
    """A shortcut filled up with zeros (He et al., option A)."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = block(3, 32), block(32, 64), nn.Conv2d(64, 64, 3, 1, 1)
        self.head = nn.Linear(64, 10)

    def go(self, x: Tensor) -> Tensor:
        x = self.a(x)
        x = self.c(self.b(x)) + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 16, 16))
        return self.head(x.relu().mean((2, 3)))


class Shuffled(Network):
    """Of right shapes but with other pairs, if channels go before the shuffle."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = block(3, 32), nn.Conv2d(32, 32, 1, groups=4), nn.Conv2d(32, 32, 1)
        self.head = nn.Linear(32, 10)

    def go(self, x: Tensor) -> Tensor:
        x = self.b(self.a(x)).relu()
        n, c, h, w = x.shape
        x = x.view(n, 4, c // 4, h, w).transpose(1, 2).reshape(n, c, h, w)
        return self.head(self.c(x).relu().mean((2, 3)))


class Attention(Network):
    """Grouped queries: two heads of keys and values for four of queries."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.out = nn.Conv2d(3, 32, 4, 4), nn.Linear(32, 32)
        self.q, self.k, self.v = nn.Linear(32, 32), nn.Linear(32, 16), nn.Linear(32, 16)
        self.norm, self.fc1, self.fc2 = nn.LayerNorm(32), nn.Linear(32, 64), nn.Linear(64, 32)
        self.head = nn.Linear(32, 10)

    def go(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        q, k, v = (m(x).unflatten(2, (-1, 8)).transpose(1, 2) for m in (self.q, self.k, self.v))
        k, v = k.repeat_interleave(2, 1), v.repeat_interleave(2, 1)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        x = self.norm(x)
        return self.head((x + self.fc2(F.gelu(self.fc1(x)))).mean(1))


class Gated(Network):
    """Squeeze and excitation, a depthwise convolution, and a layer used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.squeeze, self.excite = block(3, 32), nn.Linear(32, 16), nn.Linear(16, 32)
        self.apart, self.twice = nn.Conv2d(32, 32, 3, 1, 1, groups=32), nn.Conv2d(32, 32, 1)
        self.head = nn.Linear(32, 10)

    def go(self, x: Tensor) -> Tensor:
        x = self.first(x)
        gate = self.excite(self.squeeze(x.mean((2, 3))).relu()).sigmoid()
        x = self.apart(x * gate[:, :, None, None])
        return self.head(self.twice(self.twice(x).relu()).relu().mean((2, 3)))


class Recurrent(Network):
    """A GRU reads what convolutions write; its last state is read."""

    kind: type[nn.RNNBase] = nn.GRU

    def __init__(self) -> None:
        super().__init__()
        self.body = block(3, 32)
        self.recurrent = self.kind(32, 24, num_layers=2, bidirectional=True)
        self.hidden, self.head = nn.Linear(48, 16), nn.Linear(16, 10)

    def go(self, x: Tensor) -> Tensor:
        _, states = self.recurrent(self.body(x).mean(2).permute(2, 0, 1))
        states = states[0] if isinstance(states, tuple) else states
        return self.head(self.hidden(torch.cat([*states[-2:]], 1)).relu())


class LongShort(Recurrent):
    kind = nn.LSTM


class Keeping(Attention):
    """Keeps a table that it computes from a parameter until its mode is set (LeViT)."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.kept = nn.Parameter(torch.randn(8)), {}  # type: ignore[var-annotated]

    def train(self, mode: bool = True) -> "Keeping":
        self.kept = {}
        return super().train(mode)

    def go(self, x: Tensor) -> Tensor:
        if "table" not in self.kept:
            self.kept["table"] = self.table.repeat(4)[:32] * 3
        return super().go(x + self.kept["table"].mean())


def built(kind: type[Network]) -> nn.Module:
    torch.manual_seed(0)
    model = kind().eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.running_mean.normal_(0, 0.1)  # type: ignore[union-attr]
    return model


def shapes(answers: object) -> list[torch.Size]:
    return [leaf.shape for leaf in torch.utils._pytree.tree_leaves(answers)]


# What is half as wide afterwards; `stuck` is what cannot be, and is said.
PRUNED: list[tuple[type[Network], set[str], set[str]]] = [
    (Plain, {"body.0.0", "body.1.0"}, set()),
    (Extended, {"body.0.0", "body.1.0", "more"}, set()),
    (Several, {"first.0"}, set()),
    (Upsampled, {"a.0", "b.0", "up", "join.0"}, set()),
    (Sequence, {"body.0", "body.3"}, set()),
    (Volume, {"body.0", "body.3"}, set()),
    (Halves, {"join.0"}, {"inner"}),
    (Parts, {"first"}, set()),
    (Padded, {"b.0"}, {"c"}),
    (Shuffled, {"a.0", "c"}, {"b"}),
    (Attention, {"fc1"}, {"q", "k", "v"}),
    (Keeping, {"fc1"}, {"q", "k", "v"}),
    (Recurrent, {"body.0", "hidden"}, set()),
    (LongShort, {"body.0", "hidden"}, set()),
    (Gated, {"first.0", "excite", "apart", "twice", "squeeze"}, set()),
]


@pytest.mark.parametrize(
    ("kind", "halved", "stuck"), PRUNED, ids=lambda v: getattr(v, "__name__", "")
)
def test_what_can_be_pruned_is_and_the_outputs_stay(
    kind: type[Network], halved: set[str], stuck: set[str]
) -> None:
    model = built(kind)
    details: dict[str, list[str]] = {}
    pruned = prune(model, EXAMPLE, HALF, details=details)
    before, after = widths(model), widths(pruned)
    narrower = {name for name in before if after[name] < before[name]}
    assert halved <= narrower and all(after[name] == before[name] / 2 for name in narrower)
    assert stuck <= set(details["stuck"]) and not narrower & set(details["stuck"])
    for batch in (1, 3):
        pixels = EXAMPLE.expand(batch, -1, -1, -1)
        assert shapes(pruned(pixels)) == shapes(model(pixels))
    assert parameters(pruned) < parameters(model)
    assert all(p.requires_grad for p in pruned.parameters())


def zeroed(kind: type[Network], layer: str, norm: str, channels: list[int]) -> nn.Module:
    """With channels that a layer writes as zeros, and that its normalisation leaves as zeros."""
    model = built(kind)
    modules = dict(model.named_modules())
    with torch.no_grad():
        for module in [modules[layer], *([modules[norm]] if norm else [])]:
            assert isinstance(module.weight, Tensor)
            transposed = isinstance(module, nn.ConvTranspose1d | nn.ConvTranspose2d)
            (module.weight.transpose(0, 1) if transposed else module.weight)[channels] = 0
            if isinstance(module.bias, Tensor):
                module.bias[channels] = 0
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean[channels] = 0  # type: ignore[index]
    return model


@pytest.mark.parametrize(
    ("kind", "layer", "norm"),
    [
        (Plain, "body.0.0", "body.0.1"),
        (Extended, "more", ""),
        (Several, "first.0", "first.1"),
        (Upsampled, "up", ""),
        (Upsampled, "a.0", "a.1"),
        (Sequence, "body.3", ""),
        (Volume, "body.3", ""),
        (Halves, "join.0", "join.1"),
        (Attention, "fc1", ""),
        (Gated, "squeeze", ""),
        (Recurrent, "hidden", ""),
    ],
)
def test_removing_channels_of_zeros_changes_no_answer(
    kind: type[Network], layer: str, norm: str
) -> None:
    channels = [1, 2, 5, 12]
    model = zeroed(kind, layer, norm, channels)
    smaller, removed = remove_dead(model, EXAMPLE)
    assert removed[layer] == 4
    assert widths(smaller)[layer] == widths(model)[layer] - 4
    pixels = torch.cat([EXAMPLE, 255 - EXAMPLE])
    wanted, answers = (torch.utils._pytree.tree_leaves(m(pixels)) for m in (model, smaller))
    for one, other in zip(wanted, answers, strict=True):
        assert torch.allclose(one, other, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "layer", "channels"),
    [
        (Shuffled, "b", [0, 8, 16, 24]),  # of right shapes, with other partners after the shuffle
        (Attention, "q", [0, 1]),  # a width in the code
        (Plain, "head", [0]),  # the model's outputs
    ],
)
def test_what_would_change_more_than_the_channels_is_not_removed(
    kind: type[Network], layer: str, channels: list[int]
) -> None:
    model = built(kind)
    same, done = without(model, EXAMPLE, {layer: channels})
    assert done == {} and widths(same) == widths(model)
    both, done = without(model, EXAMPLE, {layer: channels, "head": [0]})
    assert done == {} and both is not model


def test_outputs_are_protected_where_the_head_is_a_function() -> None:
    pruned = prune(built(Functional), EXAMPLE, HALF)
    assert widths(pruned) == {**widths(built(Functional)), "body.0.0": 16}


class Fixed(Network):
    """Its own width is written into the code."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = block(3, 8), nn.Linear(8, 10)

    def go(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean((2, 3)).view(-1, 8))


class Alone(Network):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 10, 3)

    def go(self, x: Tensor) -> Tensor:
        return self.head(x).mean((2, 3))


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        (Fixed, HALF, r"channels of body\.0 .*Leave out the prune stage"),
        (Alone, HALF, "every layer that can be traced feeds the model's outputs"),
        (Plain, PruneOptions(0.5, keep=["body"]), "or is named in keep"),
        (Plain, PruneOptions(0.5, round_to=64), r"\(the widest .* 32\): raise the ratio or lower"),
        (Volume, PruneOptions(0.5, "bn_scale"), "needs batch normalisation"),
        (
            Upsampled,
            PruneOptions(0.5, "bn_scale", keep=["a", "b", "join"]),
            "use another importance",
        ),
    ],
)
def test_the_reason_is_said_where_nothing_can_be_removed(
    kind: type[Network], options: PruneOptions, words: str
) -> None:
    with pytest.raises((ModelError, OptionError), match=words):
        prune(built(kind), EXAMPLE, options)


def test_a_quantized_model_is_sent_back_before_its_quantization() -> None:
    model = quantize(built(Plain), EXAMPLE.expand(8, -1, -1, -1), QuantizeOptions(calibration=8))
    with pytest.raises(ModelError, match="put the prune stage before quantize"):
        prune(model, EXAMPLE, HALF)
