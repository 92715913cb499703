"""Archives as models: what of them is refused before anything of theirs runs."""

import zipfile
from pathlib import Path

import pytest
import torch

from deploy.adopt.adopt import adopt
from optimize.errors import ModelError
from optimize.models.sources import archive, torchscript
from tests.unit.deploy.adopt import foreign
from tests.unit.deploy.compat import examples


def sealed(folder: Path, name: str) -> Path:
    handler, content, model = examples.files()[name]
    found = adopt(foreign.write(folder, name, handler, content, **model), folder / "store").archive
    assert found is not None
    return found.path


def test_weights_with_a_class(tmp_path: Path) -> None:
    model = archive.build(str(sealed(tmp_path, "mnist")))
    pixels = torch.zeros(1, 1, 28, 28)
    pixels[0, 0, 6] = 1
    assert model(pixels).argmax(1).tolist() == [3]
    torchscript.refuse(model, "prune")  # which it can be


def test_torchscript_is_served_or_teaches(tmp_path: Path) -> None:
    model = archive.build(str(sealed(tmp_path, "classifier")), mean=1.0, std=2.0)
    pixels = torch.full((1, 3, 4, 4), 5, dtype=torch.uint8)
    assert model(pixels).tolist() == [[0.0, 2.0, 4.0, 6.0, 8.0, 10.0]]
    with pytest.raises(ModelError, match="needs the model's source"):
        torchscript.refuse(model, "quantize")


def test_what_is_refused(tmp_path: Path) -> None:
    raw = foreign.write(tmp_path, "raw", "h.py", {"h.py": "x = 1\n"})
    with pytest.raises(ModelError, match="is not sealed: `python -m deploy adopt"):
        archive.build(str(raw))
    with pytest.raises(ModelError, match="cannot be read"):
        archive.build(str(tmp_path / "none.mar"))
    with pytest.raises(ModelError, match="holds no model of its own"):
        archive.build(str(sealed(tmp_path, "stream")))
    path = sealed(tmp_path, "mnist")
    with zipfile.ZipFile(path) as packed:
        entries = {name: packed.read(name) for name in packed.namelist()}
    entries["net.py"] += b"\nraise SystemExit\n"
    with zipfile.ZipFile(path, "w") as packed:
        for name, data in entries.items():
            packed.writestr(name, data)
    with pytest.raises(ModelError, match=r"net\.py is not the file that was sealed"):
        archive.build(str(path))
