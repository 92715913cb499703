import gzip
import io
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from optimize.data import fashion_mnist, imagenet_samples
from optimize.errors import DataError


def idx(values: np.ndarray) -> bytes:
    header = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape)
    return gzip.compress(header + values.tobytes())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    for count, (images, labels) in zip((60, 12), fashion_mnist.FILES.values(), strict=True):
        pixels = generator.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        (tmp_path / images).write_bytes(idx(pixels))
        (tmp_path / labels).write_bytes(idx(np.arange(count, dtype=np.uint8) % 10))
    return tmp_path


def test_ones_own_path_comes_first(folder: Path) -> None:
    found = fashion_mnist.load(path=str(folder), validation=10)
    assert found.train is not None and found.validation is not None
    assert (len(found.train), len(found.validation), len(found.test)) == (50, 10, 12)
    assert found.source == f"own path {folder}"
    assert found.train.inputs.shape[1:] == (1, 28, 28)
    assert (found.train.inputs.dtype, found.train.targets.dtype) == (torch.uint8, torch.int64)


def test_splits_do_not_overlap_and_follow_the_seed(folder: Path) -> None:
    found = fashion_mnist.load(path=str(folder), validation=10)
    again = fashion_mnist.load(path=str(folder), validation=10)
    other = fashion_mnist.load(path=str(folder), validation=10, seed=1)
    assert found.train is not None and found.validation is not None
    kept = {bytes(image.numpy()) for image in found.train.inputs}
    held = {bytes(image.numpy()) for image in found.validation.inputs}
    assert not kept & held and len(kept | held) == 60
    assert found.fingerprint() == again.fingerprint() != other.fingerprint()


def test_samples_are_the_test_images(folder: Path) -> None:
    found = fashion_mnist.load(path=str(folder), validation=10)
    name, content, label = found.samples[3]
    assert (name, label) == ("3_3.png", fashion_mnist.LABELS[3])
    pixels = np.asarray(Image.open(io.BytesIO(content)))
    assert np.array_equal(pixels, found.test.inputs[3, 0].numpy())


@pytest.mark.parametrize(
    "damage",
    [b"not gzip", b"", gzip.compress(b"\0\0\x0d\x01aaaa")],
    ids=["not gzip", "empty", "not IDX"],  # gzip writes the time
)
def test_a_damaged_file_is_named(folder: Path, damage: bytes) -> None:
    path = folder / fashion_mnist.FILES["train"][0]
    path.write_bytes(damage)
    with pytest.raises(DataError, match="cannot be read") as caught:
        fashion_mnist.load(path=str(folder))
    assert path.name in str(caught.value)


def test_a_truncated_file_is_named(folder: Path) -> None:
    path = folder / fashion_mnist.FILES["train"][0]
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(DataError, match="cannot be read"):
        fashion_mnist.load(path=str(folder))


def test_a_missing_file_is_named(folder: Path) -> None:
    (folder / fashion_mnist.FILES["test"][1]).unlink()
    with pytest.raises(DataError, match="t10k-labels"):
        fashion_mnist.load(path=str(folder))


def test_digits_stand_in_where_there_is_nothing_else(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(fashion_mnist, "DEBIAN_FOLDER", tmp_path / "none")
    monkeypatch.setattr(fashion_mnist, "DOWNLOAD_FOLDER", tmp_path / "cache")
    monkeypatch.setattr(fashion_mnist, "DOWNLOAD_URL", "http://127.0.0.1:9/")
    found = fashion_mnist.load()
    assert found.name == "mnist_5k" and len(found.test) == 1000
    assert "digits" in found.notes[0]
    assert found.test.targets.unique().numel() == 10


def test_photographs_have_names_and_crops_of_others() -> None:
    found = imagenet_samples.load(calibration=4, agreement=6)
    assert found.test.inputs.shape == (20, 3, 224, 224)
    assert found.calibration is not None and found.calibration.shape == (4, 3, 224, 224)
    assert found.agreement is not None and found.agreement.shape == (6, 3, 224, 224)
    assert len(found.labels) == 1000
    assert found.labels[281] == "tabby" and found.labels[22] == "bald eagle"
    again = imagenet_samples.load(calibration=4, agreement=6)
    assert found.agreement.equal(again.agreement)  # type: ignore[arg-type]


def test_a_folder_without_labelled_photographs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"NAME_CLASS\.jpg"):
        imagenet_samples.load(path=str(tmp_path))
