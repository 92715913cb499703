"""Images a second on a GPU: the handler against the bare model (goal: 80 %).

    python -m benchmarks.gpu [--precision fp16] [--batch 32] [--seconds 5]

For whoever has a card and a CUDA build of PyTorch; nothing here was measured by its authors. It
needs no artifact and no network: the network is a ResNet-50's worth of convolutions with random
weights, in TorchScript, half precision, `channels_last`. Three rates, by turns:

* `model`: the file alone, on a batch that lies on the card;
* `copied`: the same, from pinned memory, the next batch copied while this one is computed;
* `handled`: JPEGs through our own decoding in as many threads as there are cores, then the same.

Prints JSON with the card's name, driver and PyTorch's version; `handled_of_model` is the figure.
"""

import argparse
import io
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from PIL import Image
from torch import nn

from handlers.images import ImageSpec, load_image

_PRECISIONS = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
_STAGES = ((64, 256, 3), (128, 512, 4), (256, 1024, 6), (512, 2048, 3))
ROUNDS = 3


class Bottleneck(nn.Module):
    """A residual block of He et al. 2015, figure 5."""

    def __init__(self, inside: int, middle: int, outside: int, stride: int) -> None:
        super().__init__()
        self.path = nn.Sequential(
            *(nn.Conv2d(inside, middle, 1, bias=False), nn.BatchNorm2d(middle), nn.ReLU()),
            nn.Conv2d(middle, middle, 3, stride, 1, bias=False),
            *(nn.BatchNorm2d(middle), nn.ReLU()),
            *(nn.Conv2d(middle, outside, 1, bias=False), nn.BatchNorm2d(outside)),
        )
        same = stride == 1 and inside == outside
        self.short = nn.Identity() if same else nn.Conv2d(inside, outside, 1, stride, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.path(x) + self.short(x))


class Network(nn.Module):
    """uint8 [N, 3, 224, 224] to logits [N, 1000], normalised on the card."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        blocks: list[nn.Module] = [
            nn.Conv2d(3, 64, 7, 2, 3, bias=False),
            *(nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)),
        ]
        inside = 64
        for number, (middle, outside, count) in enumerate(_STAGES):
            for block in range(count):
                stride = 2 if number and not block else 1
                blocks.append(Bottleneck(inside, middle, outside, stride))
                inside = outside
        self.blocks = nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(inside, 1000)
        self.dtype = dtype

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.to(self.dtype).div(127.5).sub(1.0).contiguous(memory_format=torch.channels_last)
        logits: torch.Tensor = self.head(self.blocks(x))
        return logits


def network(dtype: torch.dtype, device: str, batch: int) -> Any:
    """The traced and frozen network on the device."""
    model = Network(dtype).eval().to(device, dtype, memory_format=torch.channels_last)
    example = torch.zeros(batch, 3, 224, 224, dtype=torch.uint8, device=device)
    with torch.inference_mode():
        return torch.jit.freeze(torch.jit.trace(model, example))


def picture() -> bytes:
    """A JPEG of 512 x 512 pixels that does not compress well."""
    noise = torch.randint(0, 256, (64, 64, 3), dtype=torch.uint8, generator=_generator())
    stream = io.BytesIO()
    Image.fromarray(noise.numpy()).resize((512, 512)).save(stream, "JPEG", quality=90)
    return stream.getvalue()


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def rate(step: Callable[[], int], synchronise: Callable[[], None], seconds: float) -> float:
    """Images a second of a function that starts some and says how many."""
    step()
    synchronise()
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        count += step()
    synchronise()
    return count / (time.perf_counter() - start)


def measure(device: str, dtype: torch.dtype, batch: int, seconds: float) -> dict[str, float]:
    """The three rates, each the median of ROUNDS, and the handled one's share of the model's."""
    model = network(dtype, device, batch)
    cuda = device == "cuda"
    spec = ImageSpec(224, 224, 3, resize_size=256)
    jpegs = [picture()] * batch
    waiting = torch.zeros(2, batch, 3, 224, 224, dtype=torch.uint8, pin_memory=cuda)
    there = waiting[0].to(device)
    pool = ThreadPoolExecutor(os.cpu_count() or 1)

    def decode(place: torch.Tensor) -> None:
        for row, pixels in zip(place, pool.map(lambda j: load_image(j, spec), jpegs), strict=True):
            row.copy_(pixels)

    def run(images: torch.Tensor) -> int:
        with torch.inference_mode():
            model(images)
        return batch

    def turns() -> Iterator[int]:
        while True:
            yield from (0, 1)

    turn = turns()
    decoding = ThreadPoolExecutor(1)
    following = decoding.submit(decode, waiting[0])
    at = 0

    def handled() -> int:
        nonlocal following, at
        following.result()
        ready = waiting[at]
        at = 1 - at
        # While this batch is computed the next is decoded, into memory that nothing reads now.
        following = decoding.submit(decode, waiting[at])
        count = run(ready.to(device, non_blocking=True))
        if cuda:
            torch.cuda.current_stream().synchronize()
        return count

    steps: dict[str, Callable[[], int]] = {
        "model": lambda: run(there),
        "copied": lambda: run(waiting[next(turn)].to(device, non_blocking=True)),
        "handled": handled,
    }
    synchronise = torch.cuda.synchronize if cuda else lambda: None
    found: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(ROUNDS):
        for name, step in steps.items():
            found[name].append(rate(step, synchronise, seconds))
    following.result()
    decoding.shutdown()
    pool.shutdown()
    rates = {name: round(statistics.median(values), 1) for name, values in found.items()}
    return {**rates, "handled_of_model": round(rates["handled"] / rates["model"], 3)}


def main() -> int:
    """Measure and print; 2 without a card, unless --device says otherwise."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--precision", default="fp16", choices=_PRECISIONS)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=5.0)
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        print("no CUDA device: this needs a card and a CUDA build of PyTorch", file=sys.stderr)
        return 2
    card = torch.cuda.get_device_name() if arguments.device == "cuda" else "no card"
    found = {
        "card": card,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cores": os.cpu_count(),
        "precision": arguments.precision,
        "batch": arguments.batch,
        **measure(
            arguments.device,
            _PRECISIONS[arguments.precision],
            arguments.batch,
            arguments.seconds,
        ),
    }
    print(json.dumps(found, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
