"""Six kinds of models, each from its recipe to the handler's answer; and what is refused."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch

from handlers.tensors import Tensors
from optimize.errors import BudgetMissed, DataError, ModelError, RecipeError
from optimize.evaluation import latency
from optimize.report import report
from optimize.run import run
from optimize.tasks import registry
from tests.unit.handlers import archive

MODELS = Path(__file__).with_name("tensor_models.py")
HEAD = "name: case\ntask: tensors\nserving: {batch_size: 2, engines: torchscript}\n"


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Latencies are measured on one thread: no test asserts a time."""
    defaults = latency.measure.__kwdefaults__
    threads, defaults["threads"] = defaults["threads"], (1,)
    yield
    defaults["threads"] = threads


def make(folder: Path, text: str) -> tuple[Path, dict[str, Any], list[str]]:
    """Run a recipe that names `m.py`; the artifact, its report, and what was said."""
    folder.mkdir(exist_ok=True)
    shutil.copy(MODELS, folder / "m.py")
    (folder / "case.yaml").write_text(HEAD + text)
    said: list[str] = []
    recipe = registry.read_recipe(folder / "case.yaml")
    artifact = run(recipe, folder / "artifact", say=said.append)
    evidence = report.read(artifact)
    jsonschema.validate(evidence, json.loads(report.SCHEMA.read_text()))
    return artifact, evidence, said


def ask(artifact: Path, value: Any) -> Any:
    """The handler's answer to a JSON body, in TorchServe's own service."""
    worker = archive.Worker(Tensors(), artifact)
    (answer,) = worker.predict(archive.body(json.dumps(value).encode(), "application/json"))
    assert answer.status == 200, answer.body
    return answer.json()


def answers_as_its_samples(artifact: Path) -> dict[str, Any]:
    """Put the samples to the handler and compare the answers with those that were written down;
    the first answer."""
    labels = json.loads((artifact / "samples" / "labels.json").read_text())
    first: dict[str, Any] = {}
    for name, wanted in labels.items():
        answer = ask(artifact, json.loads((artifact / "samples" / name).read_text()))
        for output, values in json.loads(wanted).items():
            found, expected = torch.tensor(answer[output]), torch.tensor(values)
            torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-2)
        first = first or answer
    return first


@pytest.mark.slow
def test_a_tabular_mlp(tmp_path: Path) -> None:
    artifact, evidence, _ = make(
        tmp_path,
        "data: {tensors: m.py:table}\nmodel: m.py:build_mlp\nmetric: regression\n"
        "stages:\n  - train: {epochs: 25, batch_size: 32, learning_rate: 0.01}\n"
        "  - prune: {ratio: 0.5, recover: {epochs: 8, batch_size: 32, learning_rate: 0.005}}\n"
        "  - quantize\nbudget: {max_drop: 0.2}\n",
    )
    low, high = evidence["final"]["ci95"]
    assert evidence["chance"] == 0.0
    assert 0.7 < low < evidence["final"]["r2"] < high <= 1
    assert evidence["stages"][0]["parameters"] < evidence["original"]["parameters"] / 2
    assert evidence["stages"][1]["details"]["lowered"] == 2
    assert list(answers_as_its_samples(artifact)) == ["output"]


@pytest.mark.slow
def test_a_gru_takes_any_length_and_stays_in_float(tmp_path: Path) -> None:
    artifact, evidence, said = make(
        tmp_path,
        "data: {tensors: {file: 'm.py:series', targets: [trend], "
        "dynamic_axes: {series: {1: time}}}}\n"
        "model: m.py:Recurrent\nmetric: classification\n"
        "stages:\n  - train: {epochs: 12, batch_size: 32, learning_rate: 0.01}\n"
        "  - quantize: {method: dynamic_int8}\nbudget: {max_drop: 0.1}\n",
    )
    assert evidence["final"]["accuracy"] > 0.85
    assert evidence["stages"][0]["details"]["left_in_float"] == {
        "gru": "dynamic int8 has kernels for linear layers only"
    }
    assert any("left in float: gru (dynamic int8" in line for line in said)
    answers_as_its_samples(artifact)
    steps = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(1))
    model = torch.jit.load(artifact / "model.pt")
    answer = ask(artifact, {"instances": steps.tolist()})
    assert [row["output"] for row in answer] == [
        pytest.approx(row, abs=1e-4) for row in model(steps).tolist()
    ]


@pytest.mark.slow
def test_a_picture_to_two_numbers(tmp_path: Path) -> None:
    artifact, evidence, _ = make(
        tmp_path,
        "data: {tensors: m.py:spots}\nmodel: m.py:Spotter\nmetric: {regression: {gate: mae}}\n"
        "stages:\n  - train: {epochs: 12, batch_size: 32}\n  - quantize\n"
        "budget: {max_drop: 0.02, floor: 0.1}\n",
    )
    assert evidence["metric"]["name"] == "mae"
    assert evidence["final"]["mae"] < 0.08 < evidence["chance"]
    card = json.loads((artifact / "model.json").read_text())
    assert card["input"]["tensors"][0]["datatype"] == "UINT8"
    answers_as_its_samples(artifact)


