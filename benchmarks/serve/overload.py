"""More than a server can take: python -m benchmarks.serve.overload [--servers torchserve,service].

The peak is what a closed loop of 16 clients gets. Then requests arrive at three times that rate,
and at half of it: what is answered in time, how fast the rest is refused, and how soon a request
takes its usual time again. The senders are on the same processor and count against the server.
"""

import argparse
import statistics
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks.serve import results
from benchmarks.serve.kinds import KINDS, ROOT
from benchmarks.serve.load import Target, send
from benchmarks.serve.open_loop import Answer, open_loop
from benchmarks.serve.race import Field
from benchmarks.serve.servers import OURS
from deploy.tune.clients import http_request
from optimize.evaluation import environment
from optimize.utils import files

OUTPUT = results.PATH.with_name("overload.json")
FACTOR = 3.0


def measure(target: Target, paths: list[Path], seconds: float) -> dict[str, Any]:
    """The peak, the overload and the recovery of one server."""
    parts = urlsplit(target.url)
    headers = {"Content-Type": target.content_type}
    if target.key:
        headers["Authorization"] = target.key
    requests = [
        http_request(parts.netloc, parts.path, headers, path.read_bytes()) for path in paths
    ]
    address = (parts.hostname or "", parts.port or 80)
    peak = send(target, paths, 16, seconds).rps
    usual = _median(open_loop(address, requests, peak / 4, seconds / 2))
    over = open_loop(address, requests, FACTOR * peak, seconds)
    after = open_loop(address, requests, peak / 4, seconds)
    return {"peak_rps": peak, **overloaded(over, seconds, peak), **recovered(after, usual)}


def overloaded(answers: Sequence[Answer], seconds: float, peak: float) -> dict[str, Any]:
    """Goodput under overload, and how fast the rest was refused."""
    good = [one for one in answers if one.status == 200]
    refused = sorted(one.seconds for one in answers if one.status in (429, 503))
    ended = max([seconds, *(one.due + one.seconds for one in good)])
    return {
        "sent": len(answers),
        "goodput_rps": round(len(good) / ended, 1),
        "goodput_of_peak": round(len(good) / ended / peak, 3) if peak else 0.0,
        "good_p99_ms": _milliseconds([one.seconds for one in good], 0.99),
        "refused": len(refused),
        "refused_p50_ms": _milliseconds(refused, 0.5),
        "refused_p99_ms": _milliseconds(refused, 0.99),
        "lost": len(answers) - len(good) - len(refused),
    }


def recovered(answers: Sequence[Answer], usual: float) -> dict[str, Any]:
    """Seconds after the overload until no answer takes twice the usual time, or is none."""
    late = [one.due for one in answers if one.status != 200 or one.seconds > 2 * usual + 0.01]
    # One answer in a hundred may be late on a quiet server too.
    late = sorted(late)[: max(0, len(late) - len(answers) // 100)]
    return {
        "usual_p50_ms": round(1e3 * usual, 2),
        "back_after_s": round(late[-1], 2) if late else 0.0,
    }


def _median(answers: Sequence[Answer]) -> float:
    return statistics.median(one.seconds for one in answers if one.status == 200)


def _milliseconds(seconds: Sequence[float], share: float) -> float | None:
    ordered = sorted(seconds)
    return round(1e3 * ordered[int(share * (len(ordered) - 1))], 2) if ordered else None


def main() -> None:
    """Overload each server, print and write what came of it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serve.overload")
    parser.add_argument("--servers", type=lambda text: text.split(","), default=list(OURS))
    parser.add_argument("--seconds", type=float, default=10.0, help="of each part")
    parser.add_argument("--kind", choices=KINDS, default="images")
    parser.add_argument("--artifacts", type=Path, default=ROOT / "artifacts")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    arguments = parser.parse_args()
    kind = KINDS[arguments.kind]
    artifact = kind.artifact(arguments.artifacts)
    found: dict[str, Any] = {
        "machine": environment.describe(),
        "factor": FACTOR,
        "artifact": artifact.name,
    }
    for name in arguments.servers:
        with ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="marpress-overload-"))
            field = Field(kind, artifact, Path(folder))
            contestant = stack.enter_context(field.server(name))
            found[name] = measure(contestant.target, contestant.files, arguments.seconds)
        print(f"{name}: {found[name]}", flush=True)
        files.write_json(arguments.output, found)


if __name__ == "__main__":
    main()
