"""The command itself: its exit codes, and what a full disk or Ctrl-C leaves behind."""

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from optimize.report import report
from optimize.tasks.registry import read_recipe
from tests.unit.optimize.recipe.test_read import BAD

ROOT = Path(__file__).resolve().parents[3]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
LINEAR = """\
name: linear
task: image_classification
data: mine.py:loaders
model: mine.py:build
stages:
  - train: {epochs: 2, batch_size: 16, flip: false}
  - train: {epochs: EPOCHS, batch_size: 16, flip: false}
budget: {max_drop: 0.9}
"""
MINE = """\
import torch
from torch import nn

def loaders(count=90):
    labels = torch.arange(count) % 3
    images = (labels * 90)[:, None, None, None].expand(-1, 1, 12, 12).to(torch.uint8)
    return {"train": (images[30:], labels[30:]), "test": (images[:30], labels[:30])}

class Wide(nn.Module):
    def __init__(self, classes, width):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(144, width), nn.ReLU(), nn.Linear(width, classes))

    def forward(self, x):
        return self.body((x / 255.0).flatten(1))

def build(classes, width=64):
    return Wide(classes, width)
"""


def optimize(
    *arguments: str, limit: Callable[[], None] | None = None
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "optimize", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env=ENVIRONMENT, preexec_fn=limit,
        check=False,
    )  # fmt: skip


def project(folder: Path, epochs: int = 2) -> Path:
    (folder / "mine.py").write_text(MINE)
    path = folder / "linear.yaml"
    path.write_text(LINEAR.replace("EPOCHS", str(epochs)))
    return path


IN_ONE = """\
import sys
from optimize.__main__ import main
for path in sys.argv[1:]:
    sys.argv = ["optimize", "run", path, "--output", path + ".out"]
    print(main(), flush=True)
    print("----", file=sys.stderr, flush=True)
"""


def test_every_bad_recipe_ends_the_command_with_2_line_and_remedy(tmp_path: Path) -> None:
    """The real `main`, all recipes in one process: importing torch forty times takes minutes."""
    paths = []
    for number, (_, text, _, _) in enumerate(BAD):
        paths.append(tmp_path / f"{number:02}.yaml")
        paths[-1].write_text(text, encoding="utf-8")
    assert len(paths) >= 35
    ran = subprocess.run(
        [sys.executable, "-c", IN_ONE, *map(str, paths)],
        capture_output=True, text=True, cwd=ROOT, env=ENVIRONMENT, check=False,
    )  # fmt: skip
    assert ran.stdout.split() == ["2"] * len(paths), ran.stderr[-2000:]
    messages = ran.stderr.split("----\n")
    for path, message, (title, _, line, word) in zip(paths, messages, BAD, strict=False):
        where = f"{path}:{line}: " if line else f"{path}:"
        assert message.startswith(f"error: {where}"), title
        assert word in message and "Traceback" not in message, title
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".yaml"] * len(paths)  # nothing begun


@pytest.mark.parametrize("kind", ["report", "compare"])
def test_a_folder_that_is_no_artifact_ends_with_2(tmp_path: Path, kind: str) -> None:
    ran = optimize(kind, *[str(tmp_path)] * (2 if kind == "compare" else 1))
    assert ran.returncode == 2
    assert ran.stderr.startswith(f"error: {tmp_path} has no report.json")


