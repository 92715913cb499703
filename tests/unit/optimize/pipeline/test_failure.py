"""What stages and users' models can do wrong, and what is said about it."""

import errno
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from optimize.__main__ import main
from optimize.errors import DataError, ModelError
from optimize.pipeline.failure import explained
from optimize.pipeline.outputs import check_outputs, outputs_of
from optimize.tasks import registry
from optimize.tasks.base import Context, Stage, State
from optimize.tasks.image_stages import PruneStage

MINE = """\
import torch
from torch import nn
from torch.nn import functional as F


def loaders():
    labels = torch.arange(60) % 3
    images = (torch.rand(60, 3, 8, 8) * 60 + (labels * 90)[:, None, None, None]).to(torch.uint8)
    return {"train": (images[30:], labels[30:]), "test": (images[:30], labels[:30])}


class Pooled(nn.Module):
    def forward(self, x):
        if self.training:
            x = x.reshape(-1, 7)
        return x.mean((2, 3))


class Net(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.conv, self.pooled, self.head = nn.Conv2d(3, 16, 3), Pooled(), nn.Linear(16, 3)

    def forward(self, pixels):
        x = self.pooled(self.conv(pixels / 255))
        return self.head(F.dropout(x) if self.kind == "dropout" else x)


def build(kind="plain"):
    return Net(kind)
"""

RECIPE = """\
name: failing
task: image_classification
data: mine.py:loaders
model: {{mine.py:build: {{kind: {kind}}}}}
stages:
{stages}
budget: {{max_drop: 0.9}}
"""


def ran(folder: Path, stages: str, kind: str = "plain", *more: str) -> int:
    (folder / "mine.py").write_text(MINE)
    (folder / "failing.yaml").write_text(RECIPE.format(stages=stages, kind=kind))
    recipe, out = str(folder / "failing.yaml"), str(folder / "out")
    return main(["run", recipe, "--output", out, *more])


def test_an_error_in_the_users_code_shows_their_lines_and_the_layer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = "  - train: {epochs: 1, batch_size: 10, flip: false}"
    assert ran(tmp_path, train) == 5
    said = capsys.readouterr().err
    lines = [line for line in said.splitlines() if "step/s" not in line]
    first = next(line for line in lines if "error: " in line)
    assert "stage train failed in layer pooled: RuntimeError: shape '[-1, 7]' is invalid" in first
    assert f"  {tmp_path}/mine.py:15 in forward: x = x.reshape(-1, 7)" in lines
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("stages", "kind", "words"),
    [
        ("  - quantize: {calibration: 8}", "dropout", "mine.py:27. Its answers must not depend"),
        (
            "  - quantize: {calibration: 8}\n  - prune: {ratio: 0.5, round_to: 4}",
            "plain",
            "Put quantize last",
        ),
        (
            "  - prune: {ratio: 0.5, round_to: 4, keep: [conv]}",
            "plain",
            "nothing is left to prune",
        ),
    ],
)
def test_what_a_model_or_recipe_cannot_do_ends_with_5(
    stages: str, kind: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ran(tmp_path, stages, kind) == 5
    said = capsys.readouterr().err
    assert words in said and "Traceback" not in said


def cut(state: State, options: PruneStage, context: Context[object]) -> State:
    """A stage that takes an output away."""
    model = state.model
    model.head = nn.Linear(16, 2)
    return state.then(model)


def broken(state: State, options: PruneStage, context: Context[object]) -> State:
    """A stage of ours with a mistake in it."""
    return {}["nothing"]  # type: ignore[index]


@pytest.mark.parametrize(
    ("run", "words"),
    [
        (cut, "stage prune changed what the model returns, from float [2, 3] to float [2, 2]"),
        (
            broken,
            "stage prune failed: KeyError: 'nothing'; keep: [NAME] leaves that layer as it is",
        ),
    ],
)
def test_a_stage_that_spoils_the_model_is_named(
    run: object,
    words: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stages = registry.load("image_classification").stages
    monkeypatch.setitem(stages, "prune", Stage(PruneStage, run))  # type: ignore[arg-type,index]
    assert ran(tmp_path, "  - prune: {ratio: 0.5}") == 5
    said = capsys.readouterr().err
    assert words in said and "Traceback" not in said


class Answering(nn.Module):
    def __init__(self, answer: object) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, x: Tensor) -> object:
        return self.answer


@pytest.mark.parametrize(
    ("before", "after", "same"),
    [
        (torch.zeros(2, 4), torch.ones(2, 4).bfloat16(), True),
        (torch.zeros(2, 4), torch.zeros(2, 3), False),
        (torch.zeros(2, 4), (torch.zeros(2, 4), torch.zeros(2)), False),
        ({"a": torch.zeros(2, 4)}, {"a": torch.zeros(2, 4)}, True),
        (torch.zeros(2, 4).int(), torch.zeros(2, 9).int(), True),  # token ids of another text
        (torch.zeros(2, 4).int(), torch.zeros(2, 4), False),
    ],
)
def test_outputs_are_compared_by_number_shape_and_kind(
    before: object, after: object, same: bool
) -> None:
    call = (torch.zeros(2, 1),)
    found = outputs_of(Answering(before), call)
    if same:
        check_outputs(Answering(after), call, found, "prune")
    else:
        with pytest.raises(ModelError, match="stage prune changed what the model returns"):
            check_outputs(Answering(after), call, found, "prune")


def test_errors_that_explain_themselves_and_the_disks_pass() -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    for error in (DataError("no data"), full, KeyboardInterrupt()):
        with pytest.raises(type(error)) as caught, explained("stage prune"):
            raise error
        assert caught.value is error
    with pytest.raises(ModelError, match="stage prune: memory ran out"), explained("stage prune"):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate")
