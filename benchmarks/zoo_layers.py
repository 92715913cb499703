"""The layers of `torch.nn`, each in a small model of pictures of its own."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

SIDE, CLASSES = 32, 10
_WIDTH = 8


def _picture(x: Tensor) -> Tensor:
    return x


def _sequence(x: Tensor) -> Tensor:
    return x.flatten(2)


def _tokens(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2)


def _volume(x: Tensor) -> Tensor:
    return x.unflatten(1, (4, 2))


def _columns(x: Tensor) -> Tensor:
    return x.mean(3).transpose(1, 2)


def _pooled(x: Tensor) -> Tensor:
    return x.mean((2, 3))


class Around(nn.Module):
    """A convolution, the layer, and a linear layer: uint8 `[N, 3, 32, 32]` to `[N, 10]`."""

    def __init__(self, layer: nn.Module, shape: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.stem, self.layer, self.shape = nn.Conv2d(3, _WIDTH, 4, 4), layer, shape
        self.eval()
        with torch.no_grad():
            width = self.features(torch.zeros(2, 3, SIDE, SIDE, dtype=torch.uint8)).shape[1]
        self.head = nn.Linear(width, CLASSES)

    def features(self, pixels: Tensor) -> Tensor:
        found = self.layer(self.shape(self.stem(pixels.float() / 127.5 - 1)))
        return (found[0] if isinstance(found, tuple) else found).flatten(1)

    def forward(self, pixels: Tensor) -> Tensor:
        answers: Tensor = self.head(self.features(pixels))
        return answers


class Twice(nn.Module):
    """A layer that reads its input more than once: attention, decoders, distances."""

    def __init__(self, layer: nn.Module, count: int = 2) -> None:
        super().__init__()
        self.layer, self.count = layer, count

    def forward(self, x: Tensor) -> Any:
        return self.layer(*[x] * self.count)


class Stepped(nn.Module):
    """A recurrent cell along a sequence `[N, L, C]`."""

    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x: Tensor) -> Tensor:
        state = None
        for step in x.unbind(1):
            state = self.cell(step, state)
        assert state is not None
        return state[0] if isinstance(state, tuple) else state


class LengthFirst(nn.Module):
    """A layer of sequences `[L, N, C]`, torch's own order."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        found = self.layer(x.transpose(0, 1))
        result: Tensor = (found[0] if isinstance(found, tuple) else found).transpose(0, 1)
        return result


class LookedUp(nn.Module):
    """A table of embeddings, by the sign of each number."""

    def __init__(self, table: nn.Module) -> None:
        super().__init__()
        self.table = table

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.table((x > 0).long().flatten(1))
        return found


class Unpooled(nn.Module):
    """Max pooling and its inverse."""

    def __init__(self) -> None:
        super().__init__()
        self.pool, self.unpool = nn.MaxPool2d(2, return_indices=True), nn.MaxUnpool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.unpool(*self.pool(x))
        return result


def _attention() -> nn.Module:
    return nn.MultiheadAttention(_WIDTH, 2, batch_first=True)


