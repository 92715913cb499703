"""Kinds of models that people bring: each is lowered, saved, loaded and asked at several sizes of
batches."""

import io
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from optimize.errors import ModelError
from optimize.lowering.blame import Blaming
from optimize.lowering.capture import capture
from optimize.lowering.graphs import aten, copy_call
from optimize.lowering.kernels.quantized import DynamicLinear
from optimize.lowering.passes import rewrites
from optimize.quantization.fake_quantize import fake_quantized, input_ranges
from optimize.quantization.quantize import QuantizeOptions, quantize, refuse_quantized
from optimize.utils import torchscript


class OfPixels(nn.Module):
    """uint8 `[N, 3, 16, 16]` to `[N, 5]`."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.head = nn.Conv2d(3, 8, 3, 2, 1), nn.Linear(8, 5)

    def forward(self, pixels: Tensor) -> Tensor:
        answers: Tensor = self.head(self.body(self.stem(pixels.float() / 127.5 - 1)))
        return answers

    def body(self, x: Tensor) -> Tensor:
        raise NotImplementedError


class Shuffled(OfPixels):
    def body(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        return x.relu().mean((2, 3))


class Columns(OfPixels):
    def __init__(self) -> None:
        super().__init__()
        self.row = nn.Linear(64, 8)

    def body(self, x: Tensor) -> Tensor:
        found: Tensor = self.row(x.permute(0, 3, 1, 2).contiguous().flatten(2)).mean(1)
        return found


class Encoder(OfPixels):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

    def body(self, x: Tensor) -> Tensor:
        found: Tensor = self.layer(x.flatten(2).transpose(1, 2)).mean(1)
        return found


class Recurrent(OfPixels):
    def __init__(self, kind: type[nn.RNNBase], batch_first: bool) -> None:
        super().__init__()
        self.layer, self.first = kind(8, 8, batch_first=batch_first), batch_first

    def body(self, x: Tensor) -> Tensor:
        columns = x.mean(2).transpose(1, 2)
        if self.first:
            return self.layer(columns)[0][:, -1]  # type: ignore[no-any-return]
        return self.layer(columns.transpose(0, 1))[0][-1]  # type: ignore[no-any-return]


class Places(OfPixels):
    """Position encodings made by a layer from fixed numbers."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.make = nn.Conv2d(4, 8, 1) if kind == "conv" else nn.Linear(4, 8)
        waves = torch.sin(0.1 * torch.arange(256.0)).view(1, 4, 8, 8)
        self.waves: Tensor
        self.register_buffer("waves", waves if kind == "conv" else waves.permute(0, 2, 3, 1))

    def body(self, x: Tensor) -> Tensor:
        made = self.make(self.waves)
        if isinstance(self.make, nn.Linear):
            made = made.permute(0, 3, 1, 2)
        return (x + made).relu().mean((2, 3))


class OtherDtype(OfPixels):
    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        layers = [nn.Conv2d(8, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 8, 3)]
        self.middle, self.dtype = nn.Sequential(*layers).to(dtype), dtype

    def body(self, x: Tensor) -> Tensor:
        found: Tensor = self.middle(x.to(self.dtype)).mean((2, 3)).float()
        return found


MODELS = {
    "shuffled": Shuffled,
    "columns": Columns,
    "encoder": Encoder,
    "lstm": lambda: Recurrent(nn.LSTM, True),
    "gru": lambda: Recurrent(nn.GRU, True),
    "lstm, length first": lambda: Recurrent(nn.LSTM, False),
    "conv of a constant": lambda: Places("conv"),
    "linear of a constant": lambda: Places("linear"),
    "float64": lambda: OtherDtype(torch.float64),
    "bfloat16": lambda: OtherDtype(torch.bfloat16),
}

OTHERS = {
    "dynamic_int8": ("encoder", "lstm", "linear of a constant", "float64"),
    "weight_only_int8": ("shuffled", "bfloat16"),
    "bf16": ("gru", "conv of a constant", "float64"),
}
CASES = [
    *((name, "static_int8") for name in MODELS),
    *((name, method) for method, names in OTHERS.items() for name in names),
]


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    generator = torch.Generator().manual_seed(3)
    coarse = torch.rand(9, 3, 4, 4, generator=generator)
    return (F.interpolate(coarse, scale_factor=4) * 255).to(torch.uint8)


def reloaded(module: nn.Module, example: Tensor) -> torch.jit.ScriptModule:
    file = io.BytesIO()
    with torchscript.silenced():
        torch.jit.save(torchscript.script(module, example), file)
        file.seek(0)
        return torch.jit.load(file)  # type: ignore[no-any-return]


@pytest.mark.parametrize(("name", "method"), CASES)
def test_a_file_answers_like_the_model_at_any_batch(name: str, method: str, pixels: Tensor) -> None:
    model = MODELS[name]().eval()
    made = quantize(model, pixels, QuantizeOptions(method=method))  # type: ignore[arg-type]
    file = reloaded(made, pixels[:2])
    with torch.inference_mode():
        whole = model(pixels)
        for size in (9, 1, 2, 5):
            error = (file(pixels[:size]) - whole[:size]).norm() / whole[:size].norm()
            assert error < 0.03, size


def test_recurrent_layers_stay_in_float_and_are_named(pixels: Tensor) -> None:
    for method in ("static_int8", "dynamic_int8", "weight_only_int8"):
        options = QuantizeOptions(method=method)  # type: ignore[arg-type]
        made = quantize(Recurrent(nn.LSTM, True).eval(), pixels, options)
        assert "layer" in made.left_in_float  # type: ignore[operator]


