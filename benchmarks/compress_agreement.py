"""How often a compressed model answers as the original does, on real inputs set apart.

`python compress_agreement.py MODEL CONTESTANT WORK` is one contestant's process: its answers go
into the work folder. Answers do not depend on the batch size (8 here) or on threads.
"""

import sys
from pathlib import Path

import compress_race


def answer(model: str, contestant: str, work: Path) -> None:
    """Save one contestant's outputs `[N, classes]` float32 on the model's held-out inputs."""
    import compress_contestants
    import compress_zoo
    import torch

    torch.set_num_threads(1)
    entry = compress_zoo.ZOO[model]
    suffix, _, load = compress_contestants.CONTESTANTS[contestant]
    given = torch.nn.Identity()
    if contestant in ("eager", "compile"):
        given = compress_zoo.load(model, work)
    batches = entry.source.held_out()
    with torch.inference_mode():
        call = load(given, work / f"{model}{suffix}", 1, batches[0], entry.varied)
        outputs = torch.cat([torch.as_tensor(call(x)).clone().float() for x in batches])
    file = _file(model, contestant, work)
    aside = file.with_suffix(".aside")
    torch.save(outputs, aside)
    aside.replace(file)


def _file(model: str, contestant: str, work: Path) -> Path:
    return work / f"{model}.{contestant}.answers"


def prepare(model: str, names: list[str], again: list[str], work: Path) -> None:
    """Collect the answers that are missing or older than the contestant's file."""
    import compress_contestants

    for name in names:
        suffix = compress_contestants.CONTESTANTS[name][0]
        source, file = work / f"{model}{suffix}", _file(model, name, work)
        if suffix and not source.exists():
            continue
        old = suffix and file.exists() and file.stat().st_mtime < source.stat().st_mtime
        if file.exists() and not old and name not in again:
            continue
        with (work / f"{model}.{name}.log").open("a") as log:
            words = (model, name, str(work))
            process = compress_race.spawn(
                "compress_agreement.py", *words, work=work, threads=1, stdout=log, stderr=log
            )
        print(f"{model}: {name} {'answered' if process.wait() == 0 else 'failed'}", flush=True)


def compare(model: str, names: list[str], work: Path) -> dict[str, dict[str, float]]:
    """By contestant: share of inputs with the original's top answer, relative error of the
    outputs after the mean answer is taken off (what all inputs share says nothing about them),
    and the number of inputs."""
    import torch

    found: dict[str, dict[str, float]] = {}
    if not _file(model, "eager", work).exists():
        return found
    reference = torch.load(_file(model, "eager", work))
    spread = (reference - reference.mean(0)).norm()
    for name in names:
        if not _file(model, name, work).exists():
            continue
        output = torch.load(_file(model, name, work))
        same = (output.argmax(1) == reference.argmax(1)).float().mean().item()
        error = ((output - reference).norm() / spread).item()
        found[name] = {"agreement": same, "error": error, "inputs": len(reference)}
    return found


if __name__ == "__main__":
    MODEL, NAME, WORK = sys.argv[1:]
    answer(MODEL, NAME, Path(WORK))
