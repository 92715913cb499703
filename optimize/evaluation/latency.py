"""Latency of two models, measured side by side.

Each contestant runs in a process of its own, so that neither inherits the other's caches or
allocator; the two take turns in short rounds, so that a noisy machine slows both alike.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from optimize.errors import ModelError
from optimize.utils import pickles
from optimize.utils.bars import bar

ROUNDS = 10
ROUND_SECONDS = 0.12
# Big batches spend their time in the allocator otherwise; the handlers set the same with mallopt.
MALLOC = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "100000000000",
    "MALLOC_TOP_PAD_": "268435456",
}


@dataclass(frozen=True)
class Contestant:
    """A model file: TorchScript (`.pt` from `torchscript.save`) or a pickled eager module."""

    path: Path
    eager: bool = False
    engine: str | None = None


class _Runner:
    """One contestant in its own process, obeying one line of JSON at a time."""

    def __init__(self, contestant: Contestant, inputs: Path, threads: int) -> None:
        self.path = contestant.path
        job = {
            "path": str(contestant.path.absolute()),  # it runs in another folder
            "eager": contestant.eager,
            "engine": contestant.engine,
            "inputs": str(inputs.absolute()),
            "threads": threads,
        }
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "optimize.evaluation.latency", json.dumps(job)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=Path(__file__).resolve().parents[2],
            env={**os.environ, **MALLOC, "OMP_NUM_THREADS": str(threads)},
        )

    def run(self, batch: int, seconds: float) -> list[float]:
        """Call the model on `batch` inputs for about so many seconds; seconds of each call."""
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps([batch, seconds]) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise ModelError(f"{self.path} stopped while its latency was measured")
        times: list[float] = json.loads(line)
        return times

    def close(self) -> None:
        """End of input is the child's sign to leave."""
        try:
            self.process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()


def measure(
    contestants: dict[str, Contestant],
    inputs: Path,
    *,
    batches: tuple[int, ...] = (1, 8),
    threads: tuple[int, ...] = (1, 2),
    rounds: int = ROUNDS,
) -> dict[str, dict[str, dict[str, float]]]:
    """Latency of every contestant for every batch size and thread count, interleaved.

    Args:
        contestants: by name.
        inputs: file of one tensor of real inputs, at least max(batches), from `torch.save`.
        batches: batch sizes.
        threads: intra-op thread counts; more than the machine's cores are left out.
        rounds: turns each contestant takes.

    Returns:
        `{name: {"batch1_threads1": {"p50": ms, "p95": ms}, ...}}`, milliseconds per call.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = tuple(t for t in threads if t <= (cores or 1)) or (1,)
    found: dict[str, dict[str, dict[str, float]]] = {name: {} for name in contestants}
    total = len(threads) * len(batches) * rounds
    with bar(total=total, title="latency", unit="round") as shown:
        for count in threads:
            runners = {n: _Runner(c, inputs, count) for n, c in contestants.items()}
            try:
                for batch in batches:
                    times: dict[str, list[float]] = {name: [] for name in runners}
                    for runner in runners.values():  # first calls are slow: warm up
                        runner.run(batch, 0.3)
                    for _ in range(rounds):
                        for name, runner in runners.items():
                            times[name] += runner.run(batch, ROUND_SECONDS)
                        shown.update()
                    for name, values in times.items():
                        found[name][f"batch{batch}_threads{count}"] = percentiles(values)
            finally:
                for runner in runners.values():
                    runner.close()
    return found


def percentiles(seconds: list[float]) -> dict[str, float]:
    """`{"p50": ms, "p95": ms}` of at least two calls."""
    return {
        "p50": round(statistics.median(seconds) * 1e3, 4),
        "p95": round(statistics.quantiles(seconds, n=20)[18] * 1e3, 4),
    }


def _serve(job: dict[str, Any]) -> None:
    """The child's side: load, then time calls as told on standard input."""
    if job["engine"]:
        torch.backends.quantized.engine = job["engine"]
    torch.set_num_threads(job["threads"])
    path = Path(job["path"])
    model = pickles.load(path).eval() if job["eager"] else torch.jit.load(path)
    inputs = torch.load(job["inputs"], weights_only=True)
    with torch.inference_mode():
        for line in sys.stdin:
            batch, seconds = json.loads(line)
            piece = inputs[:batch].contiguous()
            times: list[float] = []
            end = time.perf_counter() + seconds
            while time.perf_counter() < end or len(times) < 5:
                start = time.perf_counter()
                model(piece)
                times.append(time.perf_counter() - start)
            print(json.dumps(times), flush=True)


if __name__ == "__main__":
    _serve(json.loads(sys.argv[1]))
