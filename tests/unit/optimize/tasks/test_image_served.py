"""Accuracy of files through the handler beside that of tensors, and the gate on it."""

import copy
import json
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from PIL import Image

from handlers.images import ImageSpec, load_image
from optimize.errors import BudgetMissed, RecipeError
from optimize.evaluation.metrics import Metric
from optimize.models.normalized import Normalized, normalized
from optimize.pipeline.artifact import _write_card, script
from optimize.pipeline.job import begin
from optimize.pipeline.stages import run_stages
from optimize.recipe.schema import Budget
from optimize.report import page, report, served
from optimize.run import run
from optimize.tasks.image_served import png
from optimize.tasks.registry import read_recipe
from optimize.utils import torchscript
from tests.unit.optimize.report.reports import report as sample

THEIRS = '''\
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.data import Dataset

PICTURES = Path(__file__).parent / "pictures"


class Squashed(Dataset):
    """Pictures of any aspect as 24x24, as many a tutorial has it."""

    def __init__(self, part):
        self.classes = sorted(place.name for place in (PICTURES / part).iterdir())
        self.samples = [(str(file), label) for label, name in enumerate(self.classes)
                        for file in sorted((PICTURES / part / name).iterdir())]

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        path, label = self.samples[index]
        image = Image.open(path).resize((24, 24), Image.Resampling.BILINEAR)
        return torch.from_numpy(np.array(image))[None], label


def squashed():
    return {"train": Squashed("train"), "test": Squashed("test")}


def tensors():
    def part(name):
        pairs = list(Squashed(name)[i] for i in range(len(Squashed(name))))
        return torch.stack([image for image, _ in pairs]), [label for _, label in pairs]
    return {"train": part("train"), "test": part("test")}


def with_files():
    return {**tensors(), "files": [path for path, _ in Squashed("test").samples]}


class Net(nn.Module):
    """Where along the width is it bright?"""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(24, 3)

    def forward(self, x):
        return self.head(x.float().amax((1, 2)) / 255)


def build(classes):
    return Net()
'''

RECIPE = """\
name: trap
task: image_classification
data: {data}
model: theirs.py:build
stages:
  - train: {{epochs: 20, batch_size: 16, learning_rate: 0.5, flip: false}}
{more}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of 48x24 with a bright spot at the left, in the middle or at the right."""
    folder = tmp_path_factory.mktemp("trap")
    (folder / "theirs.py").write_text(THEIRS)
    random = np.random.default_rng(0)
    for part, count in (("train", 50), ("test", 20)):
        for label, name in enumerate(("left", "middle", "right")):
            (folder / "pictures" / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 60, (24, 48), dtype=np.uint8)
                x, y = 19 * label + random.integers(0, 5), random.integers(0, 18)
                pixels[y : y + 5, x : x + 6] = 240
                Image.fromarray(pixels).save(folder / "pictures" / part / name / f"{number}.png")
    return folder


def recipe(place: Path, data: str, more: str = "") -> Any:
    file = place / "trap.yaml"
    file.write_text(RECIPE.format(data=data, more=more))
    return read_recipe(file)


@pytest.mark.slow
def test_a_model_that_learned_squashed_pictures_is_caught(place: Path, tmp_path: Path) -> None:
    with pytest.raises(BudgetMissed, match=r"pre-processing differs.*\{resize: squash\}` in"):
        run(recipe(place, "theirs.py:squashed"), tmp_path / "a", say=lambda line: None)
    found = report.read(tmp_path / "a")
    jsonschema.Draft202012Validator(json.loads(report.SCHEMA.read_text())).validate(found)
    assert found["original"]["accuracy"] == found["final"]["accuracy"] == 1.0
    assert found["from_files"]["kind"] == "files" and found["from_files"]["from_files"] < 0.7
    assert found["from_files"]["with_resize"]["squash"] == 1.0
    assert "From files" in (tmp_path / "a" / "report.html").read_text()


def test_a_recipe_that_says_so_passes(place: Path, tmp_path: Path) -> None:
    checked = recipe(place, "theirs.py:with_files", "input: {resize: squash}")
    job = begin(checked, tmp_path, resume=False, say=print)
    final = run_stages(job, tmp_path / "stages")[-1]
    answers = job.task.predict(final.model, job.data, "test", "test")
    torchscript.save(script(final, job.task.calls(job.data, 1)[0]), tmp_path / "model.pt")
    _write_card(job, final, tmp_path)
    found = job.task.from_files(tmp_path, job.data, answers)
    assert found is not None and found["kind"] == "files"
    assert found["from_files"] == found["from_tensors"] == 1.0
    card = json.loads((tmp_path / "model.json").read_text())["input"]
    assert (card["resize"], card["resize_size"]) == ("squash", [24, 24])


