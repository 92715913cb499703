"""Pictures and labels in one `.npz` file, as `numpy.savez` writes it.

Arrays by name: `train_images` and `train_labels`, likewise `val` or `validation`, and `test`
(MedMNIST), `x_train` and `y_train` (Keras), or `images` and `labels` alone, split by seed.
"""

import zipfile
from pathlib import Path
from typing import Any, Literal

import numpy as np

from optimize.data import splits
from optimize.data.dataset import Dataset
from optimize.data.examples import Division
from optimize.data.tables import SPLITS
from optimize.errors import DataError

_WORDS = {"train": ("train",), "validation": ("validation", "val", "valid"), "test": ("test",)}
_PAIRS = (("{}_images", "{}_labels"), ("x_{}", "y_{}"), ("{}_x", "{}_y"), ("X_{}", "y_{}"))
_WHOLE = (("images", "labels"), ("x", "y"), ("X", "y"), ("data", "target"), ("image", "label"))
TAKEN = (
    "an .npz with train_images, train_labels, test_images, test_labels (and val_), with x_train, "
    "y_train, x_test, y_test, or with images and labels"
)


def load(
    path: str,
    layout: Literal["auto", "NCHW", "NHWC"] = "auto",
    labels: list[str] | None = None,
    test: float = 0.2,
    validation: float = 0.1,
    seed: int = 0,
) -> Dataset:
    """Pictures of an .npz file.

    Args:
        path: the file. Pictures are uint8, or floats 0..1; grey ones may have three axes.
        layout: of pictures with four axes; auto takes for channels what is 1 or 3.
        labels: names of the classes; by default the array `label_names`, or numbers.
        test, validation: shares of the pictures in these splits, if the file has none.
        seed: of the split.

    Raises:
        DataError: no such file or arrays, or arrays of other shapes or values.
    """
    if layout not in ("auto", "NCHW", "NHWC"):
        raise DataError(f"layout is {layout!r}: auto, NCHW or NHWC")
    place = Path(path).expanduser()
    try:
        # Opened here: NumPy leaves a file open that is no zip.
        with place.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            if not hasattr(file, "files"):
                raise ValueError("one array alone")
            arrays = {name: file[name] for name in file.files}
    except FileNotFoundError as error:
        raise DataError(f"there is no {place}: npz takes {TAKEN}") from error
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{place} cannot be read ({error}): npz takes {TAKEN}") from error
    names = next((arrays.pop(k) for k in ("label_names", "class_names") if k in arrays), None)
    if labels is None and names is not None:
        labels = [str(name) for name in names.tolist()]
    return splits.dataset(
        _pairs(arrays, place),
        name=place.stem,
        source=f"file {place}",
        labels=labels,
        layout=layout,
        division=Division(test, validation, seed=seed),
    )


def _pairs(arrays: dict[str, Any], place: Path) -> Any:
    """Images and labels by split, or those of all if there are no splits."""
    for images, labels in _PAIRS:
        found = {
            split: (arrays[images.format(word)], arrays[labels.format(word)])
            for split in SPLITS
            for word in _WORDS[split]
            if images.format(word) in arrays and labels.format(word) in arrays
        }
        if found:
            return found
    for images, labels in _WHOLE:
        if images in arrays and labels in arrays:
            return arrays[images], arrays[labels]
    listed = ", ".join(f"{name} {list(array.shape)}" for name, array in arrays.items())
    raise DataError(f"{place} holds {listed or 'nothing'}: npz takes {TAKEN}")
