"""A contestant in a process of its own, which answers questions sent as lines of JSON."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parents[1]
# What handlers.backend.keep_freed_memory sets: by default malloc returns big activations to the
# system after every call, and that dominates the times.
MALLOC = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "100000000000",
    "MALLOC_TOP_PAD_": "268435456",
}


class ContestantError(RuntimeError):
    """A contestant could not be loaded, or its process ended."""


class Contestant:
    """The parent's side."""

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str] | None = None,
        log: IO[str] | int | None = None,
        cores: str = "",
    ) -> None:
        """Start `command`, which calls `answer_questions`, and wait until it has loaded.

        Args:
            command: run in the repository's root.
            environment: of the process; None for this process's own.
            log: where its standard error goes, as for subprocess.Popen.
            cores: CPUs to bind it to, such as "0,1"; "" for all.

        Raises:
            ContestantError: it ended before it was ready.
        """
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            cwd=ROOT,
            env=environment,
        )
        if cores:
            os.sched_setaffinity(self.process.pid, {int(core) for core in cores.split(",")})
        try:
            self._read()
        except ContestantError:
            self.close()
            raise

    def ask(self, question: Any) -> Any:
        """The answer to one JSON value. Raises ContestantError if the process has ended."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(question) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # reading says so
        return self._read()

    def close(self) -> None:
        """Let the process end, and wait for it."""
        self.process.communicate()

    def _read(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise ContestantError(f"a contestant ended with status {self.process.wait()}")
        return json.loads(line)


def answer_questions(load: Callable[[], Callable[[Any], Any]]) -> None:
    """The process's side: load the contestant, then answer until standard input ends.

    `load` returns a function from a JSON value to its answer.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries' prints must not be taken for answers
    answer = load()
    answers.write("null\n")
    answers.flush()
    for line in sys.stdin:
        answers.write(json.dumps(answer(json.loads(line))) + "\n")
        answers.flush()
