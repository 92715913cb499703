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
from pathlib import Path
from typing import Any

import compress_contestants
import compress_plot
import compress_race
import compress_zoo

HERE = Path(__file__).resolve().parent
CALIBRATION = (8, 3)  # batches of this size, this many
_SHOWN = ("eager", "torchscript", "ours", "onnxruntime", "openvino_int8", "openvino_bf16", "aoti",
          "compile")  # fmt: skip


def build(model: str, contestant: str, work: Path) -> None:
    """Build one contestant's file, in this process."""
    entry = compress_zoo.ZOO[model]
    suffix, make, _ = compress_contestants.CONTESTANTS[contestant]
    data = [entry.inputs(CALIBRATION[0], 100 + seed) for seed in range(CALIBRATION[1])]
    make(compress_zoo.load(model), entry.kind, data, work / f"{model}{suffix}")


def prepare(model: str, names: list[str], rebuild: list[str], work: Path) -> None:
    """Build what is missing, each file in a fresh process."""
    for name in names:
        suffix = compress_contestants.CONTESTANTS[name][0]
        if not suffix or (name not in rebuild and (work / f"{model}{suffix}").exists()):
            continue
        log = work / f"{model}.{name}.log"
        with log.open("w") as sink:
            words = ["--build", name, "--models", model, "--work", str(work)]
            code = compress_race.spawn(
                "compress.py", *words, threads=1, stdout=sink, stderr=sink
            ).wait()
        print(f"{model}: {name} {'built' if code == 0 else f'failed, see {log}'}", flush=True)


def row(
    model: str, batch: int, threads: int, results: dict[str, dict[str, float]]
) -> dict[str, Any]:
    """One row of compress.json: speeds over eager, None where a contestant failed."""
    eager = results["eager"]["ms"]
    made: dict[str, Any] = {"model": model, "batch": batch, "threads": threads}
    for name in _SHOWN:
        made[name] = round(eager / results[name]["ms"], 3) if name in results else None
    both = [made[n] for n in ("openvino_int8", "openvino_bf16") if made[n] is not None]
    made["openvino"] = max(both) if both else None
    made["agreement"] = round(results["ours"]["agreement"], 4) if "ours" in results else None
    made["milliseconds"] = {n: round(r["ms"], 4) for n, r in results.items()}
    made["relative_error"] = {n: round(r["error"], 4) for n, r in results.items() if "error" in r}
    made["agreements"] = {n: round(r["agreement"], 4) for n, r in results.items() if "error" in r}
    return made


def show(made: dict[str, Any]) -> None:
    cells = []
    for name, ms in made["milliseconds"].items():
        error, same = made["relative_error"].get(name), made["agreements"].get(name)
        cells.append(f"  {name:14} {ms:9.2f} ms {made[name]:6.2f}x  error {error}  same {same}")
    ours, openvino = made["ours"], made["openvino"]
    against = f", {ours / openvino:.2f}x OpenVINO" if ours and openvino else ""
    print(f"{made['model']} batch {made['batch']} threads {made['threads']}{against}")
    print("\n".join(cells), flush=True)


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
    parser.add_argument("--only-build", action="store_true", help="build the files, measure later")
    parser.add_argument("--build", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    work: Path = options.work
    rows = work / "rows"
    rows.mkdir(parents=True, exist_ok=True)
    if options.build:
        build(options.models[0], options.build, work)
        return 0
    for model in options.models:
        prepare(model, options.contestants, options.rebuild, work)
    if options.only_build:
        return 0
    plan = [(m, int(t)) for t in options.threads for m in options.models]
    for model, threads in plan:
        for batch in map(int, options.batches):
            file = rows / f"{model}.{threads}.{batch}.json"
            made = kept(file, options.fresh)
            if made is None:
                results = compress_race.race(
                    model, options.contestants, batch, threads, options.rounds, work, options.cores
                )
                made = row(model, batch, threads, results)
                file.write_text(json.dumps(made))
                write(rows, options.output)
            show(made)
    for model, threads in plan:
        file = rows / f"{model}.{threads}.grid.json"
        times = kept(file, options.fresh) or compress_race.grid(model, threads, work, options.cores)
        if not times:
            continue
        file.write_text(json.dumps(times))
        spread = max(times.values()) / min(times.values())
        cells = ", ".join(f"{batch}: {ms:.2f}" for batch, ms in times.items())
        print(f"{model} threads {threads}, our ms per input by batch size: {cells}; ", end="")
        print(f"worst over best {spread:.2f}", flush=True)
    write(rows, options.output)
    return 0


def write(rows: Path, output: Path) -> None:
    """Every row measured so far, as JSON and as a plot."""
    found = [
        json.loads(f.read_text()) for f in sorted(rows.glob("*.json")) if ".grid." not in f.name
    ]
    order = list(compress_zoo.ZOO)
    found.sort(key=lambda r: (order.index(r["model"]), r["threads"], r["batch"]))
    grids = [
        {"model": f.name.split(".")[0], "threads": int(f.name.split(".")[1]),
         "ms_per_input": json.loads(f.read_text())}
        for f in sorted(rows.glob("*.grid.json"))
    ]  # fmt: skip
    output.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"machine": machine(), "rows": found, "grid": grids}, indent=1)
    output.write_text(text + "\n")
    output.with_suffix(".svg").write_text(compress_plot.plot(found))


def machine() -> dict[str, Any]:
    from optimize.machine import describe

    return describe()


if __name__ == "__main__":
    sys.exit(main())
