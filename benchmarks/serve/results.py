"""benchmarks/results/serving.json: every run of every round, and the medians that are shown.

{KIND: {"ceiling_rps": ..., "clients": {"1": {SERVER: {"rps", "p50_ms", "p99_ms", "errors"}}}}}
"""

import json
import statistics
from pathlib import Path
from typing import Any

from optimize.utils import files

PATH = Path(__file__).resolve().parents[1] / "results" / "serving.json"
CEILING = "ceiling"
_MEDIANS = ("rps", "p50_ms", "p99_ms")


def read(path: Path = PATH) -> dict[str, Any]:
    """What was measured so far; empty where nothing was."""
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def write(results: dict[str, Any], path: Path = PATH) -> None:
    """Replace the file in one step."""
    files.write_json(path, results)


def summarise(kind: dict[str, Any]) -> None:
    """Fill in the medians of one kind from its `rounds`; errors are summed.

    `rounds` is a list of {SERVER: {CLIENTS: measured}, "ceiling": {BATCH: requests/s}}.
    """
    runs: dict[str, dict[str, list[dict[str, Any]]]] = {}
    ceilings: dict[str, list[float]] = {}
    for one in kind["rounds"]:
        for server, columns in one.items():
            for column, value in columns.items():
                if server == CEILING:
                    ceilings.setdefault(column, []).append(value)
                else:
                    runs.setdefault(column, {}).setdefault(server, []).append(value)
    kind["ceiling_by_batch"] = {b: round(statistics.median(v), 1) for b, v in ceilings.items()}
    kind["ceiling_rps"] = max(kind["ceiling_by_batch"].values(), default=None)
    kind["clients"] = {
        column: {
            server: {
                **{k: round(statistics.median(m[k] for m in measured), 2) for k in _MEDIANS},
                "errors": sum(m["errors"] for m in measured),
            }
            for server, measured in runs[column].items()
        }
        for column in sorted(runs, key=int)
    }


def table(kind: dict[str, Any]) -> str:
    """One kind as text: a row for each server, requests/s and latencies for each column."""
    columns = list(kind["clients"])
    lines = [f"{'requests/s / p50 / p99 ms':26}" + "".join(f"{c:>24}" for c in columns)]
    servers = {name for column in columns for name in kind["clients"][column]}
    order = list(dict.fromkeys(name for one in kind["rounds"] for name in one if name in servers))
    for server in sorted(servers, key=order.index):
        cells = []
        for column in columns:
            m = kind["clients"][column].get(server)
            cell = f"{m['rps']:.0f} / {m['p50_ms']:.1f} / {m['p99_ms']:.0f}" if m else ""
            cells.append(cell + (f" {m['errors']}!" if m and m["errors"] else ""))
        lines.append(f"{server:26}" + "".join(f"{cell:>24}" for cell in cells))
    ceilings = ", ".join(f"batch {b} {v:.0f}" for b, v in kind["ceiling_by_batch"].items())
    lines.append(f"without a server, two processes: {ceilings}")
    for server, m in kind.get("arrivals", {}).items():
        lines.append(
            f"{server}: one question after the other {m['single_stream_p50_ms']:.1f} ms (p99 "
            f"{m['single_stream_p99_ms']:.1f}), Poisson arrivals up to {m['server_rps']:.0f}/s "
            f"with p99 below {m['bound_ms']:g} ms ({m['seconds']:g} s a test)"
        )
    if "gain" in kind:
        lines.append(f"ours over the original in {kind['gain']['peer']}: {kind['gain']['ratio']}")
    for server, why in kind.get("absent", {}).items():
        lines.append(f"{server} did not run: {why.splitlines()[0]}")
    return "\n".join(lines)
