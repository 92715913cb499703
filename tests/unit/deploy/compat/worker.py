"""Runs handlers as a worker does, each in a process of its own.

    python worker.py [BLOCKED ...] < JOBS.json

A job is `{"folder": ..., "requests": [{"body": text, "type": ..., "headers": {...}}]}`; its
requests are one batch. BLOCKED packages are taken for not installed. Prints one JSON object a job.
"""

import importlib.abc
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[4]


class Blocker(importlib.abc.MetaPathFinder):
    """Has the import system find no package of these names."""

    def __init__(self, names: list[str]) -> None:
        self.names = names

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> None:
        if fullname.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)


def ask(folder: Path, requests: list[dict[str, Any]]) -> dict[str, Any]:
    """What a handler answers to one batch, or why it does not load."""
    from deploy.compat import loader
    from deploy.service.context import Context

    reported: list[Any] = []
    partial: list[list[str]] = [[] for _ in requests]
    headers = [
        {"body": {"content-type": r.get("type", "")}, **r.get("headers", {})} for r in requests
    ]
    senders = [lambda answer, at=at: at.append(answer.body.decode()) for at in partial]
    context = Context(headers, senders)
    try:
        handler = loader.load(
            folder, len(requests), lambda *found: reported.append(found), None, None
        )
    except loader.Unloadable as error:
        return {"error": str(error)}
    rows = [{"body": r["body"].encode("latin-1")} for r in requests]
    bodies = handler.answer(rows, context)
    return {
        "bodies": [body.decode("latin-1") for body in bodies],
        "status": [reply.status for reply in context.replies],
        "types": [reply.content_type for reply in context.replies],
        "partial": partial,
        "metrics": [[kind, name, value, dict(labels)] for kind, name, value, labels in reported],
    }


def run(jobs: list[dict[str, Any]], *blocked: str) -> list[dict[str, Any]]:
    """The jobs' results; called by tests."""
    done = subprocess.run(
        [sys.executable, __file__, *blocked],
        input=json.dumps(jobs, default=str),
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith('{"')]
    assert len(lines) == len(jobs), done.stderr
    return [json.loads(line) for line in lines]


def _each(jobs: list[dict[str, Any]]) -> None:
    import torch  # noqa: F401  # once for all

    from deploy.compat import loader, names  # noqa: F401

    names.provide()
    for job in jobs:
        child = os.fork()
        if not child:
            result = ask(Path(job["folder"]), job["requests"])
            print("\n" + json.dumps(result), flush=True)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status:
            print("\n" + json.dumps({"error": f"the worker ended with {status}"}), flush=True)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    sys.meta_path.insert(0, Blocker(sys.argv[1:]))
    _each(json.load(sys.stdin))
