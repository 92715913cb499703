import torch
from torch import nn

from optimize import evaluate, torchscript
from optimize.data import Dataset
from optimize.models import Normalized, convnet
from optimize.quantize import QuantizeOptions, quantize


def test_layers_really_become_int8(trained: nn.Module, dataset: Dataset) -> None:
    assert dataset.train is not None
    quantized = quantize(trained, dataset.train.inputs)
    convolutions = sum(isinstance(m, nn.Conv2d) for m in trained.modules())
    assert len(quantized.lowered) == convolutions
    operators = torchscript.operators(torchscript.script(quantized, dataset.test.inputs[:1]))
    assert sum(n for name, n in operators.items() if "conv2d" in name) == convolutions
    assert not {"aten::conv2d", "aten::_convolution", "aten::quantize_per_tensor"} & set(operators)


def test_accuracy_holds(trained: nn.Module, dataset: Dataset) -> None:
    assert dataset.train is not None
    quantized = quantize(trained, dataset.train.inputs, QuantizeOptions(calibration=256))
    before = evaluate.predict(trained, dataset.test.inputs)
    after = evaluate.predict(quantized, dataset.test.inputs)
    assert evaluate.agreement(after, before) > 0.97


def test_the_model_is_left_alone(trained: nn.Module, dataset: Dataset) -> None:
    assert dataset.train is not None
    before = evaluate.predict(trained, dataset.test.inputs[:50])
    quantize(trained, dataset.train.inputs, QuantizeOptions(calibration=64))
    assert torch.equal(before, evaluate.predict(trained, dataset.test.inputs[:50]))


def test_a_normalisation_per_channel_is_kept_in_the_graph(dataset: Dataset) -> None:
    torch.manual_seed(0)
    body = convnet.build(10, channels=3, widths=(16, 32), strides=(2, 2)).body
    model = Normalized(body, [120.0, 115.5, 100.0], [60.0, 58.0, 57.0]).eval()
    pixels = dataset.test.inputs[:64].repeat(1, 3, 1, 1)
    assert model.input_quantization() is None
    quantized = quantize(model, pixels)
    assert len(quantized.lowered) == 2
    with torch.no_grad():
        wanted = model(pixels)
        error = (quantized(pixels) - wanted).norm() / wanted.norm()
    assert error < 0.05
