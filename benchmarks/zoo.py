"""Every layer of torch.nn and a model of most of timm's families through the stages.

`python -m benchmarks.zoo` (make zoo) quantizes and prunes small models with random weights, each
in a process of its own, and compares what the saved file answers with the float model. A stage
must be done or be refused with a sentence; anything else, or answers that are off, is a failure,
and the command ends with 1. What it found goes into benchmarks/results/zoo.json and the tables
of docs/zoo.md; with names it renews their rows alone.
"""

import argparse
import dataclasses
import json
import sys
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from benchmarks import zoo_case, zoo_layers, zoo_models
from benchmarks.zoo_case import Outcome, Stage
from optimize.utils import files

PAGE = Path(__file__).resolve().parents[1] / "docs" / "zoo.md"
RESULT = Path(__file__).resolve().parent / "results" / "zoo.json"
BEGIN, END = "<!-- zoo:begin -->\n", "<!-- zoo:end -->"
STAGES: tuple[Stage, ...] = ("static_int8", "dynamic_int8", "prune")
_SECONDS = 240.0
# Relative errors of answers. One step of a layer is 1/255 of its range; where the layer jumps (at
# a threshold, at the larger of two neighbours), a step changes what comes out altogether. Random
# weights of deep networks say little about error: theirs only must not be unrelated.
_SMOOTH, _JUMPS, _DEEP = 0.05, 0.4, 1.0
JUMPING = ("Embedding", "EmbeddingBag", "Hardshrink", "MaxUnpool2d", "Threshold")
_MATES = 1e-3

Found = dict[tuple[str, Stage], Outcome]


def run(name: str, stage: Stage) -> Outcome:
    """One model, by its layer's or timm's name, through one stage, and whether it is right."""
    if name in zoo_layers.MODELS:
        outcome = zoo_case.run(lambda: zoo_layers.build(name), zoo_layers.SIDE, stage, _SECONDS)
        bound = _JUMPS if name in JUMPING else _SMOOTH
    else:
        side = zoo_models.MODELS[name].side
        outcome = zoo_case.run(lambda: zoo_models.build(name), side, stage, _SECONDS)
        bound = _DEEP
    return judged(outcome, _MATES if stage == "prune" else bound)


def judged(outcome: Outcome, bound: float) -> Outcome:
    """`failed` where answers are further off than `bound`, or depend on others in their batch."""
    if outcome.ending == "done" and not outcome.error <= bound:
        outcome.ending = "failed"
        outcome.message = f"answers are off by {outcome.error:.2g}, at most {bound:g} is accepted"
    elif outcome.ending == "done" and not outcome.mates <= _MATES:
        outcome.ending = "failed"
        outcome.message = f"an answer changes by {outcome.mates:.2g} with others in its batch"
    return outcome


def table(found: Found, names: Iterable[str], stages: Iterable[Stage]) -> str:
    """A row a model: layers in int8 and the answers' error, what stays in float and why; `-` where
    a stage was not run."""
    stages = list(stages)
    names = [name for name in names if any((name, stage) in found for stage in stages)]
    titles = [stage if stage == "prune" else f"{stage}: layers, error" for stage in stages]
    head = ["model", *titles, "stays in float in static_int8"]
    lines = [_row(head), _row(["---"] * len(head))]
    for name in names:
        cells = [_cell(found.get((name, stage)), stage) for stage in stages]
        static = found.get((name, "static_int8"))
        lines.append(_row([name, *cells, _reasons(static) if static is not None else ""]))
    return "\n".join(lines) + "\n"


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |"


def _cell(outcome: Outcome | None, stage: Stage) -> str:
    if outcome is None:
        return "-"
    if outcome.ending != "done":
        return outcome.ending
    return "done" if stage == "prune" else f"{len(outcome.lowered)}, {outcome.error:.3f}"


def _reasons(outcome: Outcome) -> str:
    counts = Counter(outcome.left.values())
    return "; ".join(f"{n} x {why}" if n > 1 else why for why, n in counts.items())


def refusals(found: Found) -> str:
    """What was said for every stage that was not done."""
    lines = [
        f"- {name}, {stage}: {outcome.ending}: {' '.join(outcome.message.split())}"
        for (name, stage), outcome in found.items()
        if outcome.ending != "done"
    ]
    return "\n".join(lines) + "\n" if lines else "Nothing was refused.\n"


def page(found: Found, stages: Iterable[Stage]) -> str:
    """The part of docs/zoo.md between the marks."""
    stages = list(stages)
    return (
        f"\n## Layers of torch.nn\n\n{table(found, zoo_layers.MODELS, stages)}"
        f"\n## Models of timm\n\n{table(found, zoo_models.MODELS, stages)}"
        f"\n## Refused\n\n{refusals(found)}\n"
    )


def recorded() -> Found:
    """What earlier runs found."""
    if not RESULT.exists():
        return {}
    stored = json.loads(RESULT.read_text(encoding="utf-8"))
    return {(name, stage): Outcome(**row) for name, stage, row in stored}


def record(found: Found) -> None:
    """Write the results and the tables."""
    places = {name: i for i, name in enumerate([*zoo_layers.MODELS, *zoo_models.MODELS])}
    known = sorted((case for case in found if case[0] in places), key=lambda c: places[c[0]])
    rows = [[*case, dataclasses.asdict(found[case])] for case in known]
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    made = before + BEGIN + page({c: found[c] for c in known}, STAGES) + END + rest.split(END)[1]
    for path, text in ((RESULT, json.dumps(rows, indent=1) + "\n"), (PAGE, made)):
        with files.replacing(path) as aside:
            aside.write_text(text, encoding="utf-8")


def _attempt(case: tuple[str, Stage]) -> Outcome:
    return run(*case)


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.zoo", description=__doc__)
    parser.add_argument("names", nargs="*", help="layers or timm models; all by default")
    parser.add_argument("--stage", action="append", choices=zoo_case.STAGES)
    parser.add_argument("--jobs", type=int, default=2, help="models at a time")
    asked = parser.parse_args()
    everything = [*zoo_layers.MODELS, *zoo_models.MODELS]
    unknown = [name for name in asked.names if name not in everything]
    if unknown or asked.jobs < 1:
        parser.error(f"the zoo has no {unknown[0]!r}" if unknown else "--jobs starts at 1")
    names, stages = asked.names or everything, tuple(asked.stage or STAGES)
    zoo_case.warm()
    cases: list[tuple[str, Stage]] = [(name, stage) for name in names for stage in stages]
    found: Found = {}
    with ProcessPoolExecutor(asked.jobs, mp_context=get_context("fork")) as workers:
        for case, outcome in zip(cases, workers.map(_attempt, cases), strict=True):
            found[case] = outcome
            record(recorded() | found)
            said = f"error {outcome.error:.3f}" if outcome.ending == "done" else outcome.message
            print(f"{case[0]:36} {case[1]:16} {outcome.ending:8} {said}", flush=True)
    counts = Counter(outcome.ending for outcome in found.values())
    print(", ".join(f"{count} {ending}" for ending, count in counts.items()))
    return 0 if set(counts) <= {"done", "refused"} else 1


if __name__ == "__main__":
    sys.exit(main())
