"""The same float model, calibration and accuracy budget for the accuracy control of NNCF, of
Intel Neural Compressor and ours: `make bench-accuracy-control`.

The others run under another Python when `--peers-python` names one. All decide on the
validation split; the reported drop is on the test split, which none of them uses.
"""

import argparse
import functools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import accuracy_control_inc
from benchmarks.contestant import Contestant, answer_questions
from optimize.evaluation import timer

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "accuracy_control.json"
ROUNDS, SECONDS = 12, 0.25


def _prepare(artifact: Path, folder: Path, calibration: int) -> None:
    """Write the float model, as ONNX and as a module, and the data into `folder`."""
    import torch

    from optimize.data import fashion_mnist
    from optimize.evaluation import environment
    from optimize.pipeline.finished import Finished
    from optimize.utils import pickles

    data = fashion_mnist.load(validation=5000)
    assert data.train is not None and data.validation is not None
    model = Finished(artifact / "stages" / "00-train").load_state(None).model.eval()
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randperm(len(data.train), generator=generator)[:calibration]
    arrays = {"calibration": data.train.inputs[chosen].numpy()}
    for name, split in (("validation", data.validation), ("test", data.test)):
        arrays[f"{name}_x"], arrays[f"{name}_y"] = split.inputs.numpy(), split.targets.numpy()
    np.savez(folder / "data.npz", **arrays)
    torch.onnx.export(
        model,
        (torch.from_numpy(arrays["test_x"][:2]),),
        str(folder / "float.onnx"),
        dynamo=True,
        external_data=False,
        input_names=["x"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
    )
    pickles.save(model, folder / "float.pt")
    print(environment.processor(), file=sys.stderr)


def build_ours(folder: Path, max_drop: float) -> dict[str, Any]:
    import torch

    from optimize.data.dataset import Split
    from optimize.pruning.sensitivity import accuracy_on
    from optimize.quantization.quantize import QuantizeOptions, quantize
    from optimize.utils import pickles, torchscript

    data = np.load(folder / "data.npz")
    model = pickles.load(folder / "float.pt")
    images, targets = (torch.from_numpy(data[f"validation_{k}"]) for k in "xy")
    calibration = torch.from_numpy(data["calibration"])
    details: dict[str, Any] = {}
    start = time.perf_counter()
    options = QuantizeOptions(calibration=len(calibration), max_drop=max_drop)
    accuracy = accuracy_on(Split(images, targets), len(images))
    quantized = quantize(model, calibration, options, accuracy=accuracy, details=details)
    seconds = time.perf_counter() - start
    file = folder / "ours.pt"
    size = torchscript.save(torchscript.script(quantized, calibration[:1]), file)
    return {
        "bytes": size,
        "seconds": seconds,
        "left_in_float": len(details["left_in_float"]),
        "models_built": len(details["trials"]),
        "validation_drop": details["drop"],
        "engine": quantized.engine,
    }


def build_nncf(folder: Path, max_drop: float) -> dict[str, Any]:
    import nncf
    import openvino as ov

    data = np.load(folder / "data.npz")
    calls = 0

    def validate(model: Any, items: Any) -> tuple[float, None]:
        nonlocal calls
        calls += 1
        right = total = 0
        for x, y in items:
            right += int((next(iter(model(x).values())).argmax(1) == y).sum())
            total += len(y)
        return right / total, None

    x, y = data["validation_x"], data["validation_y"]
    batches = [(x[i : i + 250], y[i : i + 250]) for i in range(0, len(x), 250)]
    start = time.perf_counter()
    network = nncf.quantize_with_accuracy_control(
        ov.convert_model(folder / "float.onnx"),
        nncf.Dataset([image[None] for image in data["calibration"]]),
        nncf.Dataset(batches, lambda item: item),
        validate,
        max_drop=max_drop,
        subset_size=len(data["calibration"]),
    )
    seconds = time.perf_counter() - start
    ov.save_model(network, folder / "nncf.xml", compress_to_fp16=False)
    kinds = [op.get_type_name() for op in network.get_ops()]
    layers = [op for op in network.get_ops() if op.get_type_name() in ("Convolution", "MatMul")]

    def quantized(op: Any) -> bool:
        return all(_is_quantized(op.input_value(i).get_node()) for i in range(2))

    return {
        "bytes": sum((folder / f"nncf.{s}").stat().st_size for s in ("xml", "bin")),
        "seconds": seconds,
        "left_in_float": sum(not quantized(op) for op in layers),
        "models_built": calls,
        "fake_quantize": kinds.count("FakeQuantize"),
    }


def _is_quantized(node: Any) -> bool:
    """Whether a value is quantized, looking through operators that reshape or rescale it."""
    for _ in range(4):
        if node.get_type_name() == "FakeQuantize":
            return True
        if node.get_type_name() not in ("Multiply", "Subtract", "Convert", "Reshape", "MaxPool"):
            return False
        if node.get_type_name() == "Convert" and str(node.get_input_element_type(0)) in (
            "<Type: 'int8_t'>",
            "<Type: 'uint8_t'>",
        ):
            return True
        node = node.input_value(0).get_node()
    return False


def serve(folder: Path, name: str, engine: str) -> None:
    """Answer "accuracy" with the test accuracy, `[batch, seconds]` with the seconds of calls."""

    def load() -> Callable[[Any], Any]:
        data = np.load(folder / "data.npz")
        x, y = data["test_x"], data["test_y"]
        call, inputs = (
            _load_openvino(folder, x) if name == "nncf" else _load(folder, name, engine, x)
        )

        def answer(question: Any) -> Any:
            if question == "accuracy":
                right = sum(
                    int((call(inputs[i : i + 250]).argmax(1) == y[i : i + 250]).sum())
                    for i in range(0, len(y), 250)
                )
                return right / len(y)
            batch, seconds = question
            return timer.burst([functools.partial(call, inputs[:batch])], seconds)

        return answer

    answer_questions(load)


def _load_openvino(folder: Path, x: Any) -> tuple[Callable[[Any], Any], Any]:
    """NNCF's model as a function from images to logits, both arrays, and its inputs."""
    import openvino as ov

    options = {"INFERENCE_NUM_THREADS": 1, "PERFORMANCE_HINT": "LATENCY"}
    compiled = ov.Core().compile_model(folder / "nncf.xml", "CPU", options)
    return lambda images: next(iter(compiled(images).values())), x


def _load(folder: Path, name: str, engine: str, x: Any) -> tuple[Callable[[Any], Any], Any]:
    """A PyTorch contestant as a function from images to an array of logits, and its inputs."""
    import torch

    torch.set_num_threads(1)
    if engine:
        torch.backends.quantized.engine = engine
    if name == "float":
        from optimize.utils import pickles

        model = pickles.load(folder / "float.pt").eval()
    elif name == "inc":
        model = accuracy_control_inc.load(folder)
    else:
        model = torch.jit.load(str(folder / "ours.pt"))

    def call(images: Any) -> Any:
        with torch.no_grad():
            return model(images).numpy()

    return call, torch.from_numpy(x)


def _command(python: str, verb: str, folder: Path, *rest: str) -> list[str]:
    module = "benchmarks.accuracy_control"
    return [python, "-W", "ignore", "-m", module, "--verb", verb, "--folder", str(folder), *rest]


def _run(python: str, verb: str, folder: Path, *rest: str) -> dict[str, Any]:
    finished = subprocess.run(
        _command(python, verb, folder, *rest), stdout=subprocess.PIPE, text=True, check=True,
        cwd=ROOT,
    )  # fmt: skip
    result: dict[str, Any] = json.loads(finished.stdout.strip().splitlines()[-1])
    return result


def _burst(contestant: Contestant, batch: int, seconds: float) -> list[float]:
    """Seconds of each call in a burst of about `seconds`."""
    times: list[float] = contestant.ask([batch, seconds])
    return times


def compare(artifact: Path, max_drop: float, peers_python: str) -> dict[str, Any]:
    """Build all, measure them by turns at one thread."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        _prepare(artifact, folder, 300)
        own = sys.executable
        pythons = {"float": own, "ours": own, "nncf": peers_python, "inc": peers_python}
        rows: dict[str, dict[str, Any]] = {"float": {}}
        for name in ("ours", "nncf", "inc"):
            rows[name] = _run(pythons[name], f"build-{name}", folder, "--max-drop", str(max_drop))
        contestants: dict[str, Contestant] = {}
        try:
            for name, row in rows.items():
                engine = str(row.pop("engine", "") or "")
                contestants[name] = Contestant(
                    _command(pythons[name], "serve", folder, name, engine)
                )
                row["accuracy"] = contestants[name].ask("accuracy")
            for batch in (1, 8):
                bursts = {n: functools.partial(_burst, c, batch) for n, c in contestants.items()}
                for name, times in timer.by_turns(bursts, ROUNDS, SECONDS).items():
                    rows[name][f"ms_batch{batch}"] = timer.percentiles(times)["p50"]
        finally:
            for contestant in contestants.values():
                contestant.close()
    for row in rows.values():
        row["drop"] = rows["float"]["accuracy"] - row["accuracy"]
        for batch in (1, 8):
            key = f"ms_batch{batch}"
            row[f"speed_batch{batch}"] = round(rows["float"][key] / row[key], 2)
    return {"max_drop": max_drop, "rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--artifact", type=Path, default=ROOT / "artifacts" / "fashion")
    parser.add_argument("--max-drop", type=float, action="append")
    parser.add_argument("--peers-python", default=sys.executable)
    parser.add_argument("--verb", default="compare")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("rest", nargs="*")
    arguments = parser.parse_args()
    drops = arguments.max_drop or [0.002]
    if arguments.verb == "serve":
        serve(arguments.folder, arguments.rest[0], *arguments.rest[1:2] or [""])
        return
    if arguments.verb.startswith("build-"):
        builders = {"ours": build_ours, "nncf": build_nncf, "inc": accuracy_control_inc.build}
        build = builders[arguments.verb.removeprefix("build-")]
        print("\n" + json.dumps(build(arguments.folder, drops[0])))
        return
    from optimize.evaluation import environment

    budgets = [compare(arguments.artifact, drop, arguments.peers_python) for drop in drops]
    result = {
        "model": "ResNet-20 on Fashion-MNIST, 300 images to calibrate, 5,000 to decide, 10,000 "
        "to report; one thread",
        "machine": environment.describe(),
        "budgets": budgets,
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    for budget in budgets:
        print(f"budget {budget['max_drop']:.4f}")
        for name, row in budget["rows"].items():
            print(f"  {name:6}", {k: round(v, 5) for k, v in row.items()})


if __name__ == "__main__":
    main()
