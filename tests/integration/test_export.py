"""`python -m optimize export` on an artifact of real pictures: files, report and exit codes."""

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch

from optimize.export import source
from optimize.pipeline.finished import Finished
from optimize.report import report
from optimize.run import run
from optimize.tasks.registry import read_recipe

RECIPE = """\
name: small
task: image_classification
seed: 3
data:
  fashion_mnist: {limit: 3000, validation: 600}
model: {"loud.py:build": {}}
stages:
  - train: {epochs: 2, batch_size: 64, learning_rate: 0.05}
budget: {max_drop: 0.9}
"""

# One channel a hundred thousand times louder than the others, and brought back: no trouble in
# float32, and the end of the other channels where one int8 scale serves them all.
LOUD = """\
import torch
from torch import nn

class Loud(nn.Module):
    def __init__(self):
        super().__init__()
        gain = torch.ones(1, 16, 1, 1)
        gain[0, 0] = 1e5
        self.register_buffer("gain", gain)
        self.first = nn.Conv2d(1, 16, 3, 2, 1)
        self.second = nn.Conv2d(16, 32, 3, 2, 1)
        self.head = nn.Linear(32, 10)

    def forward(self, pixels):
        x = torch.relu(self.first((pixels.float() - 73.0) / 90.0)) * self.gain
        x = torch.relu(self.second(torch.relu(x) / self.gain))
        return self.head(x.mean((2, 3)))

def build():
    return Loud()
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact with its recipe beside it, trained for seconds."""
    folder = tmp_path_factory.mktemp("export")
    (folder / "small.yaml").write_text(RECIPE, encoding="utf-8")
    (folder / "loud.py").write_text(LOUD, encoding="utf-8")
    output = folder / "small"
    run(read_recipe(folder / "small.yaml"), output, say=lambda line: None)
    return output


@pytest.fixture
def artifact(made: Path, tmp_path: Path) -> Path:
    """A copy to export into, its recipe beside it."""
    shutil.copytree(made.parent, tmp_path / "work")
    return tmp_path / "work" / "small"


def export(artifact: Path, *options: str, hide: str = "") -> subprocess.CompletedProcess[str]:
    """Run the command; `hide` makes a package look as if it were not installed."""
    start = (
        f"import sys, runpy; sys.modules.update(dict.fromkeys({hide.split()!r})); "
        "sys.argv[0] = 'optimize'; runpy.run_module('optimize', run_name='__main__')"
    )
    where = ["export", str(artifact), "--recipe", str(artifact.parent / "small.yaml")]
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", start, *where, *options],
        capture_output=True,
        text=True,
        check=False,
    )


def test_good_files_stay_and_bad_ones_are_deleted(artifact: Path) -> None:
    """Float32 passes; int8 loses the quiet channels, and an older unchecked file goes too."""
    stale = artifact / "exports" / "onnx-int8" / "model.onnx"
    stale.parent.mkdir(parents=True)
    stale.write_bytes(b"of an older model")
    ran = export(artifact, "--to", "onnx")
    assert ran.returncode == 8, ran.stderr
    assert "onnx-int8: refused and deleted" in ran.stdout
    assert "error: not exported: onnx-int8 (" in ran.stderr
    assert [path.name for path in (artifact / "exports").iterdir()] == ["onnx"]

    evidence = report.read(artifact)
    jsonschema.validate(evidence, json.loads(report.SCHEMA.read_text(encoding="utf-8")))
    assert list(evidence["exports"]) == ["onnx"]
    entry = evidence["exports"]["onnx"]
    path = artifact / entry["file"]
    assert path.is_file()
    assert entry["bytes"] == path.stat().st_size
    assert entry["samples"] == 500
    assert entry["accuracy"] == pytest.approx(evidence["original"]["accuracy"], abs=0.003)
    assert set(entry["parity_at"]) == {"batch 1", "batch 2", "batch 3", "batch 8"}
    assert set(entry["latency_ratios"]) == {"eager", "served"}
    assert entry["versions"]["torch"].startswith("2.13")

    # A later failure leaves a file that passed for this very model where it is.
    before = path.read_bytes()
    ran = export(artifact, "--to", "onnx", "--precision", "int8", "--no-latency")
    assert ran.returncode == 8
    assert path.read_bytes() == before
    assert list(report.read(artifact)["exports"]) == ["onnx"]


