"""A closed loop of clients: wrk, with connections that stay open."""

import json
import shutil
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from deploy.errors import BadInput

_SCRIPT = Path(__file__).with_name("post.lua")
_TIMEOUT = "30s"


@dataclass(frozen=True)
class Target:
    """Where a server listens and how it is asked; `form` where it takes a multipart form."""

    url: str
    content_type: str
    key: str = ""
    form: bool = False


@dataclass(frozen=True)
class Measured:
    """One run: answers a second that were 200, latencies in milliseconds, everything else."""

    rps: float
    p50_ms: float
    p99_ms: float
    errors: int

    def as_json(self) -> dict[str, Any]:
        """For a file of results."""
        return asdict(self)


def send(target: Target, files: list[Path], clients: int, seconds: float) -> Measured:
    """Send `files` in turn from so many clients. Raises BadInput without wrk."""
    if shutil.which("wrk") is None:
        raise BadInput("wrk is not installed: apt-get install wrk")
    command = ["wrk", "-t1", f"-c{clients}", f"-d{seconds:g}s", "--timeout", _TIMEOUT]
    command += ["-s", str(_SCRIPT), target.url, "--", target.content_type, target.key]
    run = subprocess.run(
        [*command, *map(str, files)], capture_output=True, text=True, check=False, timeout=600
    )
    try:
        line = json.loads(run.stdout.strip().splitlines()[-1])
    except (ValueError, IndexError) as error:
        raise RuntimeError(f"wrk: {run.stdout[-500:]} {run.stderr[-500:]}") from error
    good = line["requests"] - line["refused"]
    return Measured(
        rps=round(good / line["seconds"], 1),
        p50_ms=line["p50_ms"],
        p99_ms=line["p99_ms"],
        errors=line["refused"] + line["lost"],
    )
