"""Read the end of TorchServe's logs, for messages that show why something failed."""

from dataclasses import dataclass
from pathlib import Path

MOST = 1_000_000  # bytes of a log that are looked at
FILES = ("model_log.log", "ts_log.log", "console.log")


@dataclass(frozen=True)
class Mark:
    """How long each log was at one moment: path -> bytes."""

    sizes: dict[Path, int]


def mark(log_dir: Path | None) -> Mark:
    """Remember where the logs end now."""
    if log_dir is None:
        return Mark({})
    paths = [log_dir / name for name in FILES]
    return Mark({p: p.stat().st_size if p.exists() else 0 for p in paths})


def since(start: Mark, lines: int = 25) -> str:
    """The last lines that were added after `start` to the first log that has any."""
    for path, size in start.sizes.items():
        if not path.exists():
            continue
        with path.open("rb") as file:
            file.seek(size if path.stat().st_size >= size else 0)
            added = file.read().decode("utf-8", "replace").splitlines()
        if added:
            return f"the end of {path}:\n" + "\n".join(f"  {line}" for line in added[-lines:])
    return ""


def tail(path: Path, lines: int = 25) -> str:
    """The last lines of one log, indented; empty when there is none."""
    if not path.exists():
        return ""
    text = path.read_bytes()[-64_000:].decode("utf-8", "replace").splitlines()
    return "\n".join(f"  {line}" for line in text[-lines:])


def refusal(log_dir: Path, model: str, version: str) -> str:
    """Why the last worker of a model served nothing from its files; "" for no such line.

    The sentence is that of `handlers.seal`, in a line of the worker W-PORT-MODEL_VERSION.
    """
    path, words = log_dir / FILES[0], "nothing is served from "
    if not path.exists():
        return ""
    for line in reversed(path.read_bytes()[-MOST:].decode("utf-8", "replace").splitlines()):
        if words in line and f"-{model}_{version}" in line:
            return words + line.partition(words)[2]
    return ""