def test_a_package_that_is_missing_is_named_with_its_command(artifact: Path) -> None:
    ran = export(artifact, "--to", "onnx,openvino", hide="nncf")
    assert ran.returncode == 2
    assert ran.stderr.startswith("error: openvino needs nncf, not installed here")
    assert "make extras-openvino" in ran.stderr
    assert not (artifact / "exports").exists()  # nothing is begun


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--to", "onxx"], "no format 'onxx'; there are onnx, tflite"),
        (["--to", "onnx", "--precision", "int3"], "no precision 'int3' here"),
        (["--to", "onnx", "--recipe", "nowhere.yaml"], "there is no nowhere.yaml"),
        (["--to", "onnx", "--set", "data.fashion_mnist.limit=2000"], "loads other data"),
        (["--to", "onnx", "--set", "name=other"], "this is the recipe of 'other'"),
    ],
)
def test_what_cannot_be_exported_is_refused(
    artifact: Path, options: list[str], message: str
) -> None:
    ran = export(artifact, *options)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert message in ran.stderr


def _runs(child: str) -> bool:
    """Whether a process is there and is no zombie, which has no command line."""
    try:
        return bool(Path(f"/proc/{child}/cmdline").read_bytes())
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_an_interrupted_export_leaves_nothing(artifact: Path) -> None:
    """Nothing half-written, no converter that goes on; what a killed run left is swept up."""
    exports = artifact / "exports"
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    stale = exports / f".onnx.{ended.pid}.tmp"
    stale.mkdir(parents=True)
    process = subprocess.Popen(
        [
            *(sys.executable, "-W", "ignore", "-m", "optimize", "export", str(artifact)),
            *("--to", "onnx", "--recipe", str(artifact.parent / "small.yaml")),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    begun = exports / f".onnx.{process.pid}.tmp"
    deadline = time.monotonic() + 400
    while not begun.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert begun.exists()
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while not (found := children.read_text().split()) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)  # taken as Ctrl-C is
    _, told = process.communicate(timeout=300)
    assert process.returncode == 130, told
    assert "interrupted; files that passed are kept" in told
    assert "Traceback" not in told
    assert not list(exports.iterdir())
    assert found
    while any(map(_runs, found)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(_runs, found))
    assert report.read(artifact)["exports"] == {}


def test_an_artifact_without_its_stages_says_how_to_get_them(artifact: Path) -> None:
    shutil.rmtree(artifact / "stages")
    ran = export(artifact, "--to", "onnx")
    assert ran.returncode == 2
    assert "no stage of the run" in ran.stderr
    assert "python -m optimize run" in ran.stderr


def test_tensorflow_serving_clients_get_the_same_answers(artifact: Path, tmp_path: Path) -> None:
    """The real stub against a PredictionService over what was exported, any batch size."""
    for module in ("tensorflow", "torchax", "tensorflow_serving", "grpc"):
        if importlib.util.find_spec(module) is None and not os.environ.get("EXPORTS"):
            pytest.skip(f"{module} is not installed: make test-exports")
    ran = export(artifact, "--to", "savedmodel", "--no-latency")
    assert ran.returncode == 0, ran.stderr
    folder = artifact / "exports" / "savedmodel" / "small"
    assert (folder / "1" / "saved_model.pb").is_file()

    script = str(Path(__file__).with_name("predict_service.py"))
    used = read_recipe(artifact.parent / "small.yaml")
    module = source.final_state(used, artifact, report.read(artifact)).float_model
    kept = Finished(artifact / "stages" / "00-train").load_state(None)
    assert type(kept.float_model) is type(module)
    images = torch.randint(0, 256, (7, 1, 28, 28), dtype=torch.uint8)
    batches = {f"pixels:{n}": images[:n] for n in (1, 3, 7)}
    sent, received = tmp_path / "in.npz", tmp_path / "out.npz"
    np.savez(sent, **{key: value.numpy() for key, value in batches.items()})
    quiet = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    server = subprocess.Popen(
        [sys.executable, "-W", "ignore", script, "serve", "small", str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=quiet,
    )
    try:
        assert server.stdout is not None
        port = server.stdout.readline().strip()
        asked = [sys.executable, "-W", "ignore", script, "ask", port, "small", str(sent)]
        subprocess.run([*asked, str(received)], check=True, env=quiet, stderr=subprocess.DEVNULL)
    finally:
        server.communicate(timeout=60)
    answers = np.load(received)
    for key, batch in batches.items():
        with torch.no_grad():
            wanted = module(batch)
        torch.testing.assert_close(torch.from_numpy(answers[key]), wanted, rtol=1e-4, atol=1e-4)
