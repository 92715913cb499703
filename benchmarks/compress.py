"""Speed of compressed models over eager float32: `python benchmarks/compress.py`.

Every contestant runs in a fresh process of its own, with the same malloc settings and thread
count; the processes take turns in short bursts, so that a slow minute of the machine falls on
all of them alike. Files are built once into the work folder and reused; `--rebuild` makes them
again. Results: `benchmarks/results/compress.json`.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
# malloc's defaults return big activations to the system after every call, and dominate.
MALLOC = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "100000000000",
    "MALLOC_TOP_PAD_": "268435456",
}
CALIBRATION = (8, 3)  # batches of this size, this many


def worker(model: str, contestant: str, batch: int, threads: int, work: Path) -> None:
    """Serve bursts: reads a burst's seconds per line, answers with milliseconds per call."""
    import compress_contestants
    import compress_zoo
    import torch

    torch.set_num_threads(threads)
    entry = compress_zoo.ZOO[model]
    suffix, _, load = compress_contestants.CONTESTANTS[contestant]
    example = entry.inputs(batch, 1)
    inputs = [entry.inputs(batch, seed) for seed in range(2, 6)]
    module = compress_zoo.load(model) if contestant in ("eager", "compile") else torch.nn.Identity()
    with torch.inference_mode():
        call = load(module, work / f"{model}{suffix}", threads, example)
        for _ in range(4):
            call(example)
        outputs = torch.cat([torch.as_tensor(call(x)).clone().float() for x in inputs])
        torch.save(outputs, work / f"{model}.{contestant}.{batch}.{threads}.out")
        print("ready", flush=True)
        for line in sys.stdin:
            until, times = time.perf_counter() + float(line), []
            while len(times) < 3 or time.perf_counter() < until:
                start = time.perf_counter()
                call(example)
                times.append((time.perf_counter() - start) * 1e3)
            print(json.dumps(times), flush=True)


def build(model: str, contestant: str, work: Path) -> None:
    """Build one contestant's file, in this process."""
    import compress_contestants
    import compress_zoo

    entry = compress_zoo.ZOO[model]
    suffix, make, _ = compress_contestants.CONTESTANTS[contestant]
    data = [entry.inputs(CALIBRATION[0], 100 + seed) for seed in range(CALIBRATION[1])]
    make(compress_zoo.load(model), entry.kind, data, work / f"{model}{suffix}")


def _spawn(*arguments: str, threads: int = 2, **options: Any) -> subprocess.Popen[str]:
    environment = {
        **os.environ,
        **MALLOC,
        "OMP_NUM_THREADS": str(threads),
        "PYTHONWARNINGS": "ignore",
        "PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]),
    }
    command = [sys.executable, str(Path(__file__).resolve()), *arguments]
    return subprocess.Popen(command, env=environment, text=True, **options)


@dataclass
class Runner:
    """One contestant's process."""

    name: str
    process: subprocess.Popen[str]
    times: list[float]

    def read(self) -> str | None:
        assert self.process.stdout is not None
        while line := self.process.stdout.readline():
            if line.startswith(("ready", "[")):
                return line
        return None


