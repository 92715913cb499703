from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from optimize.errors import DataError, ModelError
from optimize.lowering import lower_int8


class Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = convolution(channels, channels)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.norm(self.conv(self.first(x))))


def convolution(inputs: int, outputs: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU6(inplace=True),
    )


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(
        convolution(1, 16),
        convolution(16, 16, groups=16),
        convolution(16, 32, stride=2),
        Residual(32),
        nn.MaxPool2d(2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.1),
        nn.Linear(32, 10),
    )
    model.train()
    for _ in range(20):
        model(torch.randn(32, 1, 28, 28) * 2)
    return model.eval()


@pytest.fixture
def pixels() -> Tensor:
    noise = torch.rand(64, 1, 7, 7, generator=torch.Generator().manual_seed(1))
    return (torch.nn.functional.interpolate(noise, scale_factor=4) * 255).to(torch.uint8)


def relative_error(actual: Tensor, expected: Tensor) -> float:
    return ((actual - expected).norm() / expected.norm()).item()


def test_answers_match_the_float_model(network: nn.Module, pixels: Tensor) -> None:
    lowered = lower_int8(network, [pixels[:32]], input_scale=1 / 90, input_zero_point=73)
    with torch.no_grad():
        expected = network((pixels.float() - 73) / 90)
        assert relative_error(lowered(pixels), expected) < 0.03
    assert lowered.lowered == ("0.0", "1.0", "2.0", "3.first.0", "3.conv")
    assert list(lowered.left_in_float) == ["8"]


def test_float_input_is_quantized_inside(network: nn.Module, pixels: Tensor) -> None:
    x = (pixels.float() - 73) / 90
    with torch.no_grad():
        assert relative_error(lower_int8(network, [x])(x), network(x)) < 0.03


def test_saved_file_gives_the_same_answers_at_any_batch(
    network: nn.Module, pixels: Tensor, tmp_path: Path
) -> None:
    lowered = lower_int8(network, [pixels], input_scale=1 / 90, input_zero_point=73)
    with torch.no_grad():
        traced = torch.jit.freeze(torch.jit.trace(lowered, pixels[:2], check_trace=False))
        traced.save(str(tmp_path / "model.pt"))
        loaded = torch.jit.load(str(tmp_path / "model.pt"))
        for size in (1, 2, 3, 8, 32):
            assert torch.equal(loaded(pixels[:size]), lowered(pixels[:size]))


def test_clamp_is_left_to_saturation(network: nn.Module, pixels: Tensor) -> None:
    pixel_input = {"input_scale": 1 / 90, "input_zero_point": 73}
    lowered = lower_int8(network, [pixels], **pixel_input)
    traced = torch.jit.trace(lowered, pixels[:2], check_trace=False)
    graph = str(traced.inlined_graph)
    assert "hardtanh" not in graph and "clamp" not in graph and "quantize_per_tensor" not in graph
    assert graph.count("quantized::conv2d_add(") == 1


def saved(module: nn.Module, example: Tensor, path: Path) -> int:
    with torch.no_grad():
        torch.jit.freeze(torch.jit.trace(module, example, check_trace=False)).save(str(path))
    return path.stat().st_size


def test_copies_for_a_hot_batch_share_their_weights_in_the_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(*[nn.Conv2d(128, 128, 3, padding=1) for _ in range(4)]).eval()
    x = torch.randn(4, 128, 8, 8)
    one = lower_int8(model, [x], engine="onednn")
    several = lower_int8(model, [x], engine="onednn", hot_batch=4)
    size = saved(one, x, tmp_path / "one.pt")
    several.scripted().save(str(tmp_path / "several.pt"))
    assert (tmp_path / "several.pt").stat().st_size < 1.2 * size
    loaded = torch.jit.load(str(tmp_path / "several.pt"))
    with torch.no_grad():
        for batch in (1, 3, 4):
            assert torch.equal(loaded(x[:batch]), one(x[:batch]))


