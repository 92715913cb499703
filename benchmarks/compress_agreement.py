"""How often a compressed model answers as the original does, on held-out real inputs.

`python -m benchmarks.compress_agreement MODEL CONTESTANT WORK` is one contestant's process: it
writes its answers into the work folder. They do not depend on the batch size (8) or on threads.
"""

import sys
from pathlib import Path

import torch

from benchmarks import compress_contestants, compress_race, compress_zoo


def answer(model: str, contestant: str, work: Path) -> None:
    """Save one contestant's outputs `[N, classes]` float32 on the model's held-out inputs."""
    entry = compress_zoo.ZOO[model]
    batches = entry.source.held_out()
    call = compress_contestants.load(model, contestant, 1, work, batches[0], entry.varied)
    with torch.inference_mode():
        outputs = torch.cat([torch.as_tensor(call(x)).clone().float() for x in batches])
    file = _file(model, contestant, work)
    aside = file.with_suffix(".aside")
    torch.save(outputs, aside)
    aside.replace(file)


def _file(model: str, contestant: str, work: Path) -> Path:
    return work / f"{model}.{contestant}.answers"


def prepare(model: str, names: list[str], again: list[str], work: Path) -> None:
    """Collect the answers that are missing or older than the contestant's file."""
    for name in names:
        suffix = compress_contestants.CONTESTANTS[name][0]
        source, file = work / f"{model}{suffix}", _file(model, name, work)
        if suffix and not source.exists():
            continue
        stale = suffix and file.exists() and file.stat().st_mtime < source.stat().st_mtime
        if file.exists() and not stale and name not in again:
            continue
        with (work / f"{model}.{name}.log").open("a") as log:
            answered = compress_race.run(
                "compress_agreement", model, name, str(work), work=work, log=log
            )
        print(f"{model}: {name} {'answered' if answered else 'failed'}", flush=True)


def compare(model: str, names: list[str], work: Path) -> dict[str, dict[str, float]]:
    """By contestant: the share of inputs with the original's top answer, the relative error of
    the outputs, and the number of inputs.

    The error is relative to the outputs' deviation from their mean over all inputs.
    """
    agreements: dict[str, dict[str, float]] = {}
    if not _file(model, "eager", work).exists():
        return agreements
    reference = torch.load(_file(model, "eager", work))
    spread = (reference - reference.mean(0)).norm()
    for name in names:
        if not _file(model, name, work).exists():
            continue
        output = torch.load(_file(model, name, work))
        same = (output.argmax(1) == reference.argmax(1)).float().mean().item()
        error = ((output - reference).norm() / spread).item()
        agreements[name] = {"agreement": same, "error": error, "inputs": len(reference)}
    return agreements


if __name__ == "__main__":
    MODEL, NAME, WORK = sys.argv[1:]
    answer(MODEL, NAME, Path(WORK))
