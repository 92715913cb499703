"""How an archive is run: what is searched, and where it is written."""

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from handlers.cores import usable

BATCHES = (1, 2, 4, 8)
DELAYS = (0, 1, 2, 5)


@dataclass(frozen=True, order=True)
class Settings:
    """Processes, threads of each, the largest batch and the longest wait for it, milliseconds."""

    workers: int
    threads: int
    batch_size: int
    max_batch_delay_ms: int

    def describe(self) -> str:
        """For a table."""
        return (
            f"{self.workers} x {self.threads} threads, batch {self.batch_size}, "
            f"delay {self.max_batch_delay_ms} ms"
        )

    def as_json(self) -> dict[str, int]:
        """For a study and a file of results."""
        return asdict(self)


def of_card(card: dict[str, Any]) -> Settings:
    """Those that a model card has."""
    serving = card["serving"]
    return Settings(
        int(serving["workers"]),
        int(card["model"].get("threads", 1)),
        int(serving["batch_size"]),
        int(serving["max_batch_delay_ms"]),
    )


def in_card(card: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """The card with them; everything else as it was."""
    sizes = list(range(1, settings.batch_size + 1))
    return {
        **card,
        "model": {**card["model"], "threads": settings.threads, "batch_sizes": sizes},
        "serving": {
            **card["serving"],
            "workers": settings.workers,
            "batch_size": settings.batch_size,
            "max_batch_delay_ms": settings.max_batch_delay_ms,
        },
    }


def candidates(cores: int | None = None) -> list[Settings]:
    """What may pay on so many cores: half of them busy at least, no more than twice as many.

    A batch of one waits for nobody, whatever the delay.
    """
    cores = cores or usable()
    return sorted(
        Settings(workers, threads, batch, delay)
        for threads in _powers(cores)
        # One process more than there is room for works while others wait for Java.
        for workers in {*_powers(2 * cores // threads), cores // threads + 1, 2 * cores // threads}
        if cores <= 2 * workers * threads <= 4 * cores
        for batch in BATCHES
        for delay in (DELAYS if batch > 1 else (0,))
    )


def write(path: Path, settings: Settings) -> None:
    """Put them into the model card at `path`, in one step."""
    card = json.loads(path.read_text(encoding="utf-8"))
    aside = path.with_suffix(f".{os.getpid()}")
    text = json.dumps(in_card(card, settings), indent=2, ensure_ascii=False) + "\n"
    aside.write_text(text, encoding="utf-8")
    aside.replace(path)


def _powers(most: int) -> Iterator[int]:
    value = 1
    while value <= most:
        yield value
        value *= 2
