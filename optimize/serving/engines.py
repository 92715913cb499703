"""The last step of a run: the fastest runtime's file joins the artifact and its card.

`model.pt` stays what serves everywhere. A file that beats it lies in the artifact's `engines/`,
the card lists it in `model.alternatives`, and each worker confirms it where it starts
(`handlers.runtimes`). What was raced, and why each is in or out, is in the report: the choice is
part of the artifact, so one artifact gives one archive.
"""

import importlib
import json
import shutil
import time
from pathlib import Path
from typing import Any

from handlers import binding
from optimize.errors import ExportRefused, OptimizeError
from optimize.evaluation import environment
from optimize.export import source
from optimize.export.subject import Exportable
from optimize.pipeline.job import Job
from optimize.report import page, report
from optimize.report.engines import sentence
from optimize.serving import candidates, race
from optimize.tasks.base import A, D
from optimize.utils import files

SECONDS = 60.0  # for writing the candidates
LIMIT = 120.0  # for everything
FOLDER = "engines"
NONE_THERE = "no other runtime is installed (ONNX Runtime, OpenVINO)"


def settle(job: Job[D, A]) -> None:
    """Race the recipe's engines for a finished artifact, unless its report holds a race.

    Where no other runtime was installed then and one is now, it is raced after all.

    Whatever goes wrong is in the report, and `model.pt` serves alone.

    Raises:
        StorageError: the artifact's folder cannot be written to.
    """
    evidence = report.read(job.folder)
    asked = job.recipe.serving.raced()
    none_there = bool(asked) and all(candidates.missing(name) for name in asked)
    settled = evidence.get("engines")
    if settled is not None and (settled.get("reason") != NONE_THERE or none_there):
        return
    if not environment.may_race():
        return
    began = time.monotonic()
    with files.private() as scratch:
        found: dict[str, Any] = {"served": race.TORCHSCRIPT, "file": "model.pt"}
        if not asked:
            found["reason"] = "the recipe asks for no other engine"
        elif not evidence["gate"]["passed"]:
            found["reason"] = "the artifact missed its budget"
        elif none_there:
            found["reason"] = NONE_THERE
        else:
            job.say("  racing other runtimes' files against TorchScript")
            try:
                found |= _raced(job, evidence, asked, scratch)
            except OptimizeError as error:
                found["reason"] = str(error)
            except Exception as error:  # the artifact is finished, whatever a converter raises
                first = (str(error).strip().splitlines() or [""])[0][:200]
                found["reason"] = f"the race failed: {type(error).__name__}: {first}"
        found["seconds"] = round(time.monotonic() - began, 1)
        _install(job.folder, evidence, found, scratch)
    job.say(f"  {sentence(evidence)} [{found['seconds']:.0f} s]")


def _raced(
    job: Job[D, A], evidence: dict[str, Any], asked: tuple[str, ...], scratch: Path
) -> dict[str, Any]:
    """Write, race and judge the candidates; the chosen one stays in `scratch`."""
    serving, began = job.recipe.serving, time.monotonic()
    out = {name: why for name in asked if (why := candidates.missing(name)) is not None}
    there = [name for name in asked if name not in out]
    exportable = _exportable(job, evidence)
    made: dict[str, Path] = {}
    with candidates.Maker(next(iter(exportable))) as maker:
        for name in there:
            left = SECONDS - (time.monotonic() - began)
            try:
                if left <= 0:
                    raise ExportRefused(f"no time left of {SECONDS:.0f} s")
                made[name] = maker.make(name, scratch, left)
            except ExportRefused as error:
                out[name] = str(error)
    gate = evidence["gate"]
    card = json.loads((job.folder / "model.json").read_text(encoding="utf-8"))
    chosen, entries = race.run(
        exportable,
        job.folder / "model.pt",
        card["model"]["quantized_engine"],
        made,
        limits=candidates.limits,
        calls={f"batch{n}": job.task.calls(job.data, n)[0] for n in {1: 0, serving.batch_size: 0}},
        gate=race.Gate(gate["drop"], gate["max_drop"], gate["min_agreement"]),
        gain=serving.engine_gain,
        threads=serving.threads,
        deadline=began + LIMIT,
    )
    entries |= {name: race.Entry(f"not raced: {why}") for name, why in out.items()}
    batch = f"batch{serving.batch_size}"
    own, best = (entries[name].milliseconds[batch] for name in (race.TORCHSCRIPT, chosen))
    return {
        "served": chosen,
        "file": _place(made[chosen], scratch) if chosen in made else "model.pt",
        "gain": round(own / best, 3),
        "least_gain": serving.engine_gain,
        "batch": serving.batch_size,
        "threads": serving.threads,
        "candidates": {name: entry.to_json() for name, entry in entries.items()},
    }


def _exportable(job: Job[D, A], evidence: dict[str, Any]) -> Exportable:
    """What is exported, with `model.pt`'s own inputs. Raises ExportRefused if nothing is."""
    module = importlib.import_module(job.task.exporter) if job.task.exporter else None
    if not getattr(module, "SERVED", False):
        raise ExportRefused(f"other runtimes' files of {job.recipe.task} take other inputs")
    state = source.final_state(job.recipe, job.folder, evidence)
    exportable: Exportable = module.make(state.float_model, job.data)  # type: ignore[union-attr]
    return exportable


def _place(path: Path, scratch: Path) -> str:
    return f"{FOLDER}/{path.relative_to(scratch).as_posix()}"


def _install(folder: Path, evidence: dict[str, Any], found: dict[str, Any], scratch: Path) -> None:
    """Put the chosen file, the card and the report into the artifact's folder."""
    card = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    shutil.rmtree(folder / FOLDER, ignore_errors=True)
    added: dict[str, str] = {}
    card["model"].pop("alternatives", None)
    if found["file"] != "model.pt":
        name = found["served"]
        with files.replacing(folder / FOLDER) as aside:
            shutil.copytree(scratch / name, aside / name)
        added = {f"{FOLDER}/{path}": sha for path, sha in files.digests(folder / FOLDER).items()}
        card["model"]["alternatives"] = [found["file"]]
    files.write_json(folder / "model.json", card)
    evidence["engines"] = found
    digests = {name: sha for name, sha in evidence["files"].items() if _is_other(name)}
    evidence["files"] = {**digests, **added, "model.json": files.sha256(folder / "model.json")}
    evidence[binding.CARD] = binding.card_digest(card)
    page.write(folder, evidence)
    report.write(folder, evidence)


def _is_other(name: str) -> bool:
    return not name.startswith(f"{FOLDER}/")
