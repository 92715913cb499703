"""Pickles are followed without being loaded: real ones of every protocol, and forged ones."""

import collections
import functools
import io
import os
import pickle
import pickletools
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from deploy.adopt import pickles


class Evil:
    def __reduce__(self):
        return os.system, ("true",)


def read(tmp_path: Path, data: bytes, name: str = "m.pkl") -> pickles.Pickled:
    path = tmp_path / name
    path.write_bytes(data)
    found = pickles.read(path)
    assert found is not None
    return found


@pytest.mark.parametrize("protocol", range(6))
def test_every_protocol(tmp_path: Path, protocol: int) -> None:
    value = {"a": [Evil(), collections.OrderedDict(x=1)], "b": Evil()}
    found = read(tmp_path, pickle.dumps(value, protocol))
    assert found.dangerous == ["posix.system"]
    assert "collections.OrderedDict" in found.names


@pytest.mark.parametrize("zipped", [True, False])
def test_weights_are_plain(tmp_path: Path, zipped: bool) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    buffer = io.BytesIO()
    torch.save(module.state_dict(), buffer, _use_new_zipfile_serialization=zipped)
    found = read(tmp_path, buffer.getvalue(), "m.pt")
    assert (found.dangerous, found.others) == ([], [])
    buffer = io.BytesIO()
    torch.save(module, buffer, _use_new_zipfile_serialization=zipped)
    found = read(tmp_path, buffer.getvalue(), "m.pt")
    assert "torch.nn.modules.linear.Linear" in found.others


def test_an_evil_value_in_a_file_of_weights(tmp_path: Path) -> None:
    for zipped in (True, False):
        buffer = io.BytesIO()
        torch.save({"w": torch.ones(2), "x": Evil()}, buffer, _use_new_zipfile_serialization=zipped)
        assert read(tmp_path, buffer.getvalue(), "m.pth").dangerous == ["posix.system"]


def test_arrays_of_objects(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.array([Evil()], dtype=object), allow_pickle=True)
    assert read(tmp_path, buffer.getvalue(), "a.npy").dangerous == ["posix.system"]
    np.save(tmp_path / "b.npy", np.ones(3))
    assert pickles.read(tmp_path / "b.npy") is None


def test_the_oldest_format_is_a_tar(tmp_path: Path) -> None:
    data = pickle.dumps(Evil(), 2)
    with tarfile.open(tmp_path / "m.pt", "w") as packed:
        info = tarfile.TarInfo("pickle")
        info.size = len(data)
        packed.addfile(info, io.BytesIO(data))
    found = pickles.read(tmp_path / "m.pt")
    assert found is not None
    assert found.dangerous == ["posix.system"]


@pytest.mark.parametrize(
    "name",
    [
        *("os.system", "subprocess.Popen", "builtins.eval", "__builtin__.eval", "nt.system"),
        *("os.path.join", "torch.hub.load", "operator.attrgetter", "importlib.import_module"),
        *("numpy.testing._private.utils.runstring", "builtins.getattr", "torch.load"),
    ],
)
def test_dangerous_names(name: str) -> None:
    assert pickles.is_dangerous(name)


@pytest.mark.parametrize("name", ["torch.FloatStorage", "collections.OrderedDict", "my.os.Model"])
def test_other_names(name: str) -> None:
    assert not pickles.is_dangerous(name)


def test_functions_that_hide_others(tmp_path: Path) -> None:
    assert read(tmp_path, pickle.dumps(functools.partial(print))).dangerous == ["functools.partial"]


@pytest.mark.parametrize(
    "forged",
    [
        # The name on the stack is not the last string: pushed, another pushed and dropped.
        b"\x80\x04\x8c\x02os\x8c\x06system\x8c\x04safe0\x93.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x8c\x04safe\x8c\x04name00\x93.",
        # Both names from the memo, under numbers that nothing was put at.
        b"\x80\x04h\x05h\x06\x93.",
        # A number where a name has to be.
        b"\x80\x04\x8c\x02osK\x01\x93.",
    ],
)
def test_names_that_are_computed(tmp_path: Path, forged: bytes) -> None:
    assert list(pickletools.genops(forged))
    with pytest.raises(pickles.Unreadable, match="computes the names"):
        read(tmp_path, forged)


def test_names_by_the_memo_are_followed(tmp_path: Path) -> None:
    forged = b"\x80\x04\x8c\x02os\x94\x8c\x06system\x94000h\x00h\x01\x93."
    assert read(tmp_path, forged.replace(b"000", b"00")).dangerous == ["os.system"]


def test_damaged(tmp_path: Path) -> None:
    with pytest.raises(pickles.Unreadable):
        read(tmp_path, pickle.dumps({"a": 1})[:-3])


def test_what_is_no_pickle(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{}")
    assert pickles.read(tmp_path / "a.json") is None
