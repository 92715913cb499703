"""Speed of compressed models over eager float32: `make bench-compress`.

Every contestant runs in a fresh process of its own, with the same malloc settings and thread
count; the processes take turns in short bursts, so that a slow minute of the machine falls on
all of them alike. Files are built once into the work folder, rows are kept there as they are
measured, and an interrupted run goes on where it was: `--fresh` measures again, `--rebuild`
builds a contestant's files again. Results: `benchmarks/results/compress.json` and `.svg`.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import compress_agreement
import compress_contestants
import compress_plot
import compress_race
import compress_zoo

HERE = Path(__file__).resolve().parent
STAGES = ("build", "agreement", "rows", "grid")
CALIBRATION = (8, 12)  # batches of this size, this many
_SHOWN = ("eager", "torchscript", "ours", "onnxruntime", "openvino_int8", "openvino_bf16", "aoti",
          "compile")  # fmt: skip


def build(model: str, contestant: str, work: Path) -> None:
    """Build one contestant's file, in this process."""
    entry = compress_zoo.ZOO[model]
    suffix, make, _ = compress_contestants.CONTESTANTS[contestant]
    data = [entry.inputs(CALIBRATION[0], 100 + seed) for seed in range(CALIBRATION[1])]
    make(compress_zoo.load(model, work), entry.kind, data, work / f"{model}{suffix}")


def prepare(options: argparse.Namespace, model: str) -> None:
    """Build what is missing, each file in a fresh process."""
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
            words = ["--build", name, "--models", model, "--work", str(work)]
            code = compress_race.spawn(
                "compress.py", *words, work=work, threads=1, stdout=sink, stderr=sink
            ).wait()
        took = f"{time.monotonic() - began:.0f} s"
        print(f"{model}: {name} {took}{'' if code == 0 else f', failed: see {log}'}", flush=True)


def compile_ahead(options: argparse.Namespace, model: str) -> None:
    """torch.compile's code for every row, kept in the work folder."""
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


def row(model: str, batch: int, threads: int, times: dict[str, float]) -> dict[str, Any]:
    """One row of compress.json: speeds over eager, None where a contestant failed."""
    made: dict[str, Any] = {"model": model, "batch": batch, "threads": threads}
    for name in _SHOWN:
        made[name] = round(times["eager"] / times[name], 3) if name in times else None
    both = [made[n] for n in ("openvino_int8", "openvino_bf16") if made[n] is not None]
    made["openvino"] = max(both) if both else None
    made["milliseconds"] = {n: round(ms, 4) for n, ms in times.items()}
    return made


def with_agreement(made: dict[str, Any], work: Path) -> dict[str, Any]:
    """A row with what the contestants answered on the model's held-out inputs."""
    found = compress_agreement.compare(made["model"], list(_SHOWN), work)
    result = {k: v for k, v in made.items() if k != "milliseconds"}
    result["agreement"] = round(found["ours"]["agreement"], 4) if "ours" in found else None
    result["agreement_inputs"] = found["eager"]["inputs"] if found else 0
    result["weights"] = compress_zoo.ZOO[made["model"]].weights
    result["milliseconds"] = made["milliseconds"]
    result["relative_error"] = {n: round(r["error"], 4) for n, r in found.items()}
    result["agreements"] = {n: round(r["agreement"], 4) for n, r in found.items()}
    return result


def show(made: dict[str, Any]) -> None:
    """A row as a table."""
    ours, openvino = made["ours"], made["openvino"]
    against = f", {ours / openvino:.2f}x OpenVINO" if ours and openvino else ""
    print(f"{made['model']} batch {made['batch']} threads {made['threads']}{against}")
    for name, ms in made["milliseconds"].items():
        error, same = made["relative_error"].get(name), made["agreements"].get(name)
        print(f"  {name:14} {ms:9.2f} ms {made[name]:6.2f}x  agreement {same}  error {error}")
    sys.stdout.flush()


def kept(file: Path, fresh: bool) -> Any:
    """What an earlier run measured, None when there is nothing or it must not be used."""
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
    parser.add_argument("--stages", type=words, default=list(STAGES), help=f"of {STAGES}")
    parser.add_argument("--build", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
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
            made = kept(file, options.fresh)
            if made is None:
                made = row(model, batch, threads, compress_race.race(
                    model, options.contestants, batch, threads, options.rounds, options.work,
                    options.cores,
                ))  # fmt: skip
                file.write_text(json.dumps(made))
            show(with_agreement(made, options.work))
    for model, threads in plan if "grid" in options.stages else []:
        file = rows / f"{model}.{threads}.grid.json"
        times = kept(file, options.fresh)
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
    rows = work / "rows"
    found = [
        with_agreement(json.loads(f.read_text()), work)
        for f in sorted(rows.glob("*.json")) if ".grid." not in f.name
    ]  # fmt: skip
    order = list(compress_zoo.ZOO)
    found.sort(key=lambda r: (order.index(r["model"]), r["threads"], r["batch"]))
    grids = []
    for file in sorted(rows.glob("*.grid.json")):
        model, threads = file.name.split(".")[:2]
        grids.append(
            {"model": model, "threads": int(threads), "ms_per_input": json.loads(file.read_text())}
        )
    output.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"machine": machine(), "rows": found, "grid": grids}, indent=1)
    output.write_text(text + "\n")
    output.with_suffix(".svg").write_text(compress_plot.plot(found))


def machine() -> dict[str, Any]:
    from optimize.evaluation.environment import describe

    return describe()


if __name__ == "__main__":
    sys.exit(main())
