"""Named tensors from files and functions: names, splits, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from optimize.data.tensor_files import load
from optimize.data.tensors import TensorData, flatten
from optimize.errors import DataError
from optimize.utils.trees import unflatten

X, Y = np.arange(20.0).reshape(10, 2), np.arange(10)


def written(folder: Path, kind: str) -> str:
    path = folder / f"d.{kind}"
    if kind == "npz":
        np.savez(path, train_x=X, train_y=Y, x_test=X[:4], y_test=Y[:4])
    elif kind == "safetensors":
        tensors = {"train/x": X, "train/y": Y, "test/x": X[:4], "test/y": Y[:4]}
        save_file({k: torch.from_numpy(v) for k, v in tensors.items()}, path)
    else:
        parts = ["train"] * 10 + ["test"] * 4
        rows = [*zip(X, Y, strict=True), *zip(X[:4], Y[:4], strict=True)]
        lines = [f"{x[0]},{x[1]},{y},{p}" for (x, y), p in zip(rows, parts, strict=True)]
        path.write_text("a,b,y,part\n" + "\n".join(lines) + "\n")
    return path.name


@pytest.mark.parametrize("kind", ["npz", "safetensors", "csv"])
def test_files_say_their_splits(tmp_path: Path, kind: str) -> None:
    table = kind == "csv"
    data = load(
        written(tmp_path, kind),
        targets={"y": "y"} if table else ["y"],
        split="part" if table else None,
        folder=tmp_path,
    )
    assert (data.inputs, data.targets) == (("features",) if table else ("x",), ("y",))
    assert (data.count("train"), data.count("test"), data.count("validation")) == (10, 4, 0)
    rows = data.split("test")
    assert rows.inputs[0].dtype == torch.float32 and rows.inputs[0].tolist() == X[:4].tolist()
    assert rows.targets[0].dtype == torch.int64 and rows.targets[0].tolist() == [0, 1, 2, 3]


def test_rows_are_split_by_seed_and_words_are_classes(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(
        "a,b,c,kind\n" + "".join(f"{n},{n / 2},{n % 3},{'xy'[n % 2]}\n" for n in range(50))
    )

    def read(seed: int) -> TensorData:
        return load(
            "t.csv", inputs={"ab": ["a", "b"], "c": "c"}, targets=["kind"], seed=seed,
            folder=tmp_path,
        )  # fmt: skip

    data = read(0)
    assert data.labels == ["x", "y"]
    assert [data.count(s) for s in ("train", "validation", "test")] == [35, 5, 10]
    ab, c = data.split("train").inputs
    assert (ab.shape, c.shape, c.dtype) == ((35, 2), (35,), torch.int64)
    assert data.split("train").targets[0].tolist() == (ab[:, 0] % 2).long().tolist()
    assert data.fingerprint() == read(0).fingerprint() != read(1).fingerprint()


def test_trees_have_names_and_names_make_trees() -> None:
    x, y, z = (torch.ones(1) * n for n in range(3))
    assert flatten({"image": x, "boxes": (y, {"a": z})}, "input") == {
        "image": x, "boxes.0": y, "boxes.1.a": z,
    }  # fmt: skip
    assert flatten(x, "input") == {"input": x}
    assert list(flatten((x, y), "output")) == ["output.0", "output.1"]
    assert unflatten(["image", "boxes.0", "boxes.1.a"], [x, y, z]) == {
        "image": x, "boxes": (y, {"a": z}),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": X, "y": Y[:5]}, "differ in their number of rows"),
        ({"x": X * np.nan, "y": Y}, "x holds NaN or infinity"),
        ({"x": np.array(["a"] * 10), "y": Y}, "x is no array of numbers"),
        ({"z": X}, "has no 'y'; it has z"),
    ],
)
def test_what_is_no_data_is_refused(tmp_path: Path, arrays: dict, message: str) -> None:
    np.savez(tmp_path / "d.npz", **arrays)
    with pytest.raises(DataError, match=message):
        load("d.npz", targets=["y"], folder=tmp_path)


def test_a_cell_that_is_no_number_is_named(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,y\n1,2\n,3\n")
    with pytest.raises(DataError, match=r"t\.csv:3: a is empty"):
        load("t.csv", targets=["y"], folder=tmp_path)
    with pytest.raises(DataError, match=r"t\.csv:2: no column 'z'; there are a, y"):
        load("t.csv", inputs=["z"], targets=["y"], folder=tmp_path)
    with pytest.raises(DataError, match="there is no"):
        load("none.npz", folder=tmp_path)
