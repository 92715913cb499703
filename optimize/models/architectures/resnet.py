"""Residual networks for small images (He et al. 2016, the CIFAR family)."""

from torch import Tensor, nn
from torch.nn import functional as F

from optimize.models.normalized import Normalized


def _conv_bn(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
    )


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, which is 1x1 where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv_bn(inputs, outputs, 3, stride)
        self.conv2 = _conv_bn(outputs, outputs, 3, 1)
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else _conv_bn(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv2(F.relu(self.conv1(x))) + self.shortcut(x))


def build(
    classes: int,
    channels: int = 1,
    width: int = 16,
    blocks: int = 3,
    mean: float = 73.0,
    std: float = 90.0,
) -> Normalized:
    """A ResNet of 6 * blocks + 2 layers: `blocks=3` is ResNet-20.

    Args:
        classes: number of classes.
        channels: image channels.
        width: channels of the first of the three groups; each next doubles them.
        blocks: residual blocks in each group.
        mean, std: of the pixels (0..255), one for all channels.

    Returns:
        Module from uint8 `[N, channels, H, W]` to float32 logits `[N, classes]`.
    """
    layers: list[nn.Module] = [_conv_bn(channels, width, 3, 1), nn.ReLU()]
    inputs = width
    for group in range(3):
        for block in range(blocks):
            outputs = width * 2**group
            layers.append(BasicBlock(inputs, outputs, 2 if group and not block else 1))
            inputs = outputs
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes)]
    return Normalized(nn.Sequential(*layers), mean, std)
