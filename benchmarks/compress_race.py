"""Contestants in processes of their own, taking turns in short bursts.

`python compress_race.py MODEL CONTESTANT BATCH THREADS WORK` is one contestant's process; the
functions here start such processes and race them.
"""

import functools
import json
import os
import statistics
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
# malloc's defaults return big activations to the system after every call, and dominate.
MALLOC = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "100000000000",
    "MALLOC_TOP_PAD_": "268435456",
}
BURST = 0.3  # seconds
GRID = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)


def serve(model: str, contestant: str, batch: int, threads: int, work: Path) -> None:
    """Answer each line with the milliseconds per call of a burst of as many seconds."""
    import compress_contestants
    import compress_zoo
    import torch

    from optimize.evaluation import timer

    torch.set_num_threads(threads)
    entry = compress_zoo.ZOO[model]
    suffix, _, load = compress_contestants.CONTESTANTS[contestant]
    timed = entry.timed(batch)
    given = torch.nn.Identity()
    if contestant in ("eager", "compile"):
        given = compress_zoo.load(model, work)
    with torch.inference_mode():
        call = load(given, work / f"{model}{suffix}", threads, timed[0], entry.varied)

        def run() -> None:
            for x in timed:
                call(x)

        for _ in range(4):
            run()
        print("ready", flush=True)
        for line in sys.stdin:
            times = timer.burst([run], float(line))
            print(json.dumps([1e3 * seconds / len(timed) for seconds in times]), flush=True)


def spawn(
    script: str, *arguments: str, work: Path, threads: int = 2, cores: str = "", **options: Any
) -> subprocess.Popen[str]:
    """One of this folder's scripts, with the same malloc and threads for everybody, bound to
    `cores` (`"0,1"`) if any are named. What torch.compile makes stays in the work folder."""
    environment = {
        **os.environ,
        **MALLOC,
        "TORCHINDUCTOR_CACHE_DIR": str(work / "inductor"),
        "TORCHINDUCTOR_COMPILE_THREADS": "1",
        "OMP_NUM_THREADS": str(threads),
        "PYTHONWARNINGS": "ignore",
        "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent)]),
    }
    command = [sys.executable, str(HERE / script), *arguments]
    process = subprocess.Popen(command, env=environment, text=True, **options)
    if cores:
        os.sched_setaffinity(process.pid, {int(core) for core in cores.split(",")})
    return process


@dataclass
class Runner:
    """One contestant's process and its milliseconds per call so far."""

    name: str
    process: subprocess.Popen[str]
    times: list[float] = field(default_factory=list)

    def read(self) -> str | None:
        assert self.process.stdout is not None
        while line := self.process.stdout.readline():
            if line.startswith(("ready", "[")):
                return line
        return None

    def burst(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{BURST}\n")
        self.process.stdin.flush()
        self.times.extend(json.loads(self.read() or "[]"))

    def close(self) -> float:
        """End the process; the median of the faster half of its times."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()
        fast = sorted(self.times)[: max(1, len(self.times) // 2)]
        return statistics.median(fast or [0.0])


def start(model: str, name: str, batch: int, threads: int, work: Path, cores: str) -> Runner | None:
    """A contestant that is loaded and warm; None when it cannot be."""
    words = [model, name, str(batch), str(threads), str(work)]
    with (work / f"{model}.{name}.log").open("a") as log:
        process = spawn(
            "compress_race.py",
            *words,
            work=work,
            threads=threads,
            cores=cores,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
        )
    runner = Runner(name, process)
    if runner.read() is None:
        process.wait()
        return None
    return runner


def race(
    model: str, names: list[str], batch: int, threads: int, rounds: int, work: Path, cores: str
) -> dict[str, float]:
    """Milliseconds per call, by contestant."""
    started = [start(model, name, batch, threads, work, cores) for name in names]
    runners = [runner for runner in started if runner is not None]
    for _ in range(rounds):
        for runner in runners:
            runner.burst()
    return {runner.name: runner.close() for runner in runners}


def compile_ahead(model: str, batch: int, threads: int, work: Path) -> bool:
    """Fill torch.compile's cache for one batch size and thread count; whether it could."""
    runner = start(model, "compile", batch, threads, work, "")
    if runner is not None:
        runner.close()
    return runner is not None


def walk(model: str, threads: int, work: Path) -> None:
    """Print our milliseconds per input by batch size, all on one loaded file."""
    import compress_contestants
    import compress_zoo
    import torch

    from optimize.evaluation import timer

    torch.set_num_threads(threads)
    entry = compress_zoo.ZOO[model]
    suffix, _, load = compress_contestants.CONTESTANTS["ours"]
    inputs = entry.inputs(1, 1) if entry.varied else entry.inputs(max(GRID), 1)
    inputs = inputs.expand(max(GRID), *inputs.shape[1:]).contiguous()
    found = {}
    with torch.inference_mode():
        call = load(torch.nn.Identity(), work / f"{model}{suffix}", threads, inputs, False)
        for batch in GRID:
            x = inputs[:batch]
            for _ in range(3):
                call(x)
            times = timer.burst([functools.partial(call, x)], BURST)
            found[batch] = 1e3 * statistics.median(sorted(times)[: (len(times) + 1) // 2]) / batch
    print(json.dumps(found), flush=True)


def grid(model: str, threads: int, work: Path, cores: str) -> dict[str, float]:
    """What `walk` finds in a fresh process; nothing when it fails."""
    words = [model, "walk", "0", str(threads), str(work)]
    with (work / f"{model}.walk.log").open("w") as log:
        process = spawn(
            "compress_race.py",
            *words,
            work=work,
            threads=threads,
            cores=cores,
            stdout=subprocess.PIPE,
            stderr=log,
        )
    output, _ = process.communicate()
    lines = [line for line in output.splitlines() if line.startswith("{")]
    found: dict[str, float] = json.loads(lines[-1]) if lines else {}
    return found


if __name__ == "__main__":
    MODEL, NAME, BATCH, THREADS, WORK = sys.argv[1:]
    if NAME == "walk":
        walk(MODEL, int(THREADS), Path(WORK))
    else:
        serve(MODEL, NAME, int(BATCH), int(THREADS), Path(WORK))
