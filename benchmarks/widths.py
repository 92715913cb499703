"""Which channel counts int8 kernels like: time per useful multiply-accumulate, by width.

`python -m benchmarks.widths` lowers three 3x3 convolutions of every width and times them by
turns at one thread; 1.00 is the best width of 64 and less.
"""

import functools
import json
import statistics
from pathlib import Path

import torch
from torch import nn

from optimize.evaluation import environment, timer
from optimize.lowering import lower_int8

RESULT = Path(__file__).resolve().parent / "results" / "widths.json"
WIDTHS = (8, 12, 16, 20, 24, 28, 32, 36, 40, 48, 56, 60, 64, 72, 80, 96, 112, 128)
SIDE, BATCH, ROUNDS = 14, 8, 9


def _model(width: int) -> nn.Module:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for _ in range(3):
        layers += [nn.Conv2d(width, width, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers).eval()


def measure(engine: str) -> dict[int, float]:
    """Nanoseconds per thousand multiply-accumulates, by width."""
    built = {}
    for width in WIDTHS:
        data = [torch.randn(4, width, SIDE, SIDE)]
        lowered = lower_int8(_model(width), data, engine=engine)  # type: ignore[arg-type]
        x = torch.randn(BATCH, width, SIDE, SIDE).contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            traced = torch.jit.freeze(torch.jit.trace(lowered, x, check_trace=False))
        built[width] = (traced, x)
    with torch.inference_mode():
        times = timer.by_turns(
            {
                str(width): functools.partial(timer.burst, [functools.partial(model, x)])
                for width, (model, x) in built.items()
            },
            ROUNDS,
            seconds=0.03,
        )
    work = {width: 3 * BATCH * SIDE * SIDE * width * width * 9 for width in WIDTHS}
    return {w: 1e12 * statistics.median(times[str(w)]) / work[w] for w in WIDTHS}


def main() -> None:
    torch.set_num_threads(1)
    costs = {}
    for engine in ("fbgemm", "onednn"):
        torch.backends.quantized.engine = engine
        cost = measure(engine)
        best = min(cost[w] for w in WIDTHS if w <= 64)
        costs[engine] = {str(w): round(c / best, 2) for w, c in cost.items()}
    RESULT.parent.mkdir(exist_ok=True)
    result = {"machine": environment.describe(), "relative_cost": costs}
    RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print("width  " + "  ".join(f"{e:>7}" for e in costs))
    for width in WIDTHS:
        print(f"{width:5}  " + "  ".join(f"{costs[e][str(width)]:7.2f}" for e in costs))


if __name__ == "__main__":
    main()
