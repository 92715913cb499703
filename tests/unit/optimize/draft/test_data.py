"""What a look at data finds."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from optimize.draft import data
from optimize.errors import DataError
from tests.unit.optimize.draft import made


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("name", "text", "task", "options"),
    [
        ("a.csv", "text,label\ngood one,1\nbad one,0\n", "text_classification",
         {"text_files": {"path": "a.csv", "text": "text", "label": "label"}}),
        ("b.csv", "remark,stars\nvery good one,5\nbad one,1\n", "text_classification",
         {"text_files": {"path": "b.csv", "text": "remark", "label": "stars"}}),
        ("c.csv", "query,document\nhow old,ten\n", "text_embedding",
         {"text_pairs": {"path": "c.csv"}}),
        ("d.csv", "file,label\na.jpg,cat\nb.png,dog\n", "image_classification",
         {"image_files": {"path": "d.csv", "image": "file", "label": "label"}}),
        ("e.csv", "a,b,target\n1,2,3.5\n2,3,4.5\n", "tensors",
         {"tensors": {"file": "e.csv", "targets": ["target"]}}),
        ("f.csv", "a,b,c\n1,2,3.5\n2,3,4.5\n", "tensors",
         {"tensors": {"file": "f.csv", "targets": ["c"]}}),
        ("g.tsv", "a.wav\thello there\nb.wav\tgood bye\n", "speech_recognition",
         {"speech": {"path": "g.tsv"}}),
    ],
)  # fmt: skip
def test_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str, task: str, options: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / name, text)
    seen = data.look(name, Path())
    assert (seen.task, seen.data) == (task, options)


@pytest.mark.parametrize(
    ("target", "metric"),
    [("kind", "classification"), ("grade", "classification"), ("price", "regression")],
)
def test_how_a_target_is_judged(tmp_path: Path, target: str, metric: str) -> None:
    table = write(tmp_path / "t.csv", "x,kind,grade,price\n1,a,2,0.5\n2,b,3,0.7\n3,a,2,0.1\n")
    assert data.look(str(table), tmp_path, target=target, task="tensors").metric == metric


def test_arrays(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    x, y = np.zeros((9, 5), np.float32), np.arange(9) % 2
    np.savez(path, x_train=x, y_train=y, x_test=x, y_test=y)
    seen = data.look(str(path), tmp_path)
    assert seen.data == {"tensors": {"file": str(path), "targets": ["y"]}}
    assert seen.metric == "classification" and "x [9, 5], y [9]" in seen.said
    np.savez(path, first=x, second=x)
    assert data.look(str(path), tmp_path).metric == "parity"
    images = np.zeros((9, 8, 8, 3), np.uint8)
    np.savez(path, images=images, labels=y)
    assert data.look(str(path), tmp_path).task == "image_classification"
    assert data.look(str(path), tmp_path, task="tensors", target="labels").task == "tensors"


def test_paths_are_the_recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made.pictures(tmp_path / "data" / "levels", each=2)
    monkeypatch.chdir(tmp_path)
    found = data.look("data/levels", Path("recipes"))
    assert found.data == {"image_folder": {"path": "../data/levels"}}
    absolute = str(tmp_path / "data" / "levels")
    assert data.look(absolute, Path("recipes")).data == {"image_folder": {"path": absolute}}


def test_what_is_no_data(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", "text")
    with pytest.raises(DataError, match="none of what a recipe reads"):
        data.look(str(tmp_path / "a.txt"), tmp_path)
    with pytest.raises(DataError, match=r"there is no .*none\.py"):
        data.look(f"{tmp_path}/none.py:load", tmp_path)
    (tmp_path / "b.npz").write_bytes(b"PK\x03\x04 not an archive")
    with pytest.raises(DataError, match="cannot be read"):
        data.look(str(tmp_path / "b.npz"), tmp_path)
    table = write(tmp_path / "t.csv", "x,y\n1,2\n")
    with pytest.raises(DataError, match="needs one of texts and one of labels"):
        data.look(str(table), tmp_path, task="text_classification")
