"""A plain convolutional student of few, dense operators, so that latency follows the MACs."""

from torch import nn

from optimize.models.normalized import Normalized


def build(
    classes: int,
    channels: int = 1,
    widths: tuple[int, ...] = (32, 64, 64, 128),
    strides: tuple[int, ...] = (2, 1, 2, 2),
    mean: float = 73.0,
    std: float = 90.0,
) -> Normalized:
    """Conv-BN-ReLU layers of 3x3, then average pooling and a linear classifier.

    Args:
        classes: number of classes.
        channels: image channels.
        widths: output channels of each convolution.
        strides: stride of each convolution; as many as `widths`.
        mean, std: of the pixels (0..255), one for all channels.

    Returns:
        Module from uint8 `[N, channels, H, W]` to float32 logits `[N, classes]`.
    """
    if len(widths) != len(strides):
        raise ValueError(f"{len(widths)} widths, {len(strides)} strides")
    layers: list[nn.Module] = []
    inputs = channels
    for outputs, stride in zip(widths, strides, strict=True):
        layers += [
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
        ]
        inputs = outputs
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes)]
    return Normalized(nn.Sequential(*layers), mean, std)