@pytest.mark.slow
def test_a_full_disk_loses_nothing_finished(tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk: writing beyond it fails as a full one."""
    path, folder = project(tmp_path), tmp_path / "out"
    assert optimize("run", str(path), "--output", str(folder)).returncode == 0
    before = {f: (folder / f).read_bytes() for f in ("model.pt", "model.json", "report.json")}

    def small_files() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (16_384, 16_384))

    ran = optimize(
        "run", str(path), "--output", str(folder), "--resume",
        "--set", "stages.1.train.epochs=3", limit=small_files,
    )  # fmt: skip
    assert ran.returncode == 7, ran.stderr
    assert "Traceback" not in ran.stderr and "error: " in ran.stderr
    assert "train: finished before, kept" in ran.stdout
    assert {f: (folder / f).read_bytes() for f in before} == before
    assert (folder / "stages" / "00-train" / "state.pt").is_file()
    assert not list(folder.rglob("*.tmp"))


@pytest.mark.long
@pytest.mark.slow
def test_ctrl_c_in_a_stage_keeps_the_finished_ones(tmp_path: Path) -> None:
    path, folder = project(tmp_path, epochs=100_000), tmp_path / "out"
    command = [sys.executable, "-m", "optimize", "run", str(path), "--output", str(folder)]
    process = subprocess.Popen(
        command, cwd=ROOT, env=ENVIRONMENT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        # Shells start background jobs, these tests perhaps among them, with Ctrl-C ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if "train: " in line:  # the first is finished, the second takes an hour
                break
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 130, errors
    assert "interrupted; finished stages are kept: add --resume" in errors
    assert "Traceback" not in errors
    assert (folder / "stages" / "00-train" / "state.pt").is_file()
    assert not (folder / "report.json").exists()

    project(tmp_path, epochs=2)
    again = optimize("run", str(path), "--output", str(folder), "--resume")
    assert again.returncode == 0, again.stderr
    assert "train: finished before, kept" in again.stdout
    found = report.read(folder)
    assert found["command"] == f"python -m optimize run {path}"
    assert found["digest"].endswith(read_recipe(path).digest())


WITH_LIMITS = """\
import resource, signal, sys
from optimize.__main__ import main
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
recipe, folder = sys.argv[1:]
for size in (10, 1_000, 8_000, 30_000):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    code = main(["run", recipe, "--output", f"{folder}/{size}"])
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    print("code", code, flush=True)
for arguments in (["report", f"{folder}/whole", "--html"], ["compare", *[f"{folder}/whole"] * 2]):
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, resource.RLIM_INFINITY))
    code = main(arguments)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    print("code", code, flush=True)
"""


@pytest.mark.long
@pytest.mark.slow
def test_wherever_the_disk_is_full_it_ends_with_7_and_a_sentence(tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk; each one stops another writer."""
    path = project(tmp_path)
    assert optimize("run", str(path), "--output", str(tmp_path / "whole")).returncode == 0
    before = (tmp_path / "whole" / "report.html").read_bytes()
    ran = subprocess.run(
        [sys.executable, "-c", WITH_LIMITS, str(path), str(tmp_path)],
        capture_output=True, text=True, cwd=ROOT, env=ENVIRONMENT, check=False,
    )  # fmt: skip
    codes = [line for line in ran.stdout.splitlines() if line.startswith("code ")]
    assert codes == ["code 7"] * 5 + ["code 0"], ran.stderr[-3000:]
    assert "Traceback" not in ran.stderr and ran.stderr.count("error: ") == 5, ran.stderr[-3000:]
    assert not list(tmp_path.rglob("*.tmp"))
    assert [file.parent.name for file in tmp_path.glob("*/report.json")] == ["whole"]
    assert (tmp_path / "whole" / "report.html").read_bytes() == before


def test_an_output_that_is_full_ends_with_7(tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        ran = subprocess.run(
            [sys.executable, "-m", "optimize", "run", str(project(tmp_path)),
             "--output", str(tmp_path / "out")],
            stdout=full, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=ENVIRONMENT, check=False,
        )  # fmt: skip
    assert ran.returncode == 7, ran.stderr
    assert ran.stderr.strip().splitlines()[-1].startswith("error: no space left")
    assert "Traceback" not in ran.stderr


def test_an_output_folder_that_cannot_be_is_said(tmp_path: Path) -> None:
    path = project(tmp_path)
    (tmp_path / "file").touch()
    ran = optimize("run", str(path), "--output", str(tmp_path / "file" / "out"))
    assert ran.returncode == 7 and "choose another --output" in ran.stderr
    assert "Traceback" not in ran.stderr