def test_a_state_of_another_batch_is_an_error_not_a_write_beyond_it() -> None:
    module = capture(nn.Sequential(nn.LSTM(8, 64, batch_first=True), First()), torch.randn(2, 5, 8))
    graph, made = fx.Graph(), {}
    root = nn.Module()
    for node in module.graph.nodes:
        if node.op == "placeholder":
            made[node] = graph.placeholder("x")
        elif node.op == "get_attr":
            name = str(node.target).replace(".", "_")
            root.register_buffer(name, module.get_parameter(str(node.target)))
            made[node] = graph.get_attr(name)
        elif node.target is aten.zeros.default:  # of one input, as a file once held it
            root.register_buffer("state", torch.zeros(1, 1, 64))
            made[node] = graph.call_function(
                torch.repeat_interleave, (graph.get_attr("state"), 2, 1)
            )
        elif node.op == "output":
            graph.output(made[node.args[0][0]])
        else:
            args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: made.get(n))
            made[node] = copy_call(graph, node, args, kwargs)
    written = fx.GraphModule(root, graph)
    assert written(torch.randn(2, 5, 8)).shape == (2, 5, 64)
    with pytest.raises(RuntimeError, match="expand"):
        written(torch.randn(64, 5, 8))


class First(nn.Module):
    def forward(self, found: tuple[Tensor, object]) -> Tensor:
        return found[0]


class Written(nn.Module):
    """Its initial state is of the batch size that it is traced with."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.LSTM(8, 16, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        state = torch.zeros(1, int(x.shape[0]), 16)
        found: Tensor = self.layer(x, (state, state))[0]
        return found


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_a_state_with_the_batch_size_written_into_it_is_refused() -> None:
    with pytest.raises(ModelError, match=r"initial state.*x\.shape\[0\]"):
        torchscript.script(Written().eval(), torch.randn(2, 5, 8))


def test_a_layer_of_a_constant_is_folded_or_stays_in_float(
    pixels: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Places("conv").eval()
    folded = quantize(model, pixels)
    assert "make" not in (*folded.lowered, *folded.left_in_float)  # type: ignore[misc]
    monkeypatch.setattr(rewrites, "_LARGEST_FOLDED", 8)
    left = quantize(model, pixels)
    assert left.left_in_float["make"] == "its input is a constant"  # type: ignore[index]
    with torch.no_grad():
        assert (left(pixels) - model(pixels)).norm() < 0.03 * model(pixels).norm()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_layers_of_other_float_types_become_int8(dtype: torch.dtype, pixels: Tensor) -> None:
    model = OtherDtype(dtype).eval()
    assert {"middle.0", "middle.3"} <= set(quantize(model, pixels).lowered)  # type: ignore[arg-type]
    kept = quantize(model, pixels, QuantizeOptions(keep=["middle.3"]))
    assert kept.left_in_float["middle.3"]  # type: ignore[index]
    with torch.no_grad():
        assert (kept(pixels) - model(pixels)).norm() < 0.03 * model(pixels).norm()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_float_types_are_measured_trained_and_kept(
    dtype: torch.dtype, pixels: Tensor
) -> None:
    model = OtherDtype(dtype).eval()
    options = QuantizeOptions(keep=["middle.3"], fallback="bf16", equalize=0.5, sensitivity=True)
    details: dict[str, Any] = {}
    made = quantize(model, pixels, options, accuracy=lambda m: 1.0, details=details)
    assert {row["layer"] for row in details["sensitivity"]} >= {"middle.0", "middle.3"}
    with fake_quantized(model, input_ranges(model, pixels)), torch.no_grad():
        rounded = model(pixels)
    with torch.no_grad():
        assert (made(pixels) - rounded).norm() < 0.05 * rounded.norm()


def test_a_row_of_dynamic_int8_does_not_depend_on_its_batch() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(64, 32)
    torch.backends.quantized.engine = "onednn"
    with torchscript.silenced(), torch.no_grad():
        kernel = DynamicLinear(layer.weight.detach(), layer.bias.detach())
        rows = torch.randn(6, 64) * torch.tensor([1e-4, 0.0, 1.0, 30.0, 1e4, 1.0])[:, None]
        rows[5] = 7.0
        together = kernel(rows)
        alone = torch.cat([kernel(row[None]) for row in rows])
        assert torch.equal(together, alone)
        wanted = layer(rows)
        assert ((together - wanted).norm(dim=1) / wanted.norm(dim=1)).max() < 0.02


def test_an_operator_that_fails_is_told_as_its_layer() -> None:
    module = capture(nn.Sequential(nn.Flatten(), nn.Linear(12, 5)), torch.randn(2, 3, 4))
    with pytest.raises(ModelError, match=r"^layer 0 fails.* keep: \[0\]") as told:
        Blaming(module, "fails").run(torch.randn(2, 3, 5))
    assert "\n" not in str(told.value)


def test_a_quantized_model_is_not_pruned_or_trained(pixels: Tensor) -> None:
    made = quantize(Shuffled().eval(), pixels)
    for stage in ("prune", "train", "quantize"):
        with pytest.raises(ModelError, match=f"stage {stage} comes after quantize.*last"):
            refuse_quantized(made, stage)
    refuse_quantized(Shuffled(), "prune")
