"""The same float model, calibration and accuracy budget for the accuracy control of NNCF, of
Intel Neural Compressor and ours: `make bench-accuracy-control`.

The others run under another Python when `--peers-python` names one. All decide on the
validation split; the drop that is reported is on the test split, which none has seen.
"""

import argparse
import functools
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import accuracy_control_inc
from optimize.evaluation import timer

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "accuracy_control.json"
ROUNDS, SECONDS = 12, 0.25


def _prepare(artifact: Path, folder: Path, calibration: int) -> None:
    """The float model as ONNX and as a module, and the data, where both sides find them."""
    import torch

    from optimize.data import fashion_mnist
    from optimize.evaluation import environment
    from optimize.utils import pickles

    data = fashion_mnist.load(validation=5000)
    assert data.train is not None and data.validation is not None
    model = pickles.load(artifact / "stages" / "00-train" / "state.pt").model.eval()
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
    found = quantize(model, calibration, options, accuracy=accuracy, details=details)
    seconds = time.perf_counter() - start
    file = folder / "ours.pt"
    size = torchscript.save(torchscript.script(found, calibration[:1]), file)
    return {
        "bytes": size,
        "seconds": seconds,
        "left_in_float": len(details["left_in_float"]),
        "models_built": len(details["trials"]),
        "validation_drop": details["drop"],
        "engine": found.engine,
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
    found = nncf.quantize_with_accuracy_control(
        ov.convert_model(folder / "float.onnx"),
        nncf.Dataset([image[None] for image in data["calibration"]]),
        nncf.Dataset(batches, lambda item: item),
        validate,
        max_drop=max_drop,
        subset_size=len(data["calibration"]),
    )
    seconds = time.perf_counter() - start
    ov.save_model(found, folder / "nncf.xml", compress_to_fp16=False)
    kinds = [op.get_type_name() for op in found.get_ops()]
    layers = [op for op in found.get_ops() if op.get_type_name() in ("Convolution", "MatMul")]

    def quantized(op: Any) -> bool:
        return all(_is_fake(op.input_value(i).get_node()) for i in range(2))

    return {
        "bytes": sum((folder / f"nncf.{s}").stat().st_size for s in ("xml", "bin")),
        "seconds": seconds,
        "left_in_float": sum(not quantized(op) for op in layers),
        "models_built": calls,
        "fake_quantize": kinds.count("FakeQuantize"),
    }


def _is_fake(node: Any) -> bool:
    """Whether a value is quantized, looking through what reshapes or rescales it."""
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
    """Answer jobs on standard input: time calls of a batch size, or measure test accuracy."""
    data = np.load(folder / "data.npz")
    x, y = data["test_x"], data["test_y"]
    if name == "nncf":
        import openvino as ov

        options = {"INFERENCE_NUM_THREADS": 1, "PERFORMANCE_HINT": "LATENCY"}
        compiled = ov.Core().compile_model(folder / "nncf.xml", "CPU", options)

        def call(images: Any) -> Any:
            return next(iter(compiled(images).values()))

        inputs = x
    else:
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
        inputs = torch.from_numpy(x)

        def call(images: Any) -> Any:
            with torch.no_grad():
                return model(images).numpy()

    for line in sys.stdin:
        job = json.loads(line)
        if job == "accuracy":
            right = sum(
                int((call(inputs[i : i + 250]).argmax(1) == y[i : i + 250]).sum())
                for i in range(0, len(y), 250)
            )
            answer: Any = right / len(y)
        else:
            batch, seconds = job
            answer = timer.burst([functools.partial(call, inputs[:batch])], seconds)
        print("answer", json.dumps(answer), flush=True)


class _Contestant:
    def __init__(self, python: str, folder: Path, name: str, engine: str = "") -> None:
        self.process = subprocess.Popen(
            _command(python, "serve", folder, name, engine),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )

    def ask(self, job: Any) -> Any:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith("answer "):
                return json.loads(line[7:])
        raise RuntimeError("a contestant stopped")

    def turn(self, batch: int, seconds: float) -> list[float]:
        """Seconds of each call of a turn."""
        times: list[float] = self.ask([batch, seconds])
        return times

    def close(self) -> None:
        self.process.communicate(timeout=20)


def _command(python: str, verb: str, folder: Path, *rest: str) -> list[str]:
    module = "benchmarks.accuracy_control"
    return [python, "-W", "ignore", "-m", module, "--verb", verb, "--folder", str(folder), *rest]


def _run(python: str, verb: str, folder: Path, *rest: str) -> dict[str, Any]:
    ran = subprocess.run(
        _command(python, verb, folder, *rest), stdout=subprocess.PIPE, text=True, check=True,
        cwd=ROOT,
    )  # fmt: skip
    found: dict[str, Any] = json.loads(ran.stdout.strip().splitlines()[-1])
    return found


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
        racers = {
            name: _Contestant(pythons[name], folder, name, str(row.pop("engine", "") or ""))
            for name, row in rows.items()
        }
        try:
            for name, racer in racers.items():
                rows[name]["accuracy"] = racer.ask("accuracy")
            for batch in (1, 8):
                turns = {n: functools.partial(r.turn, batch) for n, r in racers.items()}
                for name, times in timer.by_turns(turns, ROUNDS, SECONDS).items():
                    rows[name][f"ms_batch{batch}"] = timer.percentiles(times)["p50"]
        finally:
            for racer in racers.values():
                racer.close()
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
    given = parser.parse_args()
    drops = given.max_drop or [0.002]
    if given.verb == "serve":
        serve(given.folder, given.rest[0], *given.rest[1:2] or [""])
        return
    if given.verb.startswith("build-"):
        builders = {"ours": build_ours, "nncf": build_nncf, "inc": accuracy_control_inc.build}
        build = builders[given.verb.removeprefix("build-")]
        print("\n" + json.dumps(build(given.folder, drops[0])))
        return
    from optimize.evaluation import environment

    found = [compare(given.artifact, drop, given.peers_python) for drop in drops]
    result = {
        "model": "ResNet-20 on Fashion-MNIST, 300 images to calibrate, 5,000 to decide, 10,000 "
        "to report; one thread",
        "machine": environment.describe(),
        "budgets": found,
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    for budget in found:
        print(f"budget {budget['max_drop']:.4f}")
        for name, row in budget["rows"].items():
            print(f"  {name:6}", {k: round(v, 5) for k, v in row.items()})


if __name__ == "__main__":
    main()
