"""A kind of model that nobody foresaw: from a recipe to a gated artifact to an archive that a
real TorchServe answers from, with nothing of ours edited.

Two named inputs of different dtypes, two outputs, rows of a table: ten measurements of a patient
(scikit-learn's diabetes data) to the progression of the disease a year later and its uncertainty,
measured in R².
"""

import copy
import dataclasses
import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import jsonschema
import pytest
import requests
import torch
from sklearn.datasets import load_diabetes
from torch import Tensor, nn

from deploy.archive import mar
from optimize.data.dataset import Sample
from optimize.evaluation.metrics import Metric
from optimize.recipe.schema import Named, Recipe
from optimize.report import report
from optimize.run import run
from optimize.tasks import registry
from optimize.tasks.base import Context, Inputs, Stage, State, Task
from tests.integration.torchserve import Running

RECIPE = """\
name: diabetes
task: tabular_regression
data: diabetes
model: forecast
stages:
  - train: {steps: 400}
  - halve
budget: {max_drop: 0.05}
serving: {workers: 1, batch_size: 2}
"""

HANDLER = '''\
"""Rows of a table to forecasts."""

import torch

from handlers.base import BaseHandler
from handlers.errors import RequestError


class TabularRegressor(BaseHandler):
    """Nine measurements and the sex, 0 or 1, to a forecast and its deviation."""

    task = "tabular_regression"

    def preprocess(self, request):
        return request.load_inputs(self.load)

    def load(self, entry):
        row, width = entry.value, self.card.input["width"]
        if not isinstance(row, list) or len(row) != width + 1:
            raise RequestError(400, "bad_input", f"send {width} measurements and the sex")
        return row

    def inference(self, inputs):
        measurements = torch.tensor([row[:-1] for row in inputs])
        sex = torch.tensor([int(row[-1]) for row in inputs])
        mean, deviation = self.predict(measurements, sex)
        return list(zip(mean.tolist(), deviation.tolist()))

    def postprocess(self, request, results):
        answers = [{"mean": mean, "deviation": deviation} for mean, deviation in results]
        return answers if request.many else answers[0]

    def example(self):
        return [0.0] * self.card.input["width"] + [1]
'''


