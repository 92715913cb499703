"""Image classifiers in the Hugging Face format: `model: {huggingface: FOLDER_OR_ID}`."""

import importlib.util
import json
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from optimize.errors import ModelError
from optimize.models.normalized import Normalized
from optimize.utils.torchvision_shim import retrying

INSTALL = "pip install transformers==5.23.0"


class Classifier(nn.Module):
    """A transformers classifier from pixels to logits; one channel is repeated `channels` times."""

    def __init__(self, model: nn.Module, channels: int) -> None:
        super().__init__()
        self.model, self.channels = model, channels

    def forward(self, images: Tensor) -> Tensor:
        if images.shape[1] == 1 and self.channels > 1:
            images = images.expand(-1, self.channels, -1, -1)
        logits: Tensor = self.model(pixel_values=images).logits
        return logits


def _package() -> Any:
    if importlib.util.find_spec("torchvision") is not None:
        import torchvision  # noqa: F401  # transformers would import it later, lazily
    import transformers

    return transformers


def build(name: str, classes: int, channels: int = 3, folder: Path = Path()) -> Normalized:
    """A classifier from a folder with `config.json` and weights, or from the hub by its id.

    If the checkpoint has other classes than the data, its head is replaced by a new one, which a
    `train` stage must train. A folder without weights gives an untrained model.

    Args:
        name: a folder, relative to the recipe, or an id such as `microsoft/resnet-18`.
        classes: number of classes.
        channels: image channels.
        folder: base of a relative path.

    Returns:
        Module from uint8 `[N, channels, H, W]` to float32 logits `[N, classes]`.

    Raises:
        ModelError: transformers is missing, or there is no such model or weights.
    """
    try:
        transformers = retrying(_package)
        auto = transformers.AutoModelForImageClassification
    except (ImportError, AttributeError) as error:
        raise ModelError(f"model {name} needs the transformers package: {INSTALL}") from error
    local = (folder / Path(name).expanduser()).resolve()
    if local.is_dir():
        if not (local / "config.json").is_file():
            raise ModelError(f"{local} has no config.json: it is not a Hugging Face folder")
        source: str = str(local)
    elif name.startswith((".", "/", "~")):
        raise ModelError(f"{local} is not a folder")
    else:
        source = name
    try:
        config = transformers.AutoConfig.from_pretrained(
            source, num_labels=classes, local_files_only=local.is_dir()
        )
        if has_no_weights(name, folder):
            model = auto.from_config(config)
        else:
            model = auto.from_pretrained(
                source,
                config=config,
                ignore_mismatched_sizes=True,
                local_files_only=local.is_dir(),
            )
    except Exception as error:  # the hub's client and the loaders raise many kinds
        reason = str(error).strip().split("\n")[0]
        raise ModelError(
            f"{name} cannot be loaded as an image classifier ({type(error).__name__}: {reason}); "
            "give a folder with config.json and model.safetensors"
        ) from error
    mean, std = _normalization(local)
    return Normalized(Classifier(model.eval(), config.num_channels), mean, std)


def has_no_weights(name: str, folder: Path) -> bool:
    """Whether `name`, relative to `folder`, is a local folder of a model without weights."""
    local = (folder / Path(name).expanduser()).resolve()
    return local.is_dir() and not [*local.glob("*.safetensors"), *local.glob("*.bin")]


def _normalization(folder: Path) -> tuple[Any, Any]:
    """Mean and std in pixel units from `preprocessor_config.json`; by default those for -1..1."""
    try:
        preprocessor = json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8"))
        mean, std = preprocessor["image_mean"], preprocessor["image_std"]
    except (OSError, ValueError, KeyError, TypeError):
        return 127.5, 127.5
    pixels = [[255.0 * float(v) for v in values] for values in (mean, std)]
    return tuple(values[0] if len(set(values)) == 1 else values for values in pixels)  # type: ignore[return-value]