def test_small_dense_networks_run_on_fbgemm(pixels: Tensor) -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(32 * 49, 10)).eval()
    x = pixels.float() / 255
    lowered = lower_int8(model, [x])
    assert lowered.engine == "fbgemm"
    with torch.no_grad():
        assert relative_error(lowered(x), model(x)) < 0.03


def same_padding(channels: int, stride: int, kernel: int = 3) -> nn.Sequential:
    before, after = (kernel - stride) // 2, (kernel - stride + 1) // 2
    pad = nn.ZeroPad2d((before, after, before, after))
    return nn.Sequential(pad, nn.Conv2d(channels, channels, kernel, stride), nn.ReLU())


@pytest.mark.parametrize("pooled", [True, False])
def test_padding_of_one_side_costs_no_operator(pooled: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(same_padding(8, 2), same_padding(8, 2, 5), same_padding(8, 1)).eval()
    if pooled:
        model.append(nn.AdaptiveAvgPool2d(1))
    x = torch.randn(4, 8, 32, 32)
    lowered = lower_int8(model, [x])
    with torch.no_grad():
        assert relative_error(lowered(x), model(x)) < 0.05
    graph = str(torch.jit.trace(lowered, x, check_trace=False).inlined_graph)
    assert "pad" not in graph.replace("padding", "")
    assert ("aten::flip" in graph) == pooled


def test_a_skip_that_is_read_again_is_not_overwritten(pixels: Tensor) -> None:
    class ReadTwice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
            self.c = nn.Conv2d(8, 8, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            skip = self.a(x)
            total = self.b(skip) + skip
            return (self.c(skip) + total).mean((2, 3))

    torch.manual_seed(0)
    model, x = ReadTwice().eval(), pixels.float() / 255
    with torch.no_grad():
        assert relative_error(lower_int8(model, [x])(x), model(x)) < 0.05


def test_a_convolution_is_not_added_into_its_own_input(pixels: Tensor) -> None:
    class Direct(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            skip = torch.relu(self.a(x))
            return torch.relu(skip + self.b(skip))

    torch.manual_seed(0)
    model, x = Direct().eval(), pixels.float() / 255
    with torch.no_grad():
        assert relative_error(lower_int8(model, [x])(x), model(x)) < 0.03


def test_layers_without_a_kernel_stay_in_float_and_are_named(pixels: Tensor) -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ELU(), nn.ConvTranspose2d(8, 4, 2, 2), nn.Tanh()
    ).eval()
    x = pixels.float() / 255
    lowered = lower_int8(model, [x])
    assert "2" in lowered.left_in_float and lowered.lowered == ("0",)
    with torch.no_grad():
        assert relative_error(lowered(x), model(x)) < 0.05


def test_layers_kept_on_request_are_float_and_named(network: nn.Module, pixels: Tensor) -> None:
    x = (pixels.float() - 73) / 90
    kept = lower_int8(network, [x], keep_float=["1", "3.conv"])
    assert kept.lowered == ("0.0", "2.0", "3.first.0")
    assert list(kept.left_in_float) == ["1.0", "3.conv", "8"]
    graph = str(torch.jit.trace(kept, x, check_trace=False).inlined_graph)
    assert graph.count("aten::conv2d(") + graph.count("aten::_convolution(") == 2
    with torch.no_grad():
        assert relative_error(kept(x), network(x)) < 0.03
        everything = lower_int8(network, [x], keep_float=[""])
        torch.testing.assert_close(everything(x), network(x), atol=1e-4, rtol=1e-4)
    with pytest.raises(ModelError, match="no layer named '9"):
        lower_int8(network, [x], keep_float=["9.conv"])


def test_control_flow_is_refused_in_a_sentence(
    pixels: Tensor, capsys: pytest.CaptureFixture[str]
) -> None:
    class Branching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(ModelError, match="cannot be captured"):
        lower_int8(Branching(), [pixels.float()])
    assert "def forward" not in capsys.readouterr().err  # the graph so far, from torch.export


def test_no_calibration_data_is_refused(network: nn.Module) -> None:
    with pytest.raises(DataError, match="calibration"):
        lower_int8(network, [])