class Forecast(nn.Module):
    """Measurements float32 `[N, 9]` and sex int64 `[N]` to a mean and a deviation, `[N]` each."""

    def __init__(self) -> None:
        super().__init__()
        self.sex = nn.Embedding(2, 4)
        self.hidden, self.out = nn.Linear(13, 32), nn.Linear(32, 2)

    def forward(self, measurements: Tensor, sex: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.cat([measurements, self.sex(sex)], 1)
        mean, spread = self.out(torch.relu(self.hidden(x))).unbind(1)
        return mean, nn.functional.softplus(spread)


@dataclass(frozen=True)
class Rows:
    """Rows of one split."""

    measurements: Tensor
    sex: Tensor
    targets: Tensor


@dataclass(frozen=True)
class Table:
    """The data set: nothing of ours but the shape that the pipeline asks for."""

    splits: dict[str, Rows]
    name: str = "diabetes"
    source: str = "scikit-learn"
    labels: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    agreement_split: str = "test"

    def count(self, split: str) -> int:
        return len(self.splits[split].targets) if split in self.splits else 0

    def fingerprint(self) -> str:
        parts = [t for rows in self.splits.values() for t in dataclasses.astuple(rows)]
        return hashlib.sha256(b"".join(t.numpy().tobytes() for t in parts)).hexdigest()


@dataclass(frozen=True)
class TrainStage:
    """How long to train."""

    steps: int = 100


@dataclass(frozen=True)
class HalveStage:
    """Weights in half precision."""


def train(state: State, options: TrainStage, context: Context[Table]) -> State:
    rows = context.data.splits["train"]
    optimizer = torch.optim.Adam(state.model.parameters(), 0.01)
    for _ in range(options.steps):
        mean, deviation = state.model(rows.measurements, rows.sex)
        loss = nn.functional.gaussian_nll_loss(mean, rows.targets, (deviation + 0.05) ** 2)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return State.of(state.model.eval(), loss=loss.item())


class Half(nn.Module):
    """The forecast with half-precision weights."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = copy.deepcopy(model).bfloat16()

    def forward(self, measurements: Tensor, sex: Tensor) -> tuple[Tensor, Tensor]:
        mean, deviation = self.model(measurements.bfloat16(), sex)
        return mean.float(), deviation.float()


def halve(state: State, options: HalveStage, context: Context[Table]) -> State:
    return dataclasses.replace(state, model=Half(state.model).eval())


R2 = Metric("r2", "R²", unit="", change_unit="", scale=1.0, digits=3, least=None, counted=False)


class TabularRegression(Task[Table, Tensor]):
    """The whole of the task."""

    stages: ClassVar[dict[str, Stage[Table]]] = {
        "train": Stage(TrainStage, train),
        "halve": Stage(HalveStage, halve),
    }

    def load_data(self, recipe: Recipe) -> Table:
        values, targets = load_diabetes(return_X_y=True)
        values = torch.from_numpy(values).float()
        targets = torch.from_numpy(targets).float()
        sex = (values[:, 1] > 0).long()
        values = torch.cat([values[:, :1], values[:, 2:]], 1) * 20
        targets = (targets - targets.mean()) / targets.std()
        order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(recipe.seed))
        parts = {"train": order[:300], "test": order[300:]}
        return Table({k: Rows(values[i], sex[i], targets[i]) for k, i in parts.items()})

    def build_model(self, recipe: Recipe, data: Table) -> nn.Module:
        assert recipe.model == Named("forecast", {}, recipe.model.where)
        return Forecast()

    def calls(self, data: Table, batch_size: int) -> list[Inputs]:
        rows = data.splits["test"]
        return [(rows.measurements[:batch_size], rows.sex[:batch_size])]

    def predict(self, model: nn.Module, data: Table, split: str, title: str) -> Tensor:
        rows = data.splits[split]
        with torch.inference_mode():
            mean: Tensor = model(rows.measurements, rows.sex)[0]
        return mean

    def metric(self, data: Table) -> Metric:
        return R2

    def score(self, answers: Tensor, data: Table, split: str) -> dict[str, Any]:
        targets = data.splits[split].targets

        def r2(index: Tensor) -> float:
            residual = (targets[index] - answers[index]).square().sum()
            total = (targets[index] - targets[index].mean()).square().sum()
            return float(1 - residual / total)

        generator = torch.Generator().manual_seed(0)
        count = len(targets)
        draws = torch.randint(count, (500, count), generator=generator)
        rates = torch.tensor([r2(draw) for draw in draws])
        interval = torch.quantile(rates, torch.tensor([0.025, 0.975])).tolist()
        return {"r2": r2(torch.arange(count)), "samples": count, "ci95": interval}

    def agreement(self, answers: Tensor, reference: Tensor) -> float:
        return float(((answers - reference).abs() < 0.05).float().mean())

    def card(self, recipe: Recipe, data: Table) -> dict[str, Any]:
        return {"handler": "tabular_regressor", "labels": [], "input": {"width": 9}}

    def files(self, recipe: Recipe, data: Table) -> dict[str, Path]:
        return {"tabular_regressor.py": recipe.folder / "tabular_regressor.py"}

    def samples(self, data: Table, answers: Tensor) -> list[Sample]:
        rows = data.splits["test"]
        row = [*rows.measurements[0].tolist(), int(rows.sex[0])]
        return [Sample("0.json", json.dumps({"instances": [row]}).encode(), "")]


@pytest.fixture
def registered() -> Iterator[None]:
    """The task, known to recipes while the test runs."""
    registry.register("tabular_regression", TabularRegression())
    with pytest.raises(ValueError, match="there is a task 'tabular_regression' already"):
        registry.register("tabular_regression", TabularRegression())
    yield
    del registry._TASKS["tabular_regression"]


@pytest.mark.usefixtures("registered")
def test_a_task_of_ones_own_goes_from_recipe_to_a_served_answer(
    served: Running, store: Path, tmp_path: Path
) -> None:
    (tmp_path / "diabetes.yaml").write_text(RECIPE)
    (tmp_path / "tabular_regressor.py").write_text(HANDLER)
    recipe = registry.read_recipe(tmp_path / "diabetes.yaml")
    said: list[str] = []
    folder = run(recipe, tmp_path / "artifacts" / "diabetes", say=said.append)

    evidence = report.read(folder)
    jsonschema.validate(evidence, json.loads(report.SCHEMA.read_text()))
    assert evidence["gate"]["passed"] and evidence["gate"]["metric"] == "r2"
    assert evidence["original"]["r2"] > 0.3
    assert [stage["name"] for stage in evidence["stages"]] == ["halve"]
    assert evidence["final"]["bytes"] < evidence["original"]["bytes"]
    assert set(evidence["final"]["latency_ms"]) >= {"batch1_threads1", "batch8_threads1"}
    assert "R²" in (folder / "report.html").read_text(encoding="utf-8")
    assert any(line.startswith("r2 ") for line in said)
    run(recipe, folder, resume=True, say=said.append)
    assert any("finished and up to date" in line for line in said)

    sealed = mar.seal(folder, tmp_path / "model_store").path
    shutil.copy(sealed, store)
    served.management.register(sealed.name)
    try:
        body = (folder / "samples" / "0.json").read_bytes()
        reply = served.inference.predict("diabetes", body, "application/json")
        row = json.loads(body)["instances"][0]
        model = torch.jit.load(folder / "model.pt")
        mean, deviation = model(torch.tensor([row[:-1]]), torch.tensor([row[-1]]))
        answer = reply["predictions"][0] if isinstance(reply, dict) else reply[0]
        assert answer["mean"] == pytest.approx(float(mean), abs=1e-3)
        assert answer["deviation"] == pytest.approx(float(deviation), abs=1e-3)
        wrong = requests.post(
            f"{served.settings.inference}/predictions/diabetes",
            json={"instances": [[1.0, 0]]},
            headers=served.header(),
            timeout=30,
        )
        assert wrong.status_code == 400 and "send 9 measurements" in wrong.text
        described = served.management.describe("diabetes", None, True)[0]["customizedMetadata"]
        assert described["report"]["metric"]["name"] == "r2"
    finally:
        served.management.unregister("diabetes")