def test_tensors_without_files_are_warned_of(place: Path, tmp_path: Path) -> None:
    for more, warned in (("", True), ("input: {resize: squash}", False)):
        job = begin(recipe(place, "theirs.py:tensors", more), tmp_path, resume=False, say=print)
        assert any("If they were squashed" in note for note in job.data.notes) is warned


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("input: {size: 32}", r"trap.yaml:7: input.size is 32, the data's images are 24x24"),
        ("input: {color_order: BGR}", "color_order is BGR, the data's images have 1 channel"),
    ],
)
def test_an_input_that_tensors_do_not_fit_is_refused(
    place: Path, tmp_path: Path, more: str, message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        begin(recipe(place, "theirs.py:tensors", more), tmp_path, resume=False, say=print)


def test_normalisation_is_put_into_the_model(place: Path, tmp_path: Path) -> None:
    more = "input: {mean: 0.5, std: 0.25}"
    job = begin(recipe(place, "theirs.py:tensors", more), tmp_path, resume=False, say=print)
    assert job.data.card_input["mean"] == 0.5 and job.data.card_input["std"] == 0.25
    torch.manual_seed(0)
    model = job.task.build_model(job.recipe, job.data)
    assert isinstance(model, Normalized)
    pixels = job.data.test.inputs[:4]
    body = copy.deepcopy(model.body)
    torch.testing.assert_close(model(pixels), body((pixels / 255 - 0.5) / 0.25))
    again = normalized(model, 0.0, 255.0)
    assert again.body is model.body  # replaced, not put before its own


@pytest.mark.parametrize(
    "spec",
    [
        ImageSpec(8, 12, 3),
        ImageSpec(8, 8, 1, 10),
        ImageSpec(8, 12, 3, 11),
        ImageSpec(8, 12, 3, 7),
        ImageSpec(9, 9, 3, (11, 14)),
        ImageSpec(8, 12, 3, resize="squash", color_order="BGR"),
        ImageSpec(8, 12, 3, resize="squash", resize_size=(9, 15)),
        ImageSpec(8, 12, 1, resize="letterbox", interpolation="bicubic"),
    ],
)
def test_a_tensor_as_png_comes_back_unchanged(spec: ImageSpec) -> None:
    generator = torch.Generator().manual_seed(0)
    shape = (spec.channels, spec.height, spec.width)
    image = torch.randint(0, 256, shape, generator=generator).to(torch.uint8)
    assert torch.equal(load_image(png(image, spec), spec), image)


def measured(**changes: Any) -> dict[str, Any]:
    return {
        "kind": "files", "samples": 100, "from_files": 0.95, "from_tensors": 0.96,
        "agreement": 0.97, "refused": 0, "first_refused": [], **changes,
    }  # fmt: skip


def test_the_gate_takes_a_loss_within_files_drop() -> None:
    evidence = sample()
    served.add(evidence, None, Budget())
    assert "from_files" not in evidence and served.line(evidence) == []
    served.add(evidence, measured(), Budget())
    jsonschema.Draft202012Validator(json.loads(report.SCHEMA.read_text())).validate(evidence)
    assert evidence["gate"]["passed"] and evidence["from_files"]["max_drop"] == 0.02
    assert "95.00% through the handler, 96.00% from tensors" in page.render(evidence)


def test_refused_files_count_as_wrong_and_are_named() -> None:
    evidence = sample()
    refused = ["a.tif: TIFF is not accepted"]
    served.add(
        evidence,
        measured(from_files=0.9, refused=6, first_refused=refused),
        Budget(files_drop=0.05),
    )
    gate = evidence["gate"]
    assert gate["advice"] == [
        "say in the recipe's `input:` how the data's pictures are made (docs/data.md)"
    ]
    assert not gate["passed"] and "6 files are refused: a.tif: TIFF" in gate["reason"]
    assert "files_drop is 0.0500" in gate["reason"]
    assert Metric.of(evidence).lost(0.96, 0.9) == pytest.approx(evidence["from_files"]["drop"])