def race(
    model: str, names: list[str], batch: int, threads: int, rounds: int, work: Path, cores: str
) -> dict[str, dict[str, float]]:
    """Milliseconds per call (median of the faster half) and agreement with eager, by name."""
    import torch

    runners = []
    for name in names:
        prefix = ["--worker", name, "--models", model, "--batches", str(batch)]
        process = _spawn(
            *prefix,
            "--threads",
            str(threads),
            "--work",
            str(work),
            threads=threads,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        if cores:
            os.sched_setaffinity(process.pid, {int(c) for c in cores.split(",")})
        runners.append(Runner(name, process, []))
    live = [r for r in runners if r.read() is not None]
    for _ in range(rounds):
        for runner in live:
            assert runner.process.stdin is not None
            runner.process.stdin.write("0.3\n")
            runner.process.stdin.flush()
            runner.times.extend(json.loads(runner.read() or "[]"))
    results = {}
    reference = None
    for runner in live:
        assert runner.process.stdin is not None
        runner.process.stdin.close()
        runner.process.wait()
        file = work / f"{model}.{runner.name}.{batch}.{threads}.out"
        output = torch.load(file)
        file.unlink()
        reference = output if runner.name == "eager" else reference
        fast = sorted(runner.times)[: max(1, len(runner.times) // 2)]
        results[runner.name] = {"ms": statistics.median(fast)}
        if reference is not None:
            error = (output - reference).norm() / reference.norm()
            same = (output.argmax(1) == reference.argmax(1)).float().mean()
            results[runner.name] |= {"error": error.item(), "agreement": same.item()}
    for runner in runners:
        if runner not in live:
            runner.process.wait()
    return results


def row(
    model: str, batch: int, threads: int, results: dict[str, dict[str, float]]
) -> dict[str, Any]:
    """One row of compress.json: speeds over eager, None where a contestant failed."""
    eager = results["eager"]["ms"]
    made: dict[str, Any] = {"model": model, "batch": batch, "threads": threads, "eager": 1.0}
    for name, result in results.items():
        made[name] = round(eager / result["ms"], 3)
    both = [made[n] for n in ("openvino_int8", "openvino_bf16") if n in made]
    made["openvino"] = max(both) if both else None
    made["eager_ms"] = round(eager, 3)
    made["agreement"] = round(results["ours"]["agreement"], 4) if "ours" in results else None
    made["relative_error"] = {n: round(r["error"], 4) for n, r in results.items() if "error" in r}
    made["agreements"] = {n: round(r["agreement"], 4) for n, r in results.items() if "error" in r}
    return made


def main() -> None:
    import compress_contestants
    import compress_zoo

    def words(text: str) -> list[str]:
        return text.split(",")

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=words, default=list(compress_zoo.ZOO))
    parser.add_argument("--contestants", type=words, default=list(compress_contestants.CONTESTANTS))
    parser.add_argument("--batches", type=words, default=["1", "8"])
    parser.add_argument("--threads", type=words, default=["1", "2"])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--cores", default="", help="pin every contestant to these CPUs")
    parser.add_argument("--work", type=Path, default=Path.home() / ".cache/marpress/compress")
    parser.add_argument("--output", type=Path, default=HERE / "results/compress.json")
    parser.add_argument("--rebuild", type=words, default=[], help="contestants to build again")
    parser.add_argument("--worker", default="", help=argparse.SUPPRESS)
    parser.add_argument("--build", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    if options.worker:
        batch, threads = int(options.batches[0]), int(options.threads[0])
        worker(options.models[0], options.worker, batch, threads, options.work)
        return
    if options.build:
        build(options.models[0], options.build, options.work)
        return
    rows = []
    for model in options.models:
        for name in options.contestants:
            suffix = compress_contestants.CONTESTANTS[name][0]
            if suffix and (
                name in options.rebuild or not (options.work / f"{model}{suffix}").exists()
            ):
                log = options.work / f"{model}.{name}.log"
                with log.open("w") as sink:
                    code = _spawn(
                        "--build",
                        name,
                        "--models",
                        model,
                        "--work",
                        str(options.work),
                        stdout=sink,
                        stderr=sink,
                    ).wait()
                print(
                    f"{model}: built {name}" if code == 0 else f"{model}: {name} failed, see {log}",
                    flush=True,
                )
        for threads in map(int, options.threads):
            for batch in map(int, options.batches):
                results = race(
                    model,
                    options.contestants,
                    batch,
                    threads,
                    options.rounds,
                    options.work,
                    options.cores,
                )
                made = row(model, batch, threads, results)
                rows.append(made)
                cells = [
                    f"{n} {r['ms']:.2f} ms ({made[n]:.2f}x, error {r.get('error', 0):.3f}, "
                    f"same {r.get('agreement', 0):.2f})"
                    for n, r in results.items()
                ]
                print(f"{model} batch {batch} threads {threads}: " + "; ".join(cells), flush=True)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps({"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
