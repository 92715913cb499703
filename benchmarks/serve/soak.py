"""Half an hour of steady load: python -m benchmarks.serve.soak [--minutes 30] [--servers ...].

Requests arrive at 80 % of what a closed loop of 16 clients gets. Memory is read every half minute:
the median of the last quarter may be 3 % over the second's (the first is warm-up), and no request
may fail. The exit status is 1 where either happens.
"""

import argparse
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks.serve import results
from benchmarks.serve.guard import Guarded
from benchmarks.serve.kinds import KINDS, ROOT
from benchmarks.serve.load import send
from benchmarks.serve.open_loop import open_loop
from benchmarks.serve.race import Contestant, Field
from benchmarks.serve.servers import OURS
from deploy.tune.clients import http_request
from optimize.evaluation import environment
from optimize.utils import files

OUTPUT = results.PATH.with_name("soak.json")
SHARE, MOST_GROWTH = 0.8, 0.03
_MB = 1 << 20


def growth(sizes: Sequence[float]) -> float:
    """How much larger the last quarter's median is than the second's, as a share of it."""
    quarter = max(1, len(sizes) // 4)
    settled = sizes[quarter : 2 * quarter] or sizes[:1]
    return statistics.median(sizes[-quarter:]) / statistics.median(settled) - 1


def soak(contestant: Contestant, minutes: float, every: float) -> dict[str, Any]:
    """Load one server for so long; its memory is read `every` so many seconds."""
    target = contestant.target
    rate = SHARE * send(target, contestant.files, 16, 5.0).rps
    parts = urlsplit(target.url)
    headers = {"Content-Type": target.content_type}
    if target.key:
        headers["Authorization"] = target.key
    requests = [
        http_request(parts.netloc, parts.path, headers, path.read_bytes())
        for path in contestant.files
    ]
    done = threading.Event()
    sizes: list[float] = []
    watcher = threading.Thread(
        target=_watch, args=(contestant.guarded, done, every, sizes), daemon=True
    )
    watcher.start()
    end = time.monotonic() + 60 * minutes
    answered, errors, slowest = 0, 0, 0.0
    try:
        while (left := end - time.monotonic()) > 0:
            address = (parts.hostname or "", parts.port or 80)
            answers = open_loop(address, requests, rate, min(every, left))
            answered += sum(one.status == 200 for one in answers)
            errors += sum(one.status != 200 for one in answers)
            slowest = max([slowest, *(one.seconds for one in answers)])
    finally:
        done.set()
        watcher.join()
    return {
        "minutes": minutes,
        "rate_rps": round(rate, 1),
        "answered": answered,
        "errors": errors,
        "slowest_ms": round(1e3 * slowest, 1),
        "rss_mb": [round(size / _MB) for size in sizes],
        "growth": round(growth(sizes), 4),
    }


def _watch(guarded: Guarded, done: threading.Event, every: float, sizes: list[float]) -> None:
    while True:
        sizes.append(guarded.resident())
        if done.wait(every):
            return


def main() -> int:
    """Soak each server; 1 where one failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serve.soak")
    parser.add_argument("--minutes", type=float, default=30.0, help="of each server")
    parser.add_argument("--every", type=float, default=30.0, help="seconds between two readings")
    parser.add_argument("--servers", type=lambda text: text.split(","), default=list(OURS))
    parser.add_argument("--kind", choices=KINDS, default="images")
    parser.add_argument("--artifacts", type=Path, default=ROOT / "artifacts")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    arguments = parser.parse_args()
    kind = KINDS[arguments.kind]
    artifact = kind.artifact(arguments.artifacts)
    found: dict[str, Any] = {"machine": environment.describe(), "artifact": artifact.name}
    failed = False
    for name in arguments.servers:
        with ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="marpress-soak-"))
            field = Field(kind, artifact, Path(folder))
            contestant = stack.enter_context(field.server(name))
            found[name] = soak(contestant, arguments.minutes, arguments.every)
        failed |= found[name]["errors"] > 0 or found[name]["growth"] > MOST_GROWTH
        print(f"{name}: {found[name]}", flush=True)
        files.write_json(arguments.output, found)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
