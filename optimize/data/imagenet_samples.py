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

from handlers.images import ImageSpec, decode_image, in_order, load_image
from optimize.data.dataset import Dataset, Sample, Split
from optimize.data.examples import Wanted
from optimize.data.image_input import ImageInput, card_input, pair
from optimize.data.pictures import PictureFile
from optimize.errors import DataError
from optimize.utils.packages import package_folder

# EfficientNet's evaluation: the centre crop takes 87.5% of the shorter side.
INPUT = ImageInput(size=224, resize_size=256)


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


def _crops(images: list[Tensor], count: int, seed: int, spec: ImageSpec) -> Tensor:
    """Random square crops of 30% to 100% of the shorter side, half of them mirrored.

    Args:
        images: RGB or grey, uint8 `[C, H, W]` each.
        count: how many crops.
        seed: of the crops.
        spec: size and order of channels.

    Returns:
        uint8 `[count, C, height, width]`.
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
        crop = F.interpolate(crop, (spec.height, spec.width), mode="bilinear", antialias=True)
        crops.append(in_order((crop.flip(3) if draws[3] < 0.5 else crop)[0], spec))
    return torch.stack(crops)


def load(
    path: str | None = None,
    calibration: int = 128,
    agreement: int = 512,
    seed: int = 0,
    wanted: Wanted | None = None,
) -> Dataset:
    """Load the photographs.

    Args:
        path: a folder of `NAME_CLASS.jpg` files; None uses foolbox's.
        calibration: crops that set the activation ranges.
        agreement: crops to compare the compressed model with the original on.
        seed: of the crops.
        wanted: how the photographs are prepared; what it leaves open is `INPUT`.

    Returns:
        `Dataset` with a test split alone: uint8 `[N, 3, 224, 224]`.

    Raises:
        DataError: no photographs, or no class names.
    """
    photographs = _photographs(path)
    wanted = wanted or Wanted()
    values = wanted.input.over(INPUT)
    assert values.size is not None
    spec = values.spec(pair(values.size), values.channels or 3)
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
        calibration=_crops(images[::2], calibration, seed, spec),
        agreement=_crops(images[1::2], agreement, seed + 1, spec),
        samples=[
            Sample(file.name, content, names[label])
            for (file, label), content in zip(photographs[:8], contents, strict=False)
        ],
        card_input=card_input(spec, values),
        files=[PictureFile(file) for file, _ in photographs],
        notes=[
            f"{len(photographs)} labelled photographs are a smoke test, not a benchmark: "
            f"agreement is measured on {agreement} crops of those not used to calibrate"
        ],
    )
