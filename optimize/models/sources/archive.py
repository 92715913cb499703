"""The model in a TorchServe archive that was adopted: `model: {archive: old.mar}`.

An archive holds TorchScript, or weights and a file with the model's class. The second becomes a
model like any of a user's own; the first can do what a TorchScript file can.
"""

import json
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from torch import nn

from handlers import seal
from optimize.errors import ModelError
from optimize.models.normalized import of_pixels
from optimize.models.sources import torchscript
from optimize.models.sources.user_file import described
from optimize.models.weights import load_checkpoint
from optimize.utils import user_modules
from optimize.utils.torchvision_shim import retrying

MAX_BYTES = 16 * 2**30
MAX_ENTRIES = 4_000
# Unpacked model files: their modules may import each other for as long as this process runs.
_FOLDERS: dict[str, "tempfile.TemporaryDirectory[str]"] = {}


def build(
    name: str,
    mean: Any = None,
    std: Any = None,
    allow_ops: Sequence[str] = (),
    folder: Path = Path(),
) -> nn.Module:
    """The model in an archive that `python -m deploy adopt` sealed, or that this program built.

    Args:
        name: the file, relative to the recipe.
        mean, std: of the pixels (0..255), one number or one per channel, if the model takes
            normalised float32; leave them out if it takes uint8 pixels.
        allow_ops: operators that its TorchScript may call beyond those that only compute.
        folder: base of a relative path.

    Returns:
        Module from uint8 `[N, C, H, W]` to the model's logits.

    Raises:
        ModelError: there is no such archive, it is not sealed or not as it was sealed, or its
            model cannot be built.
    """
    path = folder / Path(name).expanduser()
    inside, digest = _contents(path)
    model_ = _described(inside, path)
    serialized, model_file = model_.get("serializedFile"), model_.get("modelFile")
    if not isinstance(serialized, str) or serialized not in inside:
        raise ModelError(f"{path} holds no model of its own: its handler loads it from elsewhere")
    if isinstance(model_file, str) and model_file in inside:
        built = _from_class(path, inside, model_file, serialized, digest)
    else:
        built = torchscript.from_bytes(inside[serialized], f"{path}: {serialized}", allow_ops)
    return of_pixels(built, mean, std)


def _contents(path: Path) -> tuple[dict[str, bytes], str]:
    """The archive's files, compared with its list, and the list's digest."""
    try:
        with zipfile.ZipFile(path) as packed:
            infos = packed.infolist()
            if len(infos) > MAX_ENTRIES or sum(info.file_size for info in infos) > MAX_BYTES:
                raise ModelError(f"{path} holds more files or bytes than an archive")
            names = {info.filename for info in infos}
            if seal.LIST not in names:
                raise ModelError(
                    f"{path} is not sealed: `python -m deploy adopt {path}` looks at it and seals "
                    "it into the model store; name that file"
                )
            inside = {name: packed.read(name) for name in names}
        listed = seal.read(inside[seal.LIST])
        seal.compare(listed, {name: seal.File.of(data) for name, data in inside.items()})
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}") from error
    except (zipfile.BadZipFile, NotImplementedError, EOFError, RuntimeError) as error:
        raise ModelError(f"{path} is not the archive that was sealed: {error}") from error
    return inside, seal.File.of(inside[seal.LIST]).sha256


def _described(inside: Mapping[str, bytes], path: Path) -> dict[str, Any]:
    try:
        model = json.loads(inside[seal.MANIFEST])["model"]
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{path} holds no {seal.MANIFEST} that describes a model") from error
    return model if isinstance(model, dict) else {}


def _from_class(
    path: Path, inside: Mapping[str, bytes], model_file: str, serialized: str, digest: str
) -> nn.Module:
    """The one class of the model file, built without arguments, with the archive's weights."""
    place = _unpacked(inside, digest, serialized)
    try:
        module = retrying(lambda: user_modules.load(place / model_file, place))
    except (Exception, SystemExit) as error:
        raise ModelError(f"{path}: {model_file} fails to import: {described(error)}") from error
    classes = [
        name
        for name, value in vars(module).items()
        if isinstance(value, type) and value.__module__ == module.__name__
    ]
    if len(classes) != 1:
        shown = ", ".join(classes) or "none"
        raise ModelError(f"{path}: {model_file} must define one class, and defines {shown}")
    try:
        model = getattr(module, classes[0])()
    except (Exception, SystemExit) as error:
        raise ModelError(f"{path}: {classes[0]}() failed: {described(error)}") from error
    if not isinstance(model, nn.Module):
        raise ModelError(f"{path}: the class {classes[0]} of {model_file} is no nn.Module")
    load_checkpoint(model, place / serialized)
    return model.eval()


def _unpacked(inside: Mapping[str, bytes], digest: str, serialized: str) -> Path:
    """The archive's Python files and weights in a folder of this process."""
    if digest not in _FOLDERS:
        made = tempfile.TemporaryDirectory(prefix="marpress-archive-")
        for name, data in inside.items():
            pure = PurePosixPath(name)
            if pure.is_absolute() or ".." in pure.parts or "\\" in name:
                raise ModelError(f"the archive holds the unsafe path {name[:120]!r}")
            if name.endswith((".py", ".json")) or name == serialized:
                target = Path(made.name) / pure
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(data)
        _FOLDERS[digest] = made
    return Path(_FOLDERS[digest].name)
