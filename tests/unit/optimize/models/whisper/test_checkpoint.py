"""Checkpoints: both file formats give the same weights; damage is named."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from optimize.errors import DataError
from optimize.models.whisper import find
from tests.unit.optimize.models.whisper import reference as reference

WEIGHTS = reference.random_weights()


@pytest.fixture(params=["huggingface", "ctranslate2"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A checkpoint in each format."""
    getattr(reference, f"write_{request.param}")(tmp_path / "model", WEIGHTS)
    return tmp_path / "model"


def test_both_formats_give_the_weights_and_the_spec(folder: Path) -> None:
    checkpoint = find.find(str(folder))
    assert checkpoint.spec == reference.SPEC
    assert checkpoint.tokenizer == folder / "tokenizer.json"
    assert set(checkpoint.weights) == set(WEIGHTS)
    for name, tensor in WEIGHTS.items():
        assert checkpoint.weights[name].dtype == torch.float32
        assert torch.equal(checkpoint.weights[name], tensor.half().float()), name


def test_a_file_cut_anywhere_is_refused(folder: Path) -> None:
    (path,) = [p for p in folder.iterdir() if p.suffix in (".bin", ".safetensors")]
    whole = path.read_bytes()
    for size in (0, 3, 40, len(whole) // 2, len(whole) - 60_000):
        path.write_bytes(whole[:size])
        with pytest.raises(DataError, match="model"):
            find.find(str(folder))


def shards(folder: Path) -> list[Path]:
    """Split a folder's weights over two files and an index, as `save_pretrained` does."""
    whole = folder / "model.safetensors"
    weights = load_file(whole)
    names = sorted(weights)
    parts = {
        "model-00001-of-00002.safetensors": names[::2],
        "model-00002-of-00002.safetensors": names[1::2],
    }
    for file, part in parts.items():
        save_file({name: weights[name] for name in part}, folder / file)
    weight_map = {name: file for file, part in parts.items() for name in part}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    whole.unlink()
    return [folder / file for file in parts]


def test_shards_are_read_as_one(tmp_path: Path) -> None:
    reference.write_huggingface(tmp_path / "model", WEIGHTS)
    whole = find.find(str(tmp_path / "model")).weights
    shards(tmp_path / "model")
    weights = find.find(str(tmp_path / "model")).weights
    assert weights.keys() == whole.keys()
    assert all(torch.equal(weights[name], whole[name]) for name in whole)


def test_a_shard_that_is_missing_or_cut_is_named(tmp_path: Path) -> None:
    reference.write_huggingface(tmp_path / "model", WEIGHTS)
    _, second = shards(tmp_path / "model")
    second.write_bytes(second.read_bytes()[:-1])
    with pytest.raises(DataError, match=f"{second.name} is not a safetensors file"):
        find.find(str(tmp_path / "model"))
    second.unlink()
    with pytest.raises(DataError, match=f"{second.name} is not a safetensors file"):
        find.find(str(tmp_path / "model"))


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(DataError, match=name):
        find.find(str(folder))


def test_another_model_is_refused(tmp_path: Path) -> None:
    reference.write_huggingface(tmp_path / "model", WEIGHTS)
    config = tmp_path / "model" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "model_type": "bert"}))
    with pytest.raises(DataError, match="'bert' model; a Whisper folder is needed"):
        find.find(str(tmp_path / "model"))


def test_a_language_the_weights_do_not_know_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    reference.write_huggingface(folder, WEIGHTS)
    path = folder / "generation_config.json"
    several = {"lang_to_id": {"<|en|>": 10, "<|de|>": 11}, "task_to_id": {"transcribe": 12}}
    path.write_text(
        json.dumps({**json.loads(path.read_text()), "is_multilingual": True, **several})
    )
    assert find.find(str(folder), "de").spec.start == [91, 11, 12, 92]
    with pytest.raises(DataError, match="does not know the language 'fr'"):
        find.find(str(folder), "fr")


def test_no_folder_is_told() -> None:
    with pytest.raises(DataError, match="there is no folder"):
        find.find("/nowhere/at/all")
