"""A user's own pairs through the whole embedding task: which module a docstring belongs to, by the
function's name."""

import csv
import inspect
import json
import warnings
from pathlib import Path

import numpy
import pytest
import torch
from torch import nn

from optimize.data.text_pairs import PairDataset
from optimize.errors import ModelError, OptimizeError, RecipeError
from optimize.evaluation.examples import Example, short
from optimize.evaluation.retrieval import Embedded
from optimize.export.subjects import embedding as subject
from optimize.pruning.vocabulary import SharedEmbedding
from optimize.tasks import registry
from optimize.tasks.base import Context, State
from optimize.tasks.embedding import TextEmbedding
from optimize.tasks.registry import read_recipe
from tests.unit.handlers.text_artifact import encoder_folder

RECIPE = """
name: functions
task: text_embedding
data: {text_pairs: {path: pairs.csv, query: says, document: called, max_length: 24, test: 0.2}}
model: bert
stages:
  - vocabulary: {rows: 4000}
  - distill:
      {layers: 5, epochs: 0.3, learning_rate: 0.0001, pairs: 0.5, bank: 32, freeze_table: true,
       precision: fp32}
  - prune: {heads: 11, neurons: 1408, texts: 32}
  - quantize: {calibration: 32, table_bits: 4}
"""


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    encoder_folder()
    folder = tmp_path_factory.mktemp("functions")
    with (folder / "pairs.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["says", "called"])
        for name in sorted(dir(numpy))[:240]:
            first = (inspect.getdoc(getattr(numpy, name)) or "").split("\n\n")[0]
            if len(first.split()) > 3 and name.isidentifier():
                table.writerow([first.replace("\n", " ")[:120], name.replace("_", " ")])
    (folder / "functions.yaml").write_text(RECIPE)
    return folder / "functions.yaml"


@pytest.mark.slow
def test_a_users_pairs_go_through_every_stage(written: Path) -> None:
    kept = torch.backends.quantized.engine
    recipe = read_recipe(written)
    task = registry.load(recipe.task)
    assert isinstance(task, TextEmbedding)
    data = task.with_validation(task.load_data(recipe), 0)
    state = State.of(task.build_model(recipe, data))
    first = task.predict(state.model, data, "test", "original")
    memory, sizes = Context(recipe, data, 0, "").memory, []
    tables: list[torch.Tensor] = []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            for number, stage in enumerate(recipe.stages):
                context = Context(recipe, data, number, stage.name, memory)
                state = task.stages[stage.kind].run(state, stage.options, context)
                if isinstance(word := getattr(state.model, "embeddings", None), nn.Module):
                    tables.append(word.word.table.weight.detach().clone())
                sizes.append(task.cost(state, data, first)["parameters"])
        last = task.predict(state.model, data, "test", "final")
    finally:
        torch.backends.quantized.engine = kept
    assert sizes == sorted(sizes, reverse=True) and sizes[0] > sizes[2]
    assert len(tables) == 3 and torch.equal(tables[0], tables[1])  # frozen
    with pytest.raises(OptimizeError, match="takes 8 or 4"):
        read_recipe(written, ["stages.3.quantize.table_bits=3"])
    float_model = state.float_model
    assert isinstance(float_model.embeddings.word, SharedEmbedding) and state.engine
    assert len(float_model.layers) == 5 and float_model.layers[0].fc1.out_features == 1408
    before, after = (task.score(answers, data, "test") for answers in (first, last))
    assert before["recall_at_10"] > 0.5 > task.chance(data)
    assert after["recall_at_10"] > before["recall_at_10"] - 0.3
    assert abs(after["recall_at_10_of_int8_vectors"] - after["recall_at_10"]) < 0.1
    assert task.agreement(first, first) == 1 > task.agreement(last, first) > 0.3
    check_samples(task, data, last)
    check_examples(task.examples(first, last, data, 3), data)
    assert task.examples(first, first, data, 3) == []
    check_export(float_model, data)


def check_examples(found: list[Example], data: PairDataset) -> None:
    """Queries with texts of theirs; the first right document's place is said."""
    assert len(found) == 3
    queries, documents = (
        {short(text, 120) for text in texts} for texts in (data.test.queries, data.test.documents)
    )
    for one in found:
        assert one.kind == "text" and one.content in queries
        assert {one.right, one.original, one.final} <= documents
        assert "first right document at place" in one.change
    turned = [float(one.change.rpartition(" ")[2]) for one in found]
    assert turned == sorted(turned) and turned[0] < 1


def check_samples(task: TextEmbedding, data: object, answers: Embedded) -> None:
    """Each asks for the document that the model puts first, among others."""
    found = task.samples(data, answers)  # type: ignore[arg-type]
    assert found
    for sample in found:
        asked = json.loads(sample.content)
        assert sample.label in asked["documents"] and len(set(asked["documents"])) > 1
        assert sample.file.endswith(".json")


def check_export(model: nn.Module, data: object) -> None:
    """The float module agrees with itself, and one of noise does not."""
    exportable = subject.make(model, data)  # type: ignore[arg-type]
    (only,) = exportable.subjects
    same = exportable.evaluate({"model": only})
    assert same["agreement"] == 1 and same["recall_at_10"] > 0.3
    noise = exportable.evaluate(
        {"model": lambda ids: [nn.functional.normalize(torch.randn(len(ids), 384), dim=1)]}
    )
    assert noise["agreement"] < 0.5


def test_calls_hold_queries_of_the_median_length(written: Path) -> None:
    """Padded as the handler pads them: latencies are of no more padding than a client meets."""
    recipe = read_recipe(written)
    task = registry.load(recipe.task)
    data = task.load_data(recipe)
    (one,) = task.calls(data, 1)[0]
    (three,) = task.calls(data, 3)[0]
    sizes = (data.test.asked.inputs != 0).sum(1)
    own = (one != 0).sum(1)
    assert (sizes < own).float().mean() <= 0.5 <= (sizes <= own).float().mean()
    assert one.shape == (1, min(24, -(-int(own) // 8) * 8)) and len(three) == 3
    (many,) = task.calls(data, len(data.test) + 5)[0]
    assert len(many) == len(data.test)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        (["data={tweets: {}}"], RecipeError, "no data set 'tweets'; there are wordnet, text_pairs"),
        (["data.text_pairs.max_length=600"], OptimizeError, "max_length is 600"),
        (["model=resnet18"], RecipeError, "no architecture 'resnet18'"),
        (["model=classes.py:build"], ModelError, r"returns \[3, 2\] for 2 texts"),
        (["model=broken.py:build"], ModelError, "fails on token ids"),
    ],
)
def test_what_does_not_fit_is_said(
    written: Path, settings: list[str], error: type[Exception], message: str
) -> None:
    module = (
        "import torch\nfrom torch import nn\nclass Net(nn.Module):\n    def forward(self, ids):\n"
    )
    tail = "\ndef build():\n    return Net()\n"
    (written.parent / "classes.py").write_text(f"{module}        return torch.ones(3, 2){tail}")
    (written.parent / "broken.py").write_text(f"{module}        return ids @ ids @ ids{tail}")
    recipe = read_recipe(written, settings)
    task = registry.load(recipe.task)
    with pytest.raises(error, match=message):
        task.build_model(recipe, task.load_data(recipe))
