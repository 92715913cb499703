"""Pictures in files: split once, decoded as served, and what is said of them."""

import io
import itertools
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from handlers.images import ImageSpec, load_image
from optimize.data import image_files, image_folder, pictures, store
from optimize.data.dataset import Dataset
from optimize.data.examples import Wanted
from optimize.data.image_input import ImageInput
from optimize.errors import DataError, StorageError

_numbers = itertools.count()


def draw(path: Path, size: tuple[int, int] = (12, 9), kind: str = "PNG") -> bytes:
    """A picture unlike all others."""
    path.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(next(_numbers))
    buffer = io.BytesIO()
    pixels = random.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, kind)
    path.write_bytes(buffer.getvalue())
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for label, count in (("cat", 10), ("dog", 20)):
        for number in range(count):
            draw(tmp_path / "pets" / label / f"{number}.png")
    return tmp_path / "pets"


def load(folder: Path, **options: Any) -> Dataset:
    return image_folder.load(str(folder), **options)


def notes(data: Dataset) -> str:
    return "\n".join(data.notes)


def test_split_by_seed_class_by_class(folder: Path) -> None:
    data = load(folder)
    assert data.train is not None and data.validation is not None
    parts = {"test": data.test, "validation": data.validation, "train": data.train}
    counts = {name: torch.bincount(part.targets).tolist() for name, part in parts.items()}
    assert counts == {"test": [2, 4], "validation": [1, 2], "train": [7, 14]}
    assert torch.equal(load(folder).test.inputs, data.test.inputs)
    assert not torch.equal(load(folder, seed=1).test.inputs, data.test.inputs)
    assert "test split drawn with seed 0" in notes(data) and "order: cat, dog" in notes(data)


def test_what_is_trained_on_is_what_is_served(folder: Path) -> None:
    for number, size in enumerate(((40, 20), (20, 40), (33, 31))):
        draw(folder / "cat" / f"odd{number}.jpg", size, "JPEG")
    wanted = Wanted(ImageInput(size=[8, 10], resize="squash", interpolation="bicubic"))
    data = load(folder, wanted=wanted)
    spec = ImageSpec(8, 10, resize="squash", interpolation="bicubic")
    assert ImageSpec.from_card(data.card_input) == spec
    for image, file in zip(data.test.inputs, data.files, strict=True):
        assert torch.equal(image, load_image(file.read(), spec))


@pytest.mark.parametrize(("given", "said"), [({}, True), ({"resize": "crop"}, False)])
def test_a_crop_that_nobody_asked_for_is_said(
    folder: Path, given: dict[str, Any], said: bool
) -> None:
    data = load(folder, wanted=Wanted(ImageInput(size=[8, 16], **given)))
    assert any("`input: {resize: squash}`" in note for note in data.notes) == said


def test_several_sizes_need_one_to_come_to(folder: Path) -> None:
    draw(folder / "cat" / "odd.png", (40, 20))
    with pytest.raises(DataError, match=r"several sizes.*input: \{size: 224"):
        load(folder)


def test_validation_alone_is_the_test_split(tmp_path: Path) -> None:
    for part, label, number in itertools.product(("train", "val"), "ab", range(5)):
        draw(tmp_path / part / label / f"{number}.png")
    data = load(tmp_path)
    assert len(data.test) == 10 and data.train is not None and len(data.train) == 8
    assert "the validation split is used as the test split" in notes(data)


def test_folders_beside_the_splits_are_no_classes(tmp_path: Path) -> None:
    for part, label, number in itertools.product(("train", "test", "extra"), "ab", range(4)):
        draw(tmp_path / part / label / f"{number}.png")
    data = load(tmp_path)
    assert data.labels == ["a", "b"] and len(data.test) == 8
    assert "these folders are not read: extra" in notes(data)


def test_classes_in_the_models_order(folder: Path) -> None:
    data = load(folder, labels=["dog", "bird", "cat"])
    assert set(data.test.targets.tolist()) == {0, 2}
    assert "warning: the test split has no picture of bird" in notes(data)
    with pytest.raises(DataError, match="label 'cat' is not among dog, bird"):
        load(folder, labels=["dog", "bird"])


