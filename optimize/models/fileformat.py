"""What a file that should hold weights is, by its first bytes."""

import pickletools
import zipfile
from pathlib import Path

from optimize.errors import ModelError

_KNOWN = (
    (b"version https://git-lfs", "is a Git LFS pointer, not the weights: run `git lfs pull`"),
    (b"\x89HDF", "is an HDF5 file, of Keras for instance: export it from PyTorch"),
    (b"GGUF", "is a GGUF file of llama.cpp: give PyTorch's weights"),
    (b"\x1f\x8b", "is a gzip archive: unpack it"),
    (b"\xfd7zXZ", "is an xz archive: unpack it"),
    (b"\x28\xb5\x2f\xfd", "is a zstd archive: unpack it"),
    (b"%PDF", "is a PDF"),
)


def of(path: Path) -> str:
    """`torch`, `safetensors`, or why a file is neither: the end of a sentence about it.

    Raises:
        ModelError: it cannot be read.
    """
    if path.is_dir():
        raise ModelError(
            f"checkpoint {path} is a folder: name a file in it; a Hugging Face folder is a model "
            "of its own (model: ./folder)"
        )
    try:
        with path.open("rb") as file:
            start = file.read(512)
    except OSError as error:
        raise ModelError(f"checkpoint {path} cannot be read: {error.strerror}") from error
    if not start:
        return "is empty"
    text = start.lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "is a web page, not weights: download the file itself, not the page about it"
    found = next((said for magic, said in _KNOWN if start.startswith(magic)), None)
    if found is not None:
        return found
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 100_000_000:
        return "safetensors"
    if start.startswith(b"PK"):
        return _zip(path)
    if start.startswith(b"\x80"):
        return "torch"
    if text.startswith((b"{", b"[")):
        return "is a JSON text, not weights"
    if start[257:262] == b"ustar":
        return "is a tar archive: unpack it"
    return "is no file of torch.save or safetensors"


def _zip(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile:
        return "is cut off: its end is missing, copy or download it again"
    if any(name.endswith("constants.pkl") for name in names):
        return f"is a TorchScript file: name it as the model (model: {path.name})"
    if any(name.endswith("data.pkl") for name in names):
        return "torch"
    if any(name.endswith(".keras") or name == "model.weights.h5" for name in names):
        return "is a model of Keras: export it from PyTorch"
    return f"is a zip archive, not weights: unpack it (it holds {', '.join(names[:3])})"


def pickled_class(path: Path) -> str | None:
    """The class of the object that `torch.save` wrote, if that is a module of its own."""
    try:
        with zipfile.ZipFile(path) as archive:
            name = next(n for n in archive.namelist() if n.endswith("data.pkl"))
            content = archive.read(name)
        for code, argument, _ in pickletools.genops(content):
            if code.name in ("PROTO", "FRAME", "MEMOIZE", "BINPUT"):
                continue
            if code.name != "GLOBAL":
                return None
            module, _, cls = str(argument).partition(" ")
            return None if module in ("collections", "builtins") else f"{module}.{cls}"
    except (OSError, ValueError, StopIteration, zipfile.BadZipFile):
        return None
    return None
