import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from optimize.data.dataset import Dataset
from optimize.errors import DataError, ModelError, OptionError
from optimize.evaluation import accuracy
from optimize.lowering.observers import Histogram
from optimize.models.architectures import convnet
from optimize.models.normalized import Normalized
from optimize.pruning.sensitivity import accuracy_on
from optimize.quantization.accuracy_control import within_budget
from optimize.quantization.equalize import equalize
from optimize.quantization.fake_quantize import (
    fake_quantized,
    input_ranges,
    layers,
    quantization_table,
)
from optimize.quantization.quantize import QuantizeOptions, quantize
from optimize.training.fit import TrainOptions, fit
from optimize.utils import torchscript

METHODS = ["static_int8", "dynamic_int8", "weight_only_int8", "bf16"]


def pixels(dataset: Dataset) -> torch.Tensor:
    assert dataset.train is not None
    return dataset.train.inputs


def test_layers_really_become_int8(trained: nn.Module, dataset: Dataset) -> None:
    quantized = quantize(trained, pixels(dataset))
    convolutions = sum(isinstance(m, nn.Conv2d) for m in trained.modules())
    assert len(quantized.lowered) == convolutions
    operators = torchscript.operators(torchscript.script(quantized, dataset.test.inputs[:1]))
    assert sum(n for name, n in operators.items() if "conv2d" in name) == convolutions
    assert not {"aten::conv2d", "aten::_convolution", "aten::quantize_per_tensor"} & set(operators)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_every_method_keeps_the_answers_and_its_file_too(
    trained: nn.Module, dataset: Dataset, tmp_path: Path, method: str
) -> None:
    options = QuantizeOptions(method, calibration=256)  # type: ignore[arg-type]
    before = accuracy.predict(trained, dataset.test.inputs)
    quantized = quantize(trained, pixels(dataset), options)
    assert len(quantized.lowered) >= 1
    assert accuracy.agreement(accuracy.predict(quantized, dataset.test.inputs), before) > 0.97
    assert torch.equal(before, accuracy.predict(trained, dataset.test.inputs))
    torchscript.save(torchscript.script(quantized, dataset.test.inputs[:1]), tmp_path / "model.pt")
    torchscript.check_parity(
        quantized, tmp_path / "model.pt", dataset.test.inputs[:16], engine=quantized.engine
    )


def test_fewer_bits_are_fewer_bytes(trained: nn.Module, dataset: Dataset, tmp_path: Path) -> None:
    def size(model: nn.Module) -> int:
        scripted = torchscript.script(model, dataset.test.inputs[:1])
        return torchscript.save(scripted, tmp_path / "model.pt")

    whole = size(trained)
    half = size(quantize(trained, pixels(dataset), QuantizeOptions("bf16")))
    quarter = size(quantize(trained, pixels(dataset), QuantizeOptions("weight_only_int8")))
    assert half < 0.6 * whole and quarter < 0.4 * whole