_PLAIN: dict[Callable[[Tensor], Tensor], dict[str, Callable[[], nn.Module]]] = {
    _picture: {
        "Conv2d": lambda: nn.Conv2d(_WIDTH, 16, 3, 2, 1),
        "Conv2d, groups": lambda: nn.Conv2d(_WIDTH, 16, 3, groups=4),
        "Conv2d, dilation": lambda: nn.Conv2d(_WIDTH, 16, 3, dilation=2),
        "Conv2d, padding same": lambda: nn.Conv2d(_WIDTH, 16, 4, padding="same"),
        "Conv2d, padding circular": lambda: nn.Conv2d(
            _WIDTH, 16, 3, padding=1, padding_mode="circular"
        ),
        "Conv2d, padding reflect": lambda: nn.Conv2d(
            _WIDTH, 16, 3, padding=1, padding_mode="reflect"
        ),
        "ConvTranspose2d": lambda: nn.ConvTranspose2d(_WIDTH, 16, 3, 2, 1),
        "ConvTranspose2d, groups": lambda: nn.ConvTranspose2d(_WIDTH, 16, 3, 2, groups=2),
        "Unfold": lambda: nn.Unfold(3, padding=1),
        "Fold": lambda: nn.Sequential(nn.Unfold(2, stride=2), nn.Fold((8, 8), 2, stride=2)),
        "MaxPool2d": lambda: nn.MaxPool2d(3, 2, 1),
        "MaxUnpool2d": Unpooled,
        "AvgPool2d": lambda: nn.AvgPool2d(3, 2, 1),
        "LPPool2d": lambda: nn.LPPool2d(2, 2),
        "AdaptiveMaxPool2d": lambda: nn.AdaptiveMaxPool2d(3),
        "AdaptiveAvgPool2d": lambda: nn.AdaptiveAvgPool2d(3),
        "ReflectionPad2d": lambda: nn.ReflectionPad2d(2),
        "ReplicationPad2d": lambda: nn.ReplicationPad2d(2),
        "ZeroPad2d": lambda: nn.ZeroPad2d((1, 2, 0, 1)),
        "ConstantPad2d": lambda: nn.ConstantPad2d(1, 0.5),
        "CircularPad2d": lambda: nn.CircularPad2d(1),
        "BatchNorm2d": lambda: nn.BatchNorm2d(_WIDTH),
        "BatchNorm2d, first": lambda: nn.Sequential(
            nn.BatchNorm2d(_WIDTH), nn.ReLU(), nn.Conv2d(_WIDTH, 16, 3)
        ),
        "GroupNorm": lambda: nn.GroupNorm(2, _WIDTH),
        "InstanceNorm2d": lambda: nn.InstanceNorm2d(_WIDTH, affine=True),
        "LocalResponseNorm": lambda: nn.LocalResponseNorm(3),
        "PReLU": lambda: nn.PReLU(_WIDTH),
        "Softmax2d": nn.Softmax2d,
        "Dropout2d": nn.Dropout2d,
        "PixelShuffle": lambda: nn.PixelShuffle(2),
        "PixelUnshuffle": lambda: nn.PixelUnshuffle(2),
        "ChannelShuffle": lambda: nn.ChannelShuffle(2),
        "Upsample, nearest": lambda: nn.Upsample(scale_factor=2),
        "Upsample, bilinear": lambda: nn.Upsample(scale_factor=2, mode="bilinear"),
        "Upsample, bicubic": lambda: nn.Upsample(scale_factor=1.5, mode="bicubic"),
        "GLU": lambda: nn.GLU(1),
        "Embedding": lambda: LookedUp(nn.Embedding(2, 4)),
        "EmbeddingBag": lambda: LookedUp(nn.EmbeddingBag(2, 64, mode="mean")),
    },
    _sequence: {
        "Conv1d": lambda: nn.Conv1d(_WIDTH, 16, 5, 2, 2),
        "Conv1d, groups": lambda: nn.Conv1d(_WIDTH, 16, 3, groups=2),
        "Conv1d, padding same": lambda: nn.Conv1d(_WIDTH, 16, 3, padding="same"),
        "Conv1d and BatchNorm1d": lambda: nn.Sequential(
            nn.Conv1d(_WIDTH, 16, 3), nn.BatchNorm1d(16), nn.ReLU()
        ),
        "ConvTranspose1d": lambda: nn.ConvTranspose1d(_WIDTH, 16, 3, 2),
        "MaxPool1d": lambda: nn.MaxPool1d(2),
        "AvgPool1d": lambda: nn.AvgPool1d(2),
        "LPPool1d": lambda: nn.LPPool1d(2, 2),
        "AdaptiveMaxPool1d": lambda: nn.AdaptiveMaxPool1d(5),
        "AdaptiveAvgPool1d": lambda: nn.AdaptiveAvgPool1d(5),
        "ReflectionPad1d": lambda: nn.ReflectionPad1d(2),
        "BatchNorm1d": lambda: nn.BatchNorm1d(_WIDTH),
        "InstanceNorm1d": lambda: nn.InstanceNorm1d(_WIDTH),
    },
    _volume: {
        "Conv3d": lambda: nn.Conv3d(4, 8, (1, 3, 3)),
        "Conv3d and BatchNorm3d": lambda: nn.Sequential(
            nn.Conv3d(4, 8, 1), nn.BatchNorm3d(8), nn.ReLU()
        ),
        "ConvTranspose3d": lambda: nn.ConvTranspose3d(4, 8, 2),
        "MaxPool3d": lambda: nn.MaxPool3d((1, 2, 2)),
        "AvgPool3d": lambda: nn.AvgPool3d((1, 2, 2)),
        "AdaptiveAvgPool3d": lambda: nn.AdaptiveAvgPool3d(2),
        "InstanceNorm3d": lambda: nn.InstanceNorm3d(4),
    },
    _tokens: {
        "Linear": lambda: nn.Linear(_WIDTH, 16),
        "Bilinear": lambda: Twice(nn.Bilinear(_WIDTH, _WIDTH, 16)),
        "LayerNorm": lambda: nn.LayerNorm(_WIDTH),
        "RMSNorm": lambda: nn.RMSNorm(_WIDTH),
        "CosineSimilarity": lambda: Twice(nn.CosineSimilarity(-1)),
        "MultiheadAttention": lambda: Twice(_attention(), 3),
        "MultiheadAttention, length first": lambda: LengthFirst(
            Twice(nn.MultiheadAttention(_WIDTH, 2), 3)
        ),
        "MultiheadAttention, other keys": lambda: Twice(
            nn.MultiheadAttention(_WIDTH, 2, batch_first=True, add_bias_kv=True), 3
        ),
        "TransformerEncoderLayer": lambda: nn.TransformerEncoderLayer(
            _WIDTH, 2, 16, batch_first=True
        ),
        "TransformerEncoderLayer, norm first": lambda: nn.TransformerEncoderLayer(
            _WIDTH, 2, 16, activation="gelu", batch_first=True, norm_first=True
        ),
        "TransformerEncoder": lambda: nn.TransformerEncoder(
            nn.TransformerEncoderLayer(_WIDTH, 2, 16, batch_first=True), 2
        ),
        "TransformerEncoder, length first": lambda: LengthFirst(
            nn.TransformerEncoder(
                nn.TransformerEncoderLayer(_WIDTH, 2, 16), 2, enable_nested_tensor=False
            )
        ),
        "TransformerDecoderLayer": lambda: Twice(
            nn.TransformerDecoderLayer(_WIDTH, 2, 16, batch_first=True)
        ),
        "Transformer": lambda: Twice(nn.Transformer(_WIDTH, 2, 1, 1, 16, batch_first=True)),
    },
    _columns: {
        "RNN": lambda: nn.RNN(_WIDTH, 16, batch_first=True),
        "RNN, ReLU": lambda: nn.RNN(_WIDTH, 16, nonlinearity="relu", batch_first=True),
        "LSTM": lambda: nn.LSTM(_WIDTH, 16, batch_first=True),
        "LSTM, 2 layers, both ways": lambda: nn.LSTM(
            _WIDTH, 16, 2, bidirectional=True, batch_first=True
        ),
        "LSTM, projected": lambda: nn.LSTM(_WIDTH, 16, proj_size=4, batch_first=True),
        "LSTM, length first": lambda: LengthFirst(nn.LSTM(_WIDTH, 16)),
        "GRU": lambda: nn.GRU(_WIDTH, 16, batch_first=True),
        "GRU, both ways": lambda: nn.GRU(_WIDTH, 16, bidirectional=True, batch_first=True),
        "GRU, length first": lambda: LengthFirst(nn.GRU(_WIDTH, 16)),
        "RNNCell": lambda: Stepped(nn.RNNCell(_WIDTH, 16)),
        "LSTMCell": lambda: Stepped(nn.LSTMCell(_WIDTH, 16)),
        "GRUCell": lambda: Stepped(nn.GRUCell(_WIDTH, 16)),
    },
    _pooled: {"Linear, pooled": lambda: nn.Sequential(nn.Linear(_WIDTH, 400), nn.ReLU())},
}
_POINTWISE: tuple[type[nn.Module], ...] = (
    nn.CELU, nn.ELU, nn.GELU, nn.Hardshrink, nn.Hardsigmoid, nn.Hardswish, nn.Hardtanh,
    nn.Identity, nn.LeakyReLU, nn.LogSigmoid, nn.Mish, nn.ReLU, nn.ReLU6, nn.RReLU, nn.SELU,
    nn.SiLU, nn.Sigmoid, nn.Softplus, nn.Softshrink, nn.Softsign, nn.Tanh, nn.Tanhshrink,
    nn.AlphaDropout, nn.Dropout,
)  # fmt: skip
_ALONG: tuple[type[nn.Module], ...] = (nn.LogSoftmax, nn.Softmax, nn.Softmin)


def _models() -> dict[str, Callable[[], nn.Module]]:
    found: dict[str, Callable[[], nn.Module]] = {}
    for shape, made in _PLAIN.items():
        for name, make in made.items():
            found[name] = lambda make=make, shape=shape: Around(make(), shape)  # type: ignore
    for kind in _POINTWISE:
        found[kind.__name__] = lambda kind=kind: Around(kind(), _picture)  # type: ignore[misc]
    for kind in _ALONG:
        found[kind.__name__] = lambda kind=kind: Around(kind(-1), _picture)  # type: ignore[misc]
    found["Threshold"] = lambda: Around(nn.Threshold(0.1, 0.0), _picture)
    return found


MODELS = _models()
"""Builders by the layer's name."""


def build(name: str) -> nn.Module:
    """The model around a layer, its weights and batch statistics drawn with a fixed seed."""
    torch.manual_seed(0)
    model = MODELS[name]()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.2, 1.5)  # type: ignore[union-attr]
    return model.eval()
