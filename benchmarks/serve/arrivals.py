"""Open loops: MLPerf's LoadGen, whose arrivals do not wait for answers.

    python -m benchmarks.serve.arrivals JOB     one test in the peers' environment, JSON in and out

A closed loop hides queues: a slow answer delays the next question. `single_stream` is one question
after the other. `server` looks for the highest rate of Poisson arrivals at which 99 % of the
answers keep below the bound, by halving an interval; every rate is a test of its own.
"""

import json
import queue
import re
import subprocess
import sys
import tempfile
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.serve.guard import ROOT
from benchmarks.serve.load import Target

STEPS = 5
_SENDERS = 64  # requests under way at most; more are late anyway
_ADDRESS = re.compile(r"http://([^:/]+):(\d+)(/.*)")


def measure(
    python: Path, target: Target, files: list[Path], bound_ms: float, seconds: float, most: float
) -> dict[str, Any]:
    """Both scenarios of one server; `most` is a rate that it cannot keep, requests a second.

    `server_rps` is 0 where no rate that was tried keeps the bound.
    """
    alone = _test(python, target, files, {"scenario": "SingleStream", "seconds": seconds})
    low, high, best = 0.0, most, 0.0
    for _ in range(STEPS):
        rate = (low + high) / 2
        job = {"scenario": "Server", "seconds": seconds, "rate": rate, "bound_ms": bound_ms}
        found = _test(python, target, files, job)
        if found["valid"]:
            low = best = rate
        else:
            high = rate
    return {
        "single_stream_p50_ms": alone["p50_ms"],
        "single_stream_p99_ms": alone["p99_ms"],
        "server_rps": round(best, 1),
        "bound_ms": bound_ms,
        "seconds": seconds,
    }


def _test(python: Path, target: Target, files: list[Path], job: dict[str, Any]) -> dict[str, Any]:
    told = {**job, "target": asdict(target), "files": [str(path) for path in files]}
    run = subprocess.run(
        [str(python), "-m", "benchmarks.serve.arrivals", json.dumps(told)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60 + 4 * job["seconds"],
    )
    if run.returncode:
        raise RuntimeError(f"LoadGen: {run.stderr[-1000:]}")
    return dict(json.loads(run.stdout.splitlines()[-1]))


class _Senders:
    """Threads with a connection each, which answer LoadGen's samples."""

    def __init__(self, target: Target, bodies: list[bytes]) -> None:
        import http.client

        host, port, self._path = _ADDRESS.fullmatch(target.url).groups()  # type: ignore[union-attr]
        self._headers = {"Content-Type": target.content_type}
        if target.key:
            self._headers["Authorization"] = target.key
        self._bodies = bodies
        self._waiting: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.errors = 0
        for _ in range(_SENDERS):
            connection = http.client.HTTPConnection(host, int(port), timeout=60)
            threading.Thread(target=self._run, args=(connection,), daemon=True).start()

    def issue(self, samples: list[Any]) -> None:
        """LoadGen's callback: returns at once."""
        for sample in samples:
            self._waiting.put(sample)

    def _run(self, connection: Any) -> None:
        import mlperf_loadgen

        while True:
            sample = self._waiting.get()
            body = self._bodies[sample.index % len(self._bodies)]
            try:
                connection.request("POST", self._path, body, self._headers)
                reply = connection.getresponse()
                reply.read()
                self.errors += reply.status != 200
            except OSError:
                connection.close()
                self.errors += 1
            response = mlperf_loadgen.QuerySampleResponse(sample.id, 0, 0)
            mlperf_loadgen.QuerySamplesComplete([response])


def _run(job: dict[str, Any]) -> dict[str, Any]:
    """One test of LoadGen."""
    import mlperf_loadgen as loadgen

    bodies = [Path(name).read_bytes() for name in job["files"]]
    senders = _Senders(Target(**job["target"]), bodies)
    settings = loadgen.TestSettings()
    settings.scenario = getattr(loadgen.TestScenario, job["scenario"])
    settings.mode = loadgen.TestMode.PerformanceOnly
    settings.min_duration_ms = settings.max_duration_ms = int(1000 * job["seconds"])
    settings.min_query_count = 1
    if job["scenario"] == "Server":
        settings.server_target_qps = job["rate"]
        settings.server_target_latency_ns = int(1e6 * job["bound_ms"])
        settings.server_target_latency_percentile = 0.99
        settings.server_max_async_queries = 100_000
    with tempfile.TemporaryDirectory() as folder:
        logs = loadgen.LogSettings()
        output = loadgen.LogOutputSettings()
        output.outdir, output.copy_summary_to_stdout = folder, False
        logs.log_output, logs.enable_trace = output, False
        sut = loadgen.ConstructSUT(senders.issue, lambda: None)
        library = loadgen.ConstructQSL(len(bodies), len(bodies), lambda _: None, lambda _: None)
        loadgen.StartTestWithLogSettings(sut, library, settings, logs, "")
        loadgen.DestroyQSL(library)
        loadgen.DestroySUT(sut)
        summary = (Path(folder) / "mlperf_log_summary.txt").read_text()
    found = {**parsed(summary), "errors": senders.errors}
    bound = job.get("bound_ms", float("inf"))
    return {**found, "valid": found["p99_ms"] <= bound and not senders.errors}


def parsed(summary: str) -> dict[str, Any]:
    """The latencies that LoadGen's summary tells, in milliseconds; infinite where it does not."""

    def milliseconds(percent: str) -> float:
        found = re.search(rf"^{percent} percentile latency \(ns\)\s*:\s*(\d+)", summary, re.M)
        return round(int(found[1]) / 1e6, 2) if found else float("inf")

    return {"p50_ms": milliseconds(r"50\.00"), "p99_ms": milliseconds(r"99\.00")}


if __name__ == "__main__":
    print(json.dumps(_run(json.loads(sys.argv[1]))))