@pytest.mark.slow
def test_a_u_net(tmp_path: Path) -> None:
    artifact, evidence, _ = make(
        tmp_path,
        "data: {tensors: m.py:masks}\nmodel: m.py:UNet\nmetric: segmentation\n"
        "stages:\n  - train: {epochs: 6, batch_size: 16, learning_rate: 0.01}\n  - quantize\n"
        "budget: {max_drop: 0.05}\n",
    )
    assert evidence["final"]["miou"] > 0.85 > evidence["chance"]
    left = evidence["stages"][0]["details"]["left_in_float"]
    assert "conv_transpose2d" in left["up"]
    answer = answers_as_its_samples(artifact)
    assert torch.tensor(answer["output"]).shape == (1, 2, 16, 16)


@pytest.mark.slow
def test_two_inputs_and_several_labels(tmp_path: Path) -> None:
    artifact, evidence, _ = make(
        tmp_path,
        "data: {tensors: m.py:pairs}\nmodel: m.py:TwoInputs\nmetric: multi_label\n"
        "stages:\n  - train: {epochs: 20, batch_size: 32, learning_rate: 0.01}\n"
        "  - distill: {student: m.py:TwoInputs, epochs: 20, batch_size: 32, learning_rate: 0.01}\n"
        "  - quantize: {method: bf16}\nbudget: {max_drop: 0.05}\n",
    )
    assert evidence["final"]["map"] > 0.9 > evidence["chance"]
    assert "macro_f1" in evidence["final"]
    answers_as_its_samples(artifact)


@pytest.mark.slow
def test_a_mapping_in_and_a_tree_out(tmp_path: Path) -> None:
    artifact, evidence, _ = make(
        tmp_path,
        "data: {tensors: m.py:halves}\nmodel: m.py:Named\nmetric: regression\n"
        "stages:\n  - train: {epochs: 25, batch_size: 32, learning_rate: 0.01}\n"
        "  - quantize: {keep: [mean]}\nbudget: {max_drop: 0.1}\n",
    )
    assert evidence["final"]["r2"] > 0.6
    assert "model.mean" in evidence["stages"][0]["details"]["left_in_float"]
    answer = answers_as_its_samples(artifact)
    assert list(answer) == ["mean", "details.spread", "details.bounds.0", "details.bounds.1"]
    (low,), (high,) = answer["details.bounds.0"], answer["details.bounds.1"]
    assert (low + high) / 2 == pytest.approx(answer["mean"][0], abs=1e-4)


@pytest.mark.slow
def test_parity_alone_needs_no_targets(tmp_path: Path) -> None:
    recipe = (
        "data: {tensors: {file: 'm.py:series', inputs: [series]}}\nmodel: m.py:Recurrent\n"
        "metric: {parity: {gate: max_error}}\nstages: [quantize: {method: weight_only_int8}]\n"
    )
    with pytest.raises(BudgetMissed, match="max_error lost"):
        make(tmp_path, recipe + "budget: {max_drop: 0.00001}\n")
    evidence = report.read(tmp_path / "artifact")
    assert evidence["original"]["cosine"] == pytest.approx(1)
    assert 0.99 < evidence["final"]["cosine"] < 1
    assert evidence["chance"] is None


@pytest.mark.slow
def test_a_metric_of_ones_own(tmp_path: Path) -> None:
    _, evidence, _ = make(
        tmp_path,
        "data: {tensors: m.py:table}\nmodel: m.py:build_mlp\nbudget: {max_drop: 1}\n"
        "metric: {'m.py:largest_error': {higher_is_better: false}}\nstages: []\n",
    )
    assert evidence["metric"]["higher_is_better"] is False
    low, high = evidence["final"]["ci95"]
    assert low < evidence["final"]["largest_error"] < high


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("data: {tensors: m.py:table}\nmodel: m.py:build_mlp\n", RecipeError, "needs 'metric'"),
        (
            "data: {tensors: m.py:table}\nmodel: m.py:build_mlp\nmetric: fame\n",
            RecipeError,
            "no metric 'fame'",
        ),
        (
            "data: {tensors: m.py:table}\nmodel: m.py:build_mlp\n"
            "metric: {regression: {gate: f1}}\n",
            RecipeError,
            "gate is 'f1', not one of r2, mae",
        ),
        (
            "data: {tensors: {file: 'm.py:series', targets: [height]}}\nmodel: m.py:Recurrent\n"
            "metric: regression\n",
            DataError,
            "has no 'height'; it has series, trend",
        ),
        (
            "data: {tensors: 'm.py:series'}\nmodel: m.py:Recurrent\nmetric: classification\n",
            DataError,
            r"has no targets to measure accuracy on: name them with targets: \[NAME\]",
        ),
        (
            "data: {tensors: m.py:masks}\nmodel: m.py:Spotter\nmetric: segmentation\n",
            DataError,
            "segmentation takes logits",
        ),
        (
            "data: {tensors: m.py:table}\nmodel: m.py:Recurrent\nmetric: regression\n",
            ModelError,
            r"model m.py:Recurrent fails on the data's inputs, input float32 \[2, 8\]",
        ),
    ],
)
def test_what_does_not_fit_is_refused(
    text: str, error: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        make(tmp_path, f"{text}stages: []\n")


def test_other_tasks_have_a_metric_of_their_own(recipe_file: Path) -> None:
    recipe_file.write_text(recipe_file.read_text() + "metric: regression\n")
    with pytest.raises(RecipeError, match="image_classification has a metric of its own"):
        registry.read_recipe(recipe_file)
