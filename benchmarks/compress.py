"""Speed of compressed models over eager float32: `make bench-compress`.

Every contestant runs in a fresh process of its own, with the same malloc settings and thread
count; the processes take turns in short bursts, so that a noisy machine slows all alike. Built
files and measured rows are cached in the work folder, so that an interrupted run resumes:
`--fresh` measures again, `--rebuild` builds a contestant's files again; `--quick` takes one small
model, one thread, few rounds and no compilers. Results: `benchmarks/results/compress.json`, `.svg`.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks import (
    compress_agreement,
    compress_contestants,
    compress_plot,
    compress_race,
    compress_zoo,
)
from optimize.evaluation import environment
from optimize.serving import race as engine_race

HERE = Path(__file__).resolve().parent
STAGES = ("build", "agreement", "rows", "grid")
CALIBRATION = (8, 12)  # batches of this size, this many
_SHOWN = ("eager", "torchscript", "ours", "served", "onnxruntime", "openvino_int8",
          "openvino_bf16", "aoti", "compile")  # fmt: skip
# What `served` asks of a candidate, as `serving: {engine_gain: 1.03}` does; 1.1 is the default.
GAIN, DEFAULT_GAIN = 1.03, 1.1
# Of a candidate's answers and the original's, as `optimize export` asks for.
AGREEMENT = 0.85


def build(model: str, contestant: str, work: Path) -> None:
    """Build one contestant's file, in this process."""
    entry = compress_zoo.ZOO[model]
    suffix, builder, _ = compress_contestants.CONTESTANTS[contestant]
    data = [entry.inputs(CALIBRATION[0], 100 + seed) for seed in range(CALIBRATION[1])]
    builder(compress_zoo.load(model, work), entry.kind, data, work / f"{model}{suffix}")


def prepare(options: argparse.Namespace, model: str) -> None:
    """Build the missing files, each in a fresh process."""
    work: Path = options.work
    for name in options.contestants:
        suffix = compress_contestants.CONTESTANTS[name][0]
        if name == "compile":
            compile_ahead(options, model)
        if not suffix or (name not in options.rebuild and (work / f"{model}{suffix}").exists()):
            continue
        log = work / f"{model}.{name}.log"
        began = time.monotonic()
        with log.open("w") as sink:
            arguments = ["--build", name, "--models", model, "--work", str(work)]
            built = compress_race.run("compress", *arguments, work=work, log=sink)
        took = f"{time.monotonic() - began:.0f} s"
        print(f"{model}: {name} {took}{'' if built else f', failed: see {log}'}", flush=True)


def compile_ahead(options: argparse.Namespace, model: str) -> None:
    """Fill torch.compile's cache in the work folder for every row."""
    for batch in map(int, options.batches):
        for threads in map(int, options.threads):
            marker = options.work / f"{model}.compile.{batch}.{threads}"
            if marker.exists() and "compile" not in options.rebuild:
                continue
            began = time.monotonic()
            if compress_race.compile_ahead(model, batch, threads, options.work):
                marker.touch()
                words = f"{time.monotonic() - began:.0f} s"
            else:
                words = f"failed: see {options.work / f'{model}.compile.log'}"
            print(f"{model}: compile, batch {batch}, threads {threads}: {words}", flush=True)


def choose(model: str, times: dict[str, float], gain: float, work: Path) -> str:
    """What `engines: auto` picks: ours, or the fastest that is `gain` times as fast.

    With trained weights a candidate must agree with the original on AGREEMENT of the inputs; with
    random ones no int8 engine does, and speed alone decides.
    """
    by_batch = {name: {"batch": ms} for name, ms in times.items()}
    by_batch[engine_race.TORCHSCRIPT] = by_batch.pop("ours")
    same = compress_agreement.compare(model, list(times), work)
    for name in engine_race.order(by_batch, "batch", gain):
        agrees = name in same and same[name]["agreement"] >= AGREEMENT
        if agrees or compress_zoo.ZOO[model].weights == "random":
            return name
    return "ours"


def measure(options: argparse.Namespace, model: str, batch: int, threads: int) -> dict[str, Any]:
    """Race the contestants, what `engines: auto` picks among them as `served`."""
    work, cores = options.work, options.cores
    there = [name for name in compress_contestants.CANDIDATES if name in options.contestants]
    times = compress_race.pick(model, there, batch, threads, work, cores)
    names = {name: name for name in options.contestants}
    picked = choose(model, times, GAIN, work) if "ours" in times else None
    if picked is not None:
        names["served"] = f"{compress_contestants.SERVED}{picked}"
    raced = compress_race.race(model, names, batch, threads, options.rounds, work, cores)
    found = row(model, batch, threads, raced)
    if picked is not None:
        by_default = choose(model, times, DEFAULT_GAIN, work)
        found |= {"served_engine": picked, "served_by_default": by_default}
        found["as_served_milliseconds"] = {name: round(ms, 4) for name, ms in times.items()}
    return found


def row(model: str, batch: int, threads: int, times: dict[str, float]) -> dict[str, Any]:
    """One row of compress.json: speeds over eager, None where a contestant failed."""
    speeds: dict[str, Any] = {"model": model, "batch": batch, "threads": threads}
    for name in _SHOWN:
        speeds[name] = round(times["eager"] / times[name], 3) if name in times else None
    both = [speeds[n] for n in ("openvino_int8", "openvino_bf16") if speeds[n] is not None]
    speeds["openvino"] = max(both) if both else None
    speeds["milliseconds"] = {n: round(ms, 4) for n, ms in times.items()}
    return speeds


