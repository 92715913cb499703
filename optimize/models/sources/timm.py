"""Any classifier of the timm package: `model: {timm: resnet18}`."""

from typing import Any

from optimize.errors import ModelError, OptionError
from optimize.models.normalized import Normalized
from optimize.utils.torchvision_shim import retrying


def _package() -> Any:
    import timm

    return timm


def build(
    name: str,
    classes: int,
    channels: int = 3,
    pretrained: bool = False,
    new_head: bool = True,
    **options: Any,
) -> Normalized:
    """A timm model with the normalisation it was trained with.

    Args:
        name: one of `timm.list_models()`, for instance `resnet18` or `resnet18.a1_in1k`.
        classes: number of classes.
        channels: image channels; the weights of the first layer are adapted.
        pretrained: download weights; the recipe's `checkpoint:` reads a local file instead.
        new_head: whether pretrained weights for other classes may get a new head, because a
            `train` stage or a checkpoint follows.
        options: other arguments of `timm.create_model`, such as `img_size`.

    Returns:
        Module from uint8 `[N, channels, H, W]` to float32 logits `[N, classes]`.

    Raises:
        ModelError: timm is missing, the weights cannot be fetched, or know other classes.
        OptionError: timm has no such model or option.
    """
    try:
        timm = retrying(_package)
    except ImportError as error:
        raise ModelError(
            f"model timm: {error}; pip install --no-deps timm==1.0.31 torchvision==0.29.2"
        ) from error
    arguments = {"num_classes": classes, "in_chans": channels, **options}
    try:
        body = timm.create_model(name, pretrained=pretrained, **arguments)
    except (RuntimeError, TypeError, ValueError) as error:
        if str(error).startswith("Unknown model"):
            near = timm.list_models(f"*{name.split('_')[0].split('.')[0][:8]}*")[:6]
            hint = f"; near ones: {', '.join(near)}" if near else ""
            raise OptionError(f"timm has no model {name!r}{hint}") from error
        raise OptionError(f"timm model {name}: {error}") from error
    except Exception as error:  # the hub's client raises many kinds without a network
        raise ModelError(
            f"weights of timm model {name} cannot be fetched ({type(error).__name__}: {error}); "
            f"save them to a file and name it as `checkpoint:`, with pretrained: false"
        ) from error
    config: dict[str, Any] = getattr(body, "pretrained_cfg", {})
    known = config.get("num_classes")
    if pretrained and known and known != classes and not new_head:
        raise ModelError(
            f"the weights of timm model {name} know {known} classes, the data {classes}: their "
            "head would be replaced by a random one. Begin with a `train` stage, or name a "
            "`checkpoint:`"
        )
    mean, std = (_channels(config.get(key), channels) for key in ("mean", "std"))
    return Normalized(body, mean or 127.5, std or 127.5)


def _channels(values: Any, channels: int) -> float | list[float] | None:
    """timm's per-channel mean or std (0..1) in pixel units; one number if all are equal."""
    if not values:
        return None
    pixels = [255.0 * float(value) for value in values]
    if len(pixels) != channels or len(set(pixels)) == 1:
        return sum(pixels) / len(pixels)
    return pixels