def test_weight_only_loads_as_float(trained: nn.Module, dataset: Dataset, tmp_path: Path) -> None:
    quantized = quantize(trained, pixels(dataset), QuantizeOptions("weight_only_int8"))
    torchscript.save(torchscript.script(quantized, dataset.test.inputs[:1]), tmp_path / "model.pt")
    loaded = torchscript.load(tmp_path / "model.pt")
    weight = next(m.weight for m in loaded.modules() if hasattr(m, "scale") and m.weight.dim() == 4)
    assert weight.dtype == torch.float32
    steps = weight.flatten(1) / weight.flatten(1).abs().amax(1, keepdim=True) * 127
    assert torch.allclose(steps, steps.round(), atol=1e-3)
    wanted = accuracy.predict(quantized, dataset.test.inputs[:50])
    assert torch.allclose(accuracy.predict(loaded, dataset.test.inputs[:50]), wanted, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_named_layers_stay_in_float(trained: nn.Module, dataset: Dataset, method: str) -> None:
    every = quantize(trained, pixels(dataset), QuantizeOptions(method))  # type: ignore[arg-type]
    name = every.lowered[0]
    details: dict[str, object] = {}
    options = QuantizeOptions(method, keep=[name])  # type: ignore[arg-type]
    kept = quantize(trained, pixels(dataset), options, details=details)
    assert set(kept.lowered) == set(every.lowered) - {name}
    assert details["left_in_float"][name] == "kept in float as asked"  # type: ignore[index]
    wrong = QuantizeOptions(method, keep=["body.99"])  # type: ignore[arg-type]
    with pytest.raises(OptionError, match=r"body\.99"):
        quantize(trained, pixels(dataset), wrong)


def test_layers_left_in_float_may_be_bfloat16(trained: nn.Module, dataset: Dataset) -> None:
    options = QuantizeOptions(keep=["body.3"], fallback="bf16")
    quantized = quantize(trained, pixels(dataset), options)
    scripted = torchscript.script(quantized, dataset.test.inputs[:1])
    dtypes = [t.dtype for n in scripted.graph.nodes() for t in _tensors(n)]
    assert dtypes.count(torch.bfloat16) >= 1
    before = accuracy.predict(trained, dataset.test.inputs)
    assert accuracy.agreement(accuracy.predict(quantized, dataset.test.inputs), before) > 0.97


def _tensors(node: torch.Node) -> list[torch.Tensor]:
    constant = node.kind() == "prim::Constant" and "value" in node.attributeNames()
    return [node.t("value")] if constant and node.kindOf("value") == "t" else []


def test_a_normalisation_per_channel_is_kept_in_the_graph(dataset: Dataset) -> None:
    torch.manual_seed(0)
    body = convnet.build(10, channels=3, widths=(16, 32), strides=(2, 2)).body
    model = Normalized(body, [120.0, 115.5, 100.0], [60.0, 58.0, 57.0]).eval()
    images = dataset.test.inputs[:64].repeat(1, 3, 1, 1)
    assert model.input_quantization() is None
    quantized = quantize(model, images)
    assert len(quantized.lowered) == 2
    with torch.no_grad():
        wanted = model(images)
        error = (quantized(images) - wanted).norm() / wanted.norm()
    assert error < 0.05


def test_too_little_data_and_no_linear_layer_are_said(trained: nn.Module, dataset: Dataset) -> None:
    with pytest.raises(DataError, match="two inputs"):
        quantize(trained, pixels(dataset)[:1])
    plain = Normalized(nn.Sequential(nn.Conv2d(1, 10, 28), nn.Flatten()), 73.0, 90.0)
    with pytest.raises(ModelError, match="use static_int8"):
        quantize(plain, pixels(dataset)[:8], QuantizeOptions("dynamic_int8"))
    with pytest.raises(OptionError, match="held-out"):
        quantize(trained, pixels(dataset), QuantizeOptions(max_drop=0.01))


@pytest.mark.parametrize(
    "wrong",
    [
        {"calibration": 1},
        {"equalize": 1.5},
        {"max_drop": 1.0},
        {"method": "bf16", "ranges": "entropy"},
        {"method": "bf16", "equalize": 0.5},
        {"method": "dynamic_int8", "fallback": "bf16"},
        {"method": "bf16", "engine": "onednn"},
        {"engine": "fbgemm", "hot_batch": 4},
    ],
)
def test_options_that_cannot_work_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        QuantizeOptions(**wrong)  # type: ignore[arg-type]


def test_ranges_clip_as_their_method_says() -> None:
    torch.manual_seed(0)
    x = torch.cat([torch.randn(50_000).relu(), torch.full((4,), 40.0)])
    histogram = Histogram()
    histogram.widen(x)
    histogram.count(x)

    def error(name: str) -> float:
        found = histogram.chosen(name)  # type: ignore[arg-type]
        stored = (x / found.scale).round().clamp(0, 255)
        return (stored * found.scale - x).square().mean().item()

    tops = {n: 255 * histogram.chosen(n).scale for n in ("minmax", "mse", "entropy")}  # type: ignore[arg-type]
    assert tops["minmax"] == pytest.approx(40.0, rel=1e-3)
    assert tops["entropy"] < 20 and tops["mse"] < 40.0
    assert error("mse") <= 1.1 * error("minmax") and error("mse") < error("entropy")


@pytest.mark.parametrize("ranges", ["mse", "entropy", "minmax"])
def test_every_kind_of_range_works(trained: nn.Module, dataset: Dataset, ranges: str) -> None:
    options = QuantizeOptions(calibration=64, ranges=ranges)  # type: ignore[arg-type]
    quantized = quantize(trained, pixels(dataset), options)
    before = accuracy.predict(trained, dataset.test.inputs)
    assert accuracy.agreement(accuracy.predict(quantized, dataset.test.inputs), before) > 0.95


@pytest.mark.slow
@pytest.mark.parametrize(("engine", "hot_batch"), [("fbgemm", 0), ("onednn", 0), ("onednn", 4)])
def test_the_kernels_can_be_chosen(
    trained: nn.Module, dataset: Dataset, tmp_path: Path, engine: str, hot_batch: int
) -> None:
    options = QuantizeOptions(calibration=64, engine=engine, hot_batch=hot_batch)  # type: ignore[arg-type]
    quantized = quantize(trained, pixels(dataset), options)
    assert quantized.engine == engine
    torchscript.save(torchscript.script(quantized, dataset.test.inputs[:1]), tmp_path / "model.pt")
    torchscript.check_parity(
        quantized, tmp_path / "model.pt", dataset.test.inputs[:16], engine=engine
    )


def wild(model: nn.Module) -> nn.Module:
    """The same answers, with channels of very different sizes between two layers."""
    model = copy.deepcopy(model)
    norm, reader = model.get_submodule("body.4"), model.get_submodule("body.6")
    assert isinstance(norm, nn.BatchNorm2d) and isinstance(reader, nn.Conv2d)
    factor = torch.logspace(-1.5, 1.5, 32)
    with torch.no_grad():
        norm.weight *= factor
        norm.bias *= factor
        reader.weight /= factor.view(1, -1, 1, 1)
    return model


def test_equalizing_is_exact_and_rescues_what_int8_would_lose(
    trained: nn.Module, dataset: Dataset
) -> None:
    model, images = wild(trained), pixels(dataset)[:256]
    before = accuracy.predict(trained, dataset.test.inputs)
    assert torch.allclose(accuracy.predict(model, dataset.test.inputs), before, atol=1e-3)
    equal, names = equalize(model, images)
    assert set(names) == {"body.0", "body.3", "body.6"}
    assert torch.allclose(accuracy.predict(equal, dataset.test.inputs), before, atol=1e-3)

    def error(alpha: float) -> float:
        quantized = quantize(model, images, QuantizeOptions(equalize=alpha))
        found = accuracy.predict(quantized, dataset.test.inputs)
        return ((found - before).norm() / before.norm()).item()

    assert error(0.5) < 0.5 * error(0.0)


def test_equalizing_leaves_what_it_would_change(dataset: Dataset) -> None:
    torch.manual_seed(0)
    body = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.Sigmoid(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 10, 24),
        nn.Flatten(),
    )  # fmt: skip
    _, names = equalize(Normalized(body, 73.0, 90.0), pixels(dataset)[:16])
    assert names == ["body.2"]


