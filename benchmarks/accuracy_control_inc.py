"""Intel Neural Compressor's side of `accuracy_control`: its `autotune` over static int8
configurations, run through torch.compile with frozen weights, as its manual has it."""

import importlib
import time
from pathlib import Path
from typing import Any

import numpy as np


def build(folder: Path, max_drop: float) -> dict[str, Any]:
    """Tune until a configuration meets the budget; write the quantized program into `folder`.

    Its tolerance is relative to the float accuracy. It keeps no layers in float by itself: the
    configurations differ in how activation ranges are chosen.
    """
    import torch
    from neural_compressor.torch.export import export
    from neural_compressor.torch.quantization import (
        StaticQuantConfig,
        TuningConfig,
        autotune,
        convert,
        prepare,
    )

    from optimize.utils import pickles

    data = np.load(folder / "data.npz")
    images, targets = (torch.from_numpy(data[f"validation_{k}"]) for k in "xy")
    calibration = torch.from_numpy(data["calibration"]).split(50)
    model = pickles.load(folder / "float.pt").eval()
    calls = 0

    def accuracy(candidate: Any) -> float:
        nonlocal calls
        calls += 1
        with torch.no_grad():
            answers = torch.cat([candidate(x).argmax(1) for x in images.split(250)])
        return (answers == targets).float().mean().item()

    def calibrate(candidate: Any) -> None:
        for x in calibration:
            candidate(x)

    example = (calibration[0][:2],)
    shapes = ({0: torch.export.Dim("batch")},)
    start = time.perf_counter()
    program = export(model, example, dynamic_shapes=shapes)
    with torch.no_grad():
        base = accuracy(program)
    quantized = autotune(
        program,
        tune_config=TuningConfig(
            config_set=[StaticQuantConfig(), StaticQuantConfig(act_algo="kl")],
            tolerable_loss=max_drop / base,
        ),
        eval_fn=accuracy,
        run_fn=calibrate,
        example_inputs=example,
    )
    met = quantized is not None
    if quantized is None:
        prepared = prepare(export(model, example, dynamic_shapes=shapes), StaticQuantConfig())
        calibrate(prepared)
        quantized = convert(prepared)
    seconds = time.perf_counter() - start
    drop = base - accuracy(quantized)
    file = folder / "inc.pt2"
    torch.export.save(torch.export.export(quantized, example, dynamic_shapes=shapes), file)
    return {
        "bytes": file.stat().st_size,
        "seconds": seconds,
        "left_in_float": 0,
        "models_built": calls - 2,
        "validation_drop": drop,
        "met": met,
    }


def load(folder: Path) -> Any:
    """The quantized program as a callable on float32 or uint8 images `[N, C, H, W]`."""
    import torch
    import torch._inductor.config as inductor

    importlib.import_module(
        "torchao.quantization.pt2e.quantize_pt2e"
    )  # brings the file's operators
    inductor.freezing = True
    module = torch.export.load(folder / "inc.pt2").module()
    # One program per batch size: with the size free, 2.13 asserts a memory layout and fails.
    return torch.compile(module, dynamic=False)