def with_agreement(row: dict[str, Any], work: Path) -> dict[str, Any]:
    """A row with the contestants' agreement and error on the model's held-out inputs."""
    compared = compress_agreement.compare(row["model"], list(_SHOWN), work)
    if row.get("served_engine") in compared:
        compared["served"] = compared[row["served_engine"]]
    result = {k: v for k, v in row.items() if k != "milliseconds"}
    result["agreement"] = round(compared["ours"]["agreement"], 4) if "ours" in compared else None
    result["agreement_inputs"] = compared["eager"]["inputs"] if compared else 0
    result["weights"] = compress_zoo.ZOO[row["model"]].weights
    result["milliseconds"] = row["milliseconds"]
    result["relative_error"] = {n: round(entry["error"], 4) for n, entry in compared.items()}
    result["agreements"] = {n: round(entry["agreement"], 4) for n, entry in compared.items()}
    return result


def show(row: dict[str, Any]) -> None:
    """A row as a table."""
    ours, openvino = row["ours"], row["openvino"]
    against = f", {ours / openvino:.2f}x OpenVINO" if ours and openvino else ""
    print(f"{row['model']} batch {row['batch']} threads {row['threads']}{against}")
    for name, ms in row["milliseconds"].items():
        error, same = row["relative_error"].get(name), row["agreements"].get(name)
        print(f"  {name:14} {ms:9.2f} ms {row[name]:6.2f}x  agreement {same}  error {error}")
    sys.stdout.flush()


def cached(file: Path, fresh: bool) -> Any:
    """An earlier run's measurement; None where there is none, or with `fresh`."""
    return None if fresh or not file.exists() else json.loads(file.read_text())


def main() -> int:
    def words(text: str) -> list[str]:
        return text.split(",")

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=words, default=list(compress_zoo.ZOO))
    parser.add_argument("--contestants", type=words, default=list(compress_contestants.CONTESTANTS))
    parser.add_argument("--batches", type=words, default=["1", "8"])
    parser.add_argument("--threads", type=words, default=["1", "2"])
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--cores", default="", help="pin every contestant to these CPUs")
    parser.add_argument("--work", type=Path, default=Path.home() / ".cache/marpress/compress")
    parser.add_argument("--output", type=Path, default=HERE / "results/compress.json")
    parser.add_argument("--rebuild", type=words, default=[], help="contestants to build again")
    parser.add_argument("--fresh", action="store_true", help="measure again")
    parser.add_argument("--quick", action="store_true", help="see above; writes no results")
    parser.add_argument("--stages", type=words, default=list(STAGES), help=f"of {STAGES}")
    parser.add_argument("--build", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.quick:
        options.models, options.threads, options.rounds = ["convnet"], ["1"], 2
        options.contestants = [n for n in options.contestants if n not in ("aoti", "compile")]
        options.stages, options.output = ["build", "agreement", "rows"], options.work / "quick.json"
    options.work = options.work.resolve()  # contestants run in another folder
    rows = options.work / "rows"
    rows.mkdir(parents=True, exist_ok=True)
    if options.build:
        build(options.models[0], options.build, options.work)
        return 0
    for model in options.models:
        if "build" in options.stages:
            prepare(options, model)
        if "agreement" in options.stages:
            compress_agreement.prepare(model, options.contestants, options.rebuild, options.work)
    plan = [(m, int(t)) for t in options.threads for m in options.models]
    for model, threads in plan if "rows" in options.stages else []:
        for batch in map(int, options.batches):
            file = rows / f"{model}.{threads}.{batch}.json"
            measured = cached(file, options.fresh)
            if measured is None:
                measured = measure(options, model, batch, threads)
                file.write_text(json.dumps(measured))
            show(with_agreement(measured, options.work))
    for model, threads in plan if "grid" in options.stages else []:
        file = rows / f"{model}.{threads}.grid.json"
        times = cached(file, options.fresh)
        times = times or compress_race.grid(model, threads, options.work, options.cores)
        if not times:
            continue
        file.write_text(json.dumps(times))
        spread = max(times.values()) / min(times.values())
        cells = ", ".join(f"{batch}: {ms:.2f}" for batch, ms in times.items())
        print(f"{model} threads {threads}, our ms per input by batch size: {cells}; ", end="")
        print(f"worst over best {spread:.2f}", flush=True)
    write(options.work, options.output)
    return 0


def write(work: Path, output: Path) -> None:
    """Every row measured so far, as JSON and as a plot."""
    folder = work / "rows"
    rows = [
        with_agreement(json.loads(f.read_text()), work)
        for f in sorted(folder.glob("*.json")) if ".grid." not in f.name
    ]  # fmt: skip
    order = list(compress_zoo.ZOO)
    rows.sort(key=lambda r: (order.index(r["model"]), r["threads"], r["batch"]))
    grids = []
    for file in sorted(folder.glob("*.grid.json")):
        model, threads = file.name.split(".")[:2]
        grids.append(
            {"model": model, "threads": int(threads), "ms_per_input": json.loads(file.read_text())}
        )
    output.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"machine": environment.describe(), "rows": rows, "grid": grids}, indent=1)
    output.write_text(text + "\n")
    output.with_suffix(".svg").write_text(compress_plot.plot(rows))


if __name__ == "__main__":
    sys.exit(main())
