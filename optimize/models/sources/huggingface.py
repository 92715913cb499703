"""Image classifiers in the Hugging Face format: `model: {huggingface: FOLDER_OR_ID}`."""

import importlib.util
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from optimize.errors import ModelError
from optimize.models.normalized import Normalized
from optimize.models.notes import note
from optimize.models.sources.labels import Head, match, names, reorder
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


def build(
    name: str,
    classes: int,
    channels: int = 3,
    labels: list[str] | None = None,
    folder: Path = Path(),
    new_head: bool = True,
) -> Normalized:
    """A classifier from a folder with `config.json` and weights, or from the hub by its id.

    A trained head is put into the order of the data's labels by their names (`id2label`). A folder
    without weights gives an untrained model.

    Args:
        name: a folder, relative to the recipe, or an id such as `microsoft/resnet-18`.
        classes: number of classes.
        channels: image channels.
        labels: names of the classes; without them the head's order counts.
        folder: base of a relative path.
        new_head: whether a head for other labels is replaced, because a `train` stage or a
            checkpoint follows, or refused.

    Returns:
        Module from uint8 `[N, channels, H, W]` to float32 logits `[N, classes]`.

    Raises:
        ModelError: transformers is missing, there is no such model or weights, or its head is for
            other labels.
    """
    try:
        transformers = retrying(_package)
        auto = transformers.AutoModelForImageClassification
    except (ImportError, AttributeError) as error:
        raise ModelError(f"model {name} needs the transformers package: {INSTALL}") from error
    local = (folder / Path(name).expanduser()).resolve()
    source = source_of(name, local)
    labels = labels or [str(number) for number in range(classes)]
    try:
        with _quiet(transformers):
            config = transformers.AutoConfig.from_pretrained(
                source, local_files_only=local.is_dir()
            )
            theirs = None if _generic(config) else config.id2label
            head = match(theirs, labels, name, new_head=new_head)
            if theirs is None or len(theirs) != classes:
                config.id2label = dict(enumerate(labels))
            if has_no_weights(name, folder):
                model, fresh = auto.from_config(config), set()
                head = Head(list(range(classes)), f"{name} holds no weights: they are random")
            else:
                model, info = auto.from_pretrained(
                    source,
                    config=config,
                    ignore_mismatched_sizes=True,
                    local_files_only=local.is_dir(),
                    output_loading_info=True,
                )
                fresh = _fresh(info)
    except ModelError:
        raise
    except Exception as error:  # the hub's client and the loaders raise many kinds
        reason = str(error).strip().split("\n")[0]
        raise ModelError(
            f"{name} cannot be loaded as an image classifier ({type(error).__name__}: {reason}); "
            "give a folder with config.json and model.safetensors"
        ) from error
    head = _settle(model, head, fresh, name, classes, new_head)
    mean, std = _normalization(local)
    built = Normalized(Classifier(model.eval(), config.num_channels), mean, std)
    note(built, head.note)
    return built


def source_of(name: str, local: Path) -> str:
    """What transformers loads: the folder `local`, or `name` from the hub.

    Raises:
        ModelError: `name` is a path, and no Hugging Face folder.
    """
    if local.is_dir():
        if not (local / "config.json").is_file():
            raise ModelError(f"{local} has no config.json: it is not a Hugging Face folder")
        return str(local)
    if name.startswith((".", "/", "~")):
        raise ModelError(f"{local} is not a folder")
    return name


def _generic(config: Any) -> bool:
    return names(config.id2label) is None


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Without transformers' own progress bars and table of keys: we say what matters."""
    logging = transformers.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _fresh(info: dict[str, Any]) -> set[str]:
    """Names of parameters that the checkpoint lacks, or has in another shape."""
    other = {key[0] if isinstance(key, tuple) else key for key in info["mismatched_keys"]}
    return {*info["missing_keys"], *other}


def _settle(
    model: Any, head: Head, fresh: set[str], name: str, classes: int, new_head: bool
) -> Head:
    """Reorder or renew the head; refuse a model of which more than the head is missing."""
    body = f"{model.base_model_prefix}."
    layers = {
        key: module
        for key, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
        and not key.startswith(body)
        and len(module.weight) == classes
    }
    lost = sorted(key for key in fresh if key.rpartition(".")[0] not in layers)
    if any(key.startswith(body) for key in lost):
        shown = ", ".join(lost[:3])
        raise ModelError(
            f"{name} lacks {len(lost)} weights of its own config.json, or has them in another "
            f"shape: {shown}{', ...' if len(lost) > 3 else ''}"
        )
    if fresh and head.rows is not None:
        if not new_head:
            raise ModelError(
                f"{name} has no trained head for {classes} labels, and nothing trains a new one: "
                "begin with a `train` stage, or give a fine-tuned folder"
            )
        return Head(None, f"{name} brings no head for {classes} labels: it gets a new one")
    if head.rows is None and not fresh:
        for layer in layers.values():
            layer.reset_parameters()
    elif head.rows is not None and head.rows != list(range(classes)):
        if not layers:
            raise ModelError(
                f"the head of {name} is of a kind that cannot be reordered: list the data's labels "
                f"in the model's order"
            )
        for layer in layers.values():
            reorder(layer, head.rows)
    return head


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
