"""What a user's function may return, and what is said of what it may not."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset, Subset
from torch.utils.data import Dataset as TorchDataset

from optimize.data import npz, splits
from optimize.data.dataset import Dataset
from optimize.data.examples import Division, Wanted
from optimize.data.image_input import ImageInput
from optimize.errors import DataError

IMAGES = torch.arange(20 * 3 * 4 * 6).reshape(20, 3, 4, 6).to(torch.uint8)
LABELS = torch.arange(20) % 4


def made(found: Any, **options: Any) -> Dataset:
    return splits.dataset(found, name="mine.py:data", source="loader", **options)


class Items(TorchDataset[Any]):
    """Twenty items that `item` makes of (image, label)."""

    classes = ("a", "b", "c", "d")

    def __init__(self, item: Any = None) -> None:
        self.item = item or (lambda image, label: (image, label))

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> Any:
        return self.item(IMAGES[index], int(LABELS[index]))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (
            IMAGES.permute(0, 2, 3, 1),
            r"images \[20, 4, 6, 3\] look like \[N, H, W, C\]: give \[N, C, H, W\].*"
            r"here \[20, 3, 4, 6\]",
        ),
        (IMAGES[:, 0], r"must be \[N, C, H, W\], not torch.uint8 \[20, 4, 6\]"),
        (IMAGES[:, :2], "have 2 channels: 1 .grey. or 3 are served"),
        (IMAGES / 255 * 4 - 2, r"from -2 to 2, normalised it seems.*input: \{mean"),
        ([["a"]], "no array of numbers"),
        (IMAGES[:7], "7 images with 20 labels"),
        (IMAGES[:0], "0 images with 20|is empty"),
    ],
)
def test_images_that_are_not_taken(images: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        made({"test": (images, LABELS)})


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.eye(20), r"of one-hot rows take argmax\(1\)"),
        (LABELS - 1, "whole numbers .N. from 0"),
        (LABELS / 2, "whole numbers .N. from 0"),
        (["cat"] * 20, "whole numbers"),
    ],
)
def test_labels_that_are_not_taken(labels: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        made({"test": (IMAGES, labels)})


@pytest.mark.parametrize(
    "found", [None, {"train": (IMAGES, LABELS)}, {}, "text", {"test": IMAGES}, {"test": None}]
)
def test_anything_else_is_told_what_is_taken(found: Any) -> None:
    with pytest.raises(DataError, match=r"a torch\.utils\.data\.Dataset or a DataLoader"):
        made(found)


def test_floats_of_0_to_1_are_pixels_and_it_is_said() -> None:
    data = made({"test": (IMAGES.double() / 255, LABELS.float()[:, None])})
    assert torch.equal(data.test.inputs, IMAGES) and data.test.targets.dtype == torch.int64
    assert "value_range: 0..1" in data.notes[0]
    assert made({"test": (IMAGES.int(), LABELS.tolist())}).test.inputs.dtype == torch.uint8


def test_val_stands_for_validation_and_a_pair_is_split() -> None:
    data = made({"train": (IMAGES, LABELS), "val": (IMAGES[:4], LABELS[:4]), "test": None})
    assert len(data.test) == 4 and data.validation is None
    data = made((IMAGES, LABELS), division=Division(0.25, 0.2))
    assert [data.count(s) for s in ("train", "validation", "test")] == [11, 4, 5]


def test_files_of_the_test_images(tmp_path: Path) -> None:
    paths = [tmp_path / f"{n}.png" for n in range(20)]
    data = made({"test": (IMAGES, LABELS), "files": paths})
    assert [file.name for file in data.files] == [str(path) for path in paths]
    with pytest.raises(DataError, match="3 files for 20 test images"):
        made({"test": (IMAGES, LABELS), "files": paths[:3]})


@pytest.mark.parametrize(
    "item",
    [
        lambda image, label: (image, label),
        lambda image, label: {"image": image, "label": torch.tensor(label)},
        lambda image, label: (image.permute(1, 2, 0).numpy(), np.int64(label)),
        lambda image, label: (Image.fromarray(image.permute(1, 2, 0).numpy()), label),
        lambda image, label: [image.float() / 255, label, "extra"],
    ],
)
def test_items_of_a_torch_data_set(item: Any) -> None:
    data = made({"test": Items(item)})
    assert torch.equal(data.test.inputs, IMAGES) and torch.equal(data.test.targets, LABELS)
    assert data.labels == ["a", "b", "c", "d"]


def test_a_loaders_order_is_fixed_and_its_collate_used() -> None:
    def collate(items: Any) -> Any:
        return torch.stack([255 - image for image, _ in items]), [label for _, label in items]

    loader = DataLoader(Items(), batch_size=6, shuffle=True, collate_fn=collate)
    data = made({"test": loader})
    assert torch.equal(data.test.inputs, 255 - IMAGES) and torch.equal(data.test.targets, LABELS)
    as_mapping = DataLoader(Items(lambda image, label: {"img": image, "labels": label}), 7)
    assert torch.equal(made({"test": as_mapping}).test.inputs, IMAGES)


def test_random_transforms_are_the_same_for_a_seed() -> None:
    def noisy(image: Any, label: int) -> Any:
        shift = torch.randint(0, 9, ()) + random.randrange(9) + np.random.randint(9)
        return (image // 2 + shift).to(torch.uint8), label

    before = torch.get_rng_state()
    first, again = (made(Items(noisy)).fingerprint() for _ in range(2))
    assert first == again and torch.equal(before, torch.get_rng_state())
    assert made(Items(noisy), division=Division(seed=1)).fingerprint() != first


def test_torchvisions_samples_are_the_files() -> None:
    whole = Items()
    whole.samples = [(f"{n}.png", int(label)) for n, label in enumerate(LABELS)]  # type: ignore[attr-defined]
    data = made({"test": Subset(whole, [3, 5])})
    assert [file.name for file in data.files] == ["3.png", "5.png"]
    drawn = made(whole)
    for file, image in zip(drawn.files, drawn.test.inputs, strict=True):
        assert torch.equal(IMAGES[int(file.name.split(".")[0])], image)


def test_pictures_are_prepared_as_the_recipe_says() -> None:
    odd = [(6, 4), (9, 7)]

    def item(image: Any, label: int) -> Any:
        return Image.new("RGB", odd[label % 2], (200, 10, 30)), label

    wanted = Wanted(ImageInput(size=5, resize="squash", color_order="BGR"))
    data = made({"test": Items(item)}, wanted=wanted)
    assert data.test.inputs.shape == (20, 3, 5, 5)
    assert data.test.inputs[1, :, 2, 2].tolist() == [30, 10, 200]
    assert data.card_input["resize"] == "squash"
    with pytest.raises(DataError, match=r"bring them to one shape, or give PIL pictures and say"):
        made({"test": Items(item)})


class Endless(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(Items())


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (Endless(), "iterable data set has no length"),
        (Items(lambda image, label: image), "an item is Tensor; each item is"),
        (Items(lambda image, label: ("path.png", label)), "an image is str"),
        (Items(lambda image, label: (image, "cat")), "a label is 'cat'"),
        (Items(lambda image, label: (image * 1.5 - 9, label)), "normalised it seems"),
        (Items(lambda image, label: (image.permute(1, 2, 0), label)), "look like"),
        (Items(lambda image, label: 1 // 0), "fails when its items are read: ZeroDivisionError"),
        (Subset(Items(), []), "is empty"),
    ],
)
def test_items_that_are_not_taken(found: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        made({"test": found})


def test_npz_layouts_and_names(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    arrays = {"images": IMAGES.permute(0, 2, 3, 1).numpy(), "labels": LABELS.numpy()}
    np.savez(path, **arrays, label_names=np.array(["w", "x", "y", "z"]))
    data = npz.load(str(path))
    assert data.labels == ["w", "x", "y", "z"] and data.test.inputs.shape[1:] == (3, 4, 6)
    with pytest.raises(DataError, match=r"look like \[N, H, W, C\]"):
        npz.load(str(path), layout="NCHW")
    parts = {f"{p}_{k}": arrays[k] for p in ("train", "val", "test") for k in ("images", "labels")}
    np.savez(path, **parts)
    assert [npz.load(str(path)).count(s) for s in ("train", "validation", "test")] == [20] * 3
    np.savez(path, pictures=IMAGES.numpy())
    with pytest.raises(DataError, match=r"holds pictures \[20, 3, 4, 6\]: npz takes an .npz with"):
        npz.load(str(path))
    path.write_bytes(b"PK\x03\x04 not a zip")
    with pytest.raises(DataError, match="cannot be read"):
        npz.load(str(path))
    with pytest.raises(DataError, match="there is no"):
        npz.load(str(tmp_path / "none.npz"))


def test_data_sets_without_names_are_refused() -> None:
    with pytest.raises(DataError, match=r'2 data sets without names: return {"train"'):
        made((Items(), DataLoader(Items())))


def test_classes_without_pictures_are_said() -> None:
    found = made({"train": (IMAGES, LABELS + 1), "test": (IMAGES[:3], LABELS[:3] + 1)})
    assert found.notes == [
        "warning: the train split has no picture of 0",
        "warning: the test split has no picture of 0, 4",
    ]