def test_layers_go_back_to_float_until_the_budget_holds() -> None:
    costs = {"a": 0.001, "b": 0.02, "c": 0.004, "d": 0.03, "e": 0.0}
    order = sorted(costs, key=lambda name: -costs[name])

    class Model(nn.Module):
        def __init__(self, kept: list[str]) -> None:
            super().__init__()
            self.lost = sum(cost for name, cost in costs.items() if name not in kept)

    def found(budget: float) -> tuple[list[str], float, int]:
        outcome = within_budget(
            lambda kept: Model(list(kept)),
            lambda model: 0.9 - model.lost,  # type: ignore[operator]
            0.9,
            budget,
            lambda: order,
        )
        return outcome.kept, outcome.drop, len(outcome.trials)

    assert found(0.06) == ([], pytest.approx(0.055), 1)
    assert found(0.03)[:2] == (["d"], pytest.approx(0.025))
    assert found(0.0055)[:2] == (["d", "b"], pytest.approx(0.005))
    assert found(0.0)[0] == ["d", "b", "c", "a"]


@pytest.mark.slow
def test_the_budget_holds_on_a_real_model(trained: nn.Module, dataset: Dataset) -> None:
    assert dataset.validation is not None
    model = wild(wild(trained))
    accuracy = accuracy_on(dataset.validation, 600)
    free: dict[str, object] = {}
    lost = accuracy(model) - accuracy(quantize(model, pixels(dataset), details=free))
    assert lost > 0.01  # what it is to save
    details: dict[str, object] = {}
    options = QuantizeOptions(max_drop=0.005)
    quantized = quantize(model, pixels(dataset), options, accuracy=accuracy, details=details)
    assert accuracy(model) - accuracy(quantized) <= 0.005
    left = details["left_in_float"]
    assert isinstance(left, dict) and "body.6" in left and "to lose at most 0.005" in left["body.6"]
    assert len(quantized.lowered) >= 1
    assert details["sensitivity"][0]["layer"] == "body.6"  # type: ignore[index]


def test_the_table_finds_the_layer_that_costs(trained: nn.Module, dataset: Dataset) -> None:
    rows = quantization_table(wild(trained), pixels(dataset)[:128])
    assert rows[0]["layer"] == "body.6"
    assert {row["layer"] for row in rows} == set(layers(trained))
    assert rows[0]["error"] > 3 * rows[1]["error"]


def test_training_with_fake_quantization_wins_accuracy_back(
    trained: nn.Module, dataset: Dataset
) -> None:
    """On a network that int8 hurts; what was trained is what the kernels then compute."""
    assert dataset.train is not None
    model = wild(trained)
    qparams = input_ranges(model, pixels(dataset)[:256])
    assert qparams["body.0"] is None  # pixels are read as they are
    names = set(model.state_dict())
    with fake_quantized(model, qparams):
        first = accuracy.evaluate(model, dataset.test).value
        options = TrainOptions(2, batch_size=64, learning_rate=0.005, precision="fp32")
        fit(model, dataset.train, options, freeze_norm=True)
        imitated = accuracy.predict(model, dataset.test.inputs)
    assert type(model.get_submodule("body.3")) is nn.Conv2d
    assert set(model.state_dict()) == names
    real = accuracy.predict(quantize(model, pixels(dataset)[:256]), dataset.test.inputs)
    assert accuracy.accuracy(real, dataset.test.targets).value > first + 0.1
    assert accuracy.agreement(real, imitated) > 0.93