def test_unreadable_pictures_are_counted_named_and_bounded(folder: Path) -> None:
    (folder / "cat" / "bad.png").write_bytes(b"not a picture")
    data = load(folder)
    assert "1 of 31 pictures cannot be decoded and are left out: cat/bad.png (not" in notes(data)
    assert len(data.files) == len(data.test) and data.count("train") == 21
    draw(folder / "dog" / "scan.tiff", kind="TIFF")
    (folder / "dog" / "empty.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=r"3 of 33 .*max_unreadable \(0.05\).*TIFF is not accepted"):
        load(folder)
    data = load(folder, max_unreadable=0.2)
    assert sum(data.count(split) for split in ("train", "validation", "test")) == 30


def test_the_same_file_in_two_splits_is_said(tmp_path: Path) -> None:
    for part, label, number in itertools.product(("train", "test"), "ab", range(4)):
        draw(tmp_path / part / label / f"{number}.png")
    assert "warning" not in notes(load(tmp_path))
    (tmp_path / "test/a/copy.png").write_bytes((tmp_path / "train/a/2.png").read_bytes())
    said = notes(load(tmp_path))
    assert "1 of 9 test pictures are among the training" in said
    assert "(test/a/copy.png is train/a/2.png)" in said


def test_imbalance_is_said(tmp_path: Path) -> None:
    for number in range(60):
        draw(tmp_path / ("many" if number > 4 else "few") / f"{number}.png")
    assert "classes are imbalanced: 40 training pictures of many, 3 of few" in notes(load(tmp_path))


def test_the_fingerprint_is_of_contents_labels_splits_and_input(folder: Path) -> None:
    first = load(folder).fingerprint()
    assert load(folder).fingerprint() == first
    others = [
        load(folder, seed=1).fingerprint(),
        load(folder, labels=["dog", "cat", "bird"]).fingerprint(),
        load(folder, wanted=Wanted(ImageInput(size=[9, 12], interpolation="box"))).fingerprint(),
    ]
    (folder / "cat" / "3.png").rename(folder / "dog" / "cat3.png")
    others.append(load(folder).fingerprint())
    draw(folder / "dog" / "cat3.png")
    others.append(load(folder).fingerprint())
    assert len({first, *others}) == 6


@pytest.mark.parametrize("make", ["file", "empty", "flat", "one"])
def test_what_is_no_folder_by_class_is_told_what_is_taken(tmp_path: Path, make: str) -> None:
    place = tmp_path / "place"
    if make == "file":
        draw(place)
    elif make == "one":
        draw(place / "cat" / "1.png")
    else:
        place.mkdir()
        if make == "flat":
            draw(place / "1.png")
    message = "needs two classes" if make == "one" else "DIR/train/CLASS/PICTURE.jpg"
    with pytest.raises(DataError, match=message):
        load(place)


def table(tmp_path: Path, text: str) -> str:
    (tmp_path / "table.csv").write_text(text)
    return str(tmp_path / "table.csv")


def test_tables_name_the_row_that_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no .*a table \(CSV"):
        image_files.load(str(tmp_path / "none.csv"))
    with pytest.raises(DataError, match=r"csv:2: which column holds the image\?.*one of a, b"):
        image_files.load(table(tmp_path, "a,b\n1,2\n"))
    with pytest.raises(DataError, match=r"csv:2: no column 'c'; there are path, b"):
        image_files.load(table(tmp_path, "path,b\n1,2\n"), label="c")
    with pytest.raises(DataError, match=r"csv:3: label is empty"):
        image_files.load(table(tmp_path, "path,label\n1,2\n3,\n"))
    missing = table(tmp_path, "path,label\n1.png,2\n3.png,1\n")
    with pytest.raises(DataError, match=r"2 of 2 pictures cannot.*csv:\d \(No such file"):
        image_files.load(missing, wanted=Wanted(ImageInput(size=8)))


def test_parquet_without_pyarrow_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"a\.parquet cannot be read"):
        image_files.load(str(tmp_path / "a.parquet"))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"needs pyarrow: pip install 'marpress\[tables\]'"):
        image_files.load(str(tmp_path / "a.parquet"))


def test_a_tables_split_and_numbers_by_value(tmp_path: Path) -> None:
    lines = ["path,label,part"]
    for number in range(24):
        draw(tmp_path / f"{number}.png")
        lines.append(f"{number}.png,{number % 12},{'train' if number < 12 else 'test'}")
    data = image_files.load(table(tmp_path, "\n".join(lines)), split="part", validation=0)
    assert data.labels == [str(n) for n in range(12)] and data.count("validation") == 0
    assert (data.count("train"), len(data.test)) == (12, 12)


def test_no_more_than_a_batch_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pictures of a large split pass through memory; they do not gather there."""
    monkeypatch.setattr(store, "IN_MEMORY", 1000)
    alive: list[weakref.ref[Tensor]] = []
    most = 0

    def batches() -> Iterator[Tensor]:
        nonlocal most
        for number in range(20):
            batch = torch.full((4, 3, 5, 5), number, dtype=torch.uint8)
            alive.append(weakref.ref(batch))
            most = max(most, sum(ref() is not None for ref in alive))
            yield batch
            del batch

    found = store.collect(batches(), 100, (3, 5, 5))
    assert most <= 2 and found.shape == (80, 3, 5, 5)
    assert found[::4, 0, 0, 0].tolist() == list(range(20))
    mapped = Path("/proc/self/maps")
    if mapped.exists():
        assert "marpress-pictures-" in mapped.read_text()


def test_a_large_split_lies_in_a_file_that_nobody_finds(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = load(folder)
    monkeypatch.setattr(store, "IN_MEMORY", 100)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "big"))
    with pytest.raises(StorageError, match="set TMPDIR to a disk with room"):
        load(folder)
    (tmp_path / "big").mkdir()
    large = load(folder)
    assert torch.equal(large.test.inputs, small.test.inputs)
    assert large.fingerprint() == small.fingerprint()
    assert not list((tmp_path / "big").iterdir())


def test_workers_decode_the_same(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = load(folder)
    monkeypatch.setattr(pictures, "_FEWEST_FOR_WORKERS", 1)
    monkeypatch.setattr(pictures, "BATCH", 4)
    (folder / "cat" / "bad.png").write_bytes(b"not a picture")
    together = load(folder)
    assert together.count("train") + len(together.test) == 27
    (folder / "cat" / "bad.png").unlink()
    assert torch.equal(load(folder).test.inputs, alone.test.inputs)
