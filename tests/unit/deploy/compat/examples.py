"""Handlers in the patterns of TorchServe's examples, each with a small model of its own."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

NET = '''
import torch
from torch import nn


class Net(nn.Module):
    """Ten numbers of a picture `[N, 1, 28, 28]`: the sums of its rows 0, 2, 4, ..."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return self.scale * x[:, 0, 0:20:2].sum(-1)
'''
MNIST = """
from torch.profiler import ProfilerActivity
from torchvision import transforms
from ts.torch_handler.image_classifier import ImageClassifier


class Digits(ImageClassifier):
    image_processing = transforms.Compose(
        [transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))]
    )

    def __init__(self):
        super(Digits, self).__init__()
        self.profiler_args = {"activities": [ProfilerActivity.CPU], "record_shapes": True}

    def postprocess(self, data):
        return data.argmax(1).tolist()
"""
METRICS = (
    MNIST
    + """
    def initialize(self, context):
        super().initialize(context)
        metrics = context.metrics
        self.asked = metrics.add_metric_to_cache(
            metric_name="Asked", unit="count", dimension_names=[], metric_type=MetricTypes.COUNTER
        )
        metrics.add_metric(name="Started", value=1, unit="count", metric_type=MetricTypes.COUNTER)

    def preprocess(self, data):
        metrics = self.context.metrics
        self.asked.add_or_update(value=len(data), dimension_values=[])
        size = metrics.get_metric(metric_name="BatchSize", metric_type=MetricTypes.GAUGE)
        size.add_or_update(value=len(data), dimension_values=[self.context.model_name])
        metrics.add_size(name="Bytes", value=len(data[0]["body"]), idx=None, unit="B")
        metrics.add_time(
            name="Step", value=1.5, unit="ms", dimensions=[Dimension(name="Method", value="pre")]
        )
        metrics.add_percent("Share", 50, metric_type=MetricTypes.HISTOGRAM)
        metrics.add_error("Odd", 1)
        metrics.add_counter(name="Calls", value=1, idx=None, dimensions=[])
        return super().preprocess(data)
"""
)
METRICS = METRICS.replace(
    "from torch.profiler",
    "from ts.metrics.dimension import Dimension\n"
    "from ts.metrics.metric_type_enum import MetricTypes\nfrom torch.profiler",
    1,
)
MICRO = """
from ts.handler_utils.micro_batching import MicroBatching
from ts.torch_handler.image_classifier import ImageClassifier


class Micro(ImageClassifier):
    def __init__(self):
        self.handle = MicroBatching(self)

    def initialize(self, ctx):
        super().initialize(ctx)
        asked = ctx.model_yaml_config.get("micro_batching", {})
        self.handle.parallelism = asked.get("parallelism", {})
        self.handle.micro_batch_size = asked.get("micro_batch_size", 1)
"""
STREAM = """
from ts.handler_utils.utils import send_intermediate_predict_response


def handle(data, context):
    if type(data) is list:
        for word in ("one ", "two "):
            part = [word] * len(data)
            send_intermediate_predict_response(part, context.request_ids, "Partial", 200, context)
        return ["three"] * len(data)
"""
FUNCTION = """
import torch

model = None


def answer(data, context):
    global model
    if not data:
        folder = context.system_properties.get("model_dir")
        model = torch.jit.load(f"{folder}/{context.manifest['model']['serializedFile']}")
        return
    rows = [row.get("data") or row.get("body") for row in data]
    return model(torch.tensor(rows, dtype=torch.float32)).tolist()
"""
PACKAGE = """
from abc import ABC

import torch
from ts.torch_handler.base_handler import BaseHandler

from words import cleaned


class Lengths(BaseHandler, ABC):
    def preprocess(self, requests):
        texts = [request.get("data") or request.get("body") for request in requests]
        return torch.tensor([[float(len(cleaned(text)))] * 3 for text in texts])

    def postprocess(self, inference_output):
        return [{"sum": row[0]} for row in inference_output.tolist()]
"""
EXPLAIN = (
    MNIST
    + """
    def explain_handle(self, data_preprocess, raw_data):
        from captum.attr import IntegratedGradients

        gradients = IntegratedGradients(self.model)
        found = gradients.attribute(data_preprocess, target=2, n_steps=4)
        return [round(float(found.sum()), 3)]
"""
)
DETECTOR = """
import torch


class Boxes(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.least = torch.nn.Parameter(torch.zeros(1))

    def forward(self, pictures):
        found = {
            "boxes": torch.tensor([[1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 1.0, 1.0]]),
            "labels": torch.tensor([1, 2]),
            "scores": torch.tensor([0.75, 0.25]),
        }
        return [found for _ in pictures]
"""


class Brightness(torch.nn.Module):
    """Logits of six classes from a picture: its mean times 0, 1, 2, ..."""

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """`[N, 3, H, W]` to `[N, 6]`."""
        mean = pictures.mean(dim=[1, 2, 3])
        return mean.unsqueeze(1) * torch.arange(6.0)


class Halves(torch.nn.Module):
    """Two classes a pixel: the first is likelier where the picture is darker than its mean."""

    def forward(self, pictures: torch.Tensor) -> dict[str, torch.Tensor]:
        """`[N, 3, H, W]` to `{"out": [N, 2, 2, 2]}`."""
        small = torch.nn.functional.adaptive_avg_pool2d(pictures.mean(1, keepdim=True), 2)
        return {"out": torch.cat([-small, small], 1)}


class Sums(torch.nn.Module):
    """The sum of each row, twice."""

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """`[N, n]` to `[N, 2]`."""
        return rows.sum(1, keepdim=True) * torch.tensor([[1.0, 2.0]])


def scripted(module: torch.nn.Module) -> bytes:
    """The bytes of a TorchScript file."""
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(module.eval()), buffer)
    return buffer.getvalue()


def saved(value: Any) -> bytes:
    """What torch.save writes."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def picture(kind: str = "PNG", size: tuple[int, int] = (320, 300), level: int = 200) -> str:
    """A picture file: dark on the left, `level` on the right; as latin-1 text for JSON."""
    array = np.zeros((size[1], size[0], 3), np.uint8)
    array[:, size[0] // 2 :] = level
    return _file(Image.fromarray(array), kind)


def digit(row: int) -> str:
    """A grey picture of 28x28, white in one row."""
    array = np.zeros((28, 28), np.uint8)
    array[row] = 255
    return _file(Image.fromarray(array), "PNG")


def _file(image: Image.Image, kind: str) -> str:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue().decode("latin-1")


def files() -> dict[str, tuple[str, dict[str, bytes | str], dict[str, str]]]:
    """Name -> handler, files and the manifest's other fields, of every example."""
    names = json.dumps({str(index): f"class {index}" for index in range(6)})
    weights = {"net.pt": saved({"scale": torch.ones(1)}), "net.py": NET}
    net = {"serializedFile": "net.pt", "modelFile": "net.py"}
    small = {"small.pt": scripted(Brightness()), "index_to_name.json": names}
    sums = {"sums.pt": scripted(Sums())}
    micro = "micro_batching:\n  micro_batch_size: 2\n  parallelism: {preprocess: 2, inference: 1}\n"
    return {
        "mnist": ("mnist.py", {**weights, "mnist.py": MNIST}, net),
        "metrics": ("metrics.py", {**weights, "metrics.py": METRICS}, net),
        "classifier": ("image_classifier", small, {"serializedFile": "small.pt"}),
        "segmenter": (
            "image_segmenter",
            {"halves.pt": scripted(Halves())},
            {"serializedFile": "halves.pt"},
        ),
        "detector": (
            "object_detector",
            {
                "boxes.pth": saved({"least": torch.zeros(1)}),
                "boxes.py": DETECTOR,
                "index_to_name.json": json.dumps({"object_type_names": ["none", "cat", "dog"]}),
            },
            {"serializedFile": "boxes.pth", "modelFile": "boxes.py"},
        ),
        "micro": (
            "micro.py",
            {**small, "micro.py": MICRO, "config.yaml": micro},
            {"serializedFile": "small.pt", "configFile": "config.yaml"},
        ),
        "stream": ("stream.py", {"stream.py": STREAM}, {}),
        "function": (
            "function:answer",
            {**sums, "function.py": FUNCTION},
            {"serializedFile": "sums.pt"},
        ),
        "package": (
            "lengths.py",
            {
                **sums,
                "lengths.py": PACKAGE,
                "words/__init__.py": "def cleaned(text):\n    return text.strip()\n",
            },
            {"serializedFile": "sums.pt"},
        ),
        "explain": ("explain.py", {**weights, "explain.py": EXPLAIN}, net),
    }


def unpacked(folder: Path, name: str) -> Path:
    """An example as a folder that a worker loads."""
    handler, content, model = files()[name]
    target = folder / name
    described = {"model": {"modelName": name, "handler": handler, "modelVersion": "1.0", **model}}
    everything = {**content, "MAR-INF/MANIFEST.json": json.dumps(described)}
    for entry, data in everything.items():
        path = target / entry
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return target
