"""Twenty labelled ImageNet photographs from the foolbox package: a smoke test with real inputs.

Twenty labels say little about accuracy, so agreement with the original is measured on hundreds of
random crops. Crops for calibration come from the photographs at even positions, crops for
agreement from those at odd positions.
"""

import re
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from handlers.images import ImageSpec, decode_image, load_image
from optimize.data.dataset import Dataset, Sample, Split
from optimize.errors import DataError
from optimize.utils.packages import package_folder

SIZE = 224
# EfficientNet's evaluation: the centre crop takes 87.5% of the shorter side.
RESIZE = 256


def labels() -> list[str]:
    """Names of the 1000 ImageNet classes in the usual order, from the timm package's tables.

    Raises:
        DataError: timm is not installed.
    """
    folder = package_folder("timm")
    if folder is None:
        raise DataError("class names are missing: pip install --no-deps timm==1.0.31")
    tables = folder / "data" / "_info"
    order = (tables / "imagenet_synsets.txt").read_text(encoding="utf-8").split()
    lines = (tables / "imagenet_synset_to_lemma.txt").read_text(encoding="utf-8").splitlines()
    names = dict(line.split("\t", 1) for line in lines if "\t" in line)
    return [names.get(synset, synset).split(",")[0] for synset in order]


def _photographs(path: str | None) -> list[tuple[Path, int]]:
    """Files named `..._LABEL.jpg`, with their class index."""
    package = package_folder("foolbox")
    folder = Path(path).expanduser() if path else package / "data" if package else None
    photographs = []
    for file in sorted(folder.glob("*.jpg")) if folder else []:
        label = re.search(r"_(\d+)\.jpg$", file.name)
        if label:
            photographs.append((file, int(label.group(1))))
    if not photographs:
        raise DataError(
            f"no photographs named NAME_CLASS.jpg in {folder or 'the foolbox package'}: "
            "pip install --no-deps foolbox==3.3.4, or set data.path"
        )
    return photographs


def _crops(images: list[Tensor], count: int, seed: int) -> Tensor:
    """Random square crops of 30% to 100% of the shorter side, half of them mirrored.

    Args:
        images: uint8 `[3, H, W]` each.

    Returns:
        uint8 `[count, 3, SIZE, SIZE]`.
    """
    generator = torch.Generator().manual_seed(seed)
    crops = []
    for index in range(count):
        image = images[index % len(images)]
        draws = torch.rand(4, generator=generator)
        side = int(min(image.shape[1:]) * (0.3 + 0.7 * draws[0]))
        top = int((image.shape[1] - side) * draws[1])
        left = int((image.shape[2] - side) * draws[2])
        crop = image[None, :, top : top + side, left : left + side]
        crop = F.interpolate(crop, (SIZE, SIZE), mode="bilinear", antialias=True)
        crops.append(crop.flip(3) if draws[3] < 0.5 else crop)
    return torch.cat(crops)


def load(
    path: str | None = None, calibration: int = 128, agreement: int = 512, seed: int = 0
) -> Dataset:
    """Load the photographs.

    Args:
        path: a folder of `NAME_CLASS.jpg` files; None uses foolbox's.
        calibration: crops that set the activation ranges.
        agreement: crops to compare the compressed model with the original on.
        seed: of the crops.

    Returns:
        `Dataset` with a test split alone: uint8 `[N, 3, 224, 224]`.

    Raises:
        DataError: no photographs, or no class names.
    """
    photographs = _photographs(path)
    spec = ImageSpec(SIZE, SIZE, 3, RESIZE)
    contents = [file.read_bytes() for file, _ in photographs]
    images = [decode_image(content, spec) for content in contents]
    names = labels()
    return Dataset(
        name="imagenet_samples",
        source=f"folder {path}" if path else "foolbox package",
        labels=names,
        test=Split(
            torch.stack([load_image(content, spec) for content in contents]),
            torch.tensor([label for _, label in photographs]),
        ),
        calibration=_crops(images[::2], calibration, seed),
        agreement=_crops(images[1::2], agreement, seed + 1),
        samples=[
            Sample(file.name, content, names[label])
            for (file, label), content in zip(photographs[:8], contents, strict=False)
        ],
        card_input={"size": [SIZE, SIZE], "channels": 3, "resize": RESIZE},
        notes=[
            f"{len(photographs)} labelled photographs are a smoke test, not a benchmark: "
            f"agreement is measured on {agreement} crops of those not used to calibrate"
        ],
    )
