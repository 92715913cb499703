"""A command with all the processes that it starts, ended when whoever started it is gone.

    python -m benchmarks.serve.guard COMMAND...     ends when its standard input does

The parent holds the other end of the pipe: however it ends, by kill -9 too, the kernel closes it.
Processes that leave their parents (TorchServe's Java, Ray's daemons) come to the guard, which is a
subreaper: see prctl(2).
"""

import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[2]
_PR_SET_CHILD_SUBREAPER = 36
_PATIENCE = 10.0  # seconds after SIGTERM


class Guarded:
    """The parent's side of a guard."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        """Start `command` in the repository's root; what it prints goes to `log`."""
        self.log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.serve.guard", *command],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                cwd=ROOT,
                env=dict(environment),
                start_new_session=True,  # Ctrl-C reaches the parent alone, which closes the pipe
            )

    def alive(self) -> bool:
        """Whether the command runs."""
        return self._process.poll() is None

    def resident(self) -> int:
        """Bytes of memory of all its processes; pages that they share count once for each."""
        return sum(memory_of(process) for process in family(self._process.pid))

    def cpu_seconds(self) -> dict[str, float]:
        """Processor time so far, by the name of the program."""
        spent: dict[str, float] = {}
        for process in family(self._process.pid):
            try:
                name, times = process.name(), process.cpu_times()
            except psutil.Error:
                continue
            spent[name] = spent.get(name, 0.0) + times.user + times.system
        return spent

    def close(self) -> None:
        """End the command and everything that it started."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def family(pid: int) -> list[psutil.Process]:
    """The descendants of a process."""
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def memory_of(process: psutil.Process) -> int:
    """Resident bytes; 0 for one that has gone."""
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0


def main(command: list[str]) -> int:
    """Run the command until it ends or standard input does; its exit status."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL)

    def follow_parent() -> None:
        while os.read(0, 4096):
            pass
        _end_child(child)

    threading.Thread(target=follow_parent, daemon=True).start()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: child.terminate())
    status = child.wait()
    _end(family(os.getpid()))
    return status


def _end_child(child: "subprocess.Popen[Any]") -> None:
    child.terminate()
    try:
        child.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        child.kill()


def _end(left: list[psutil.Process]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        for process in left:
            try:
                process.send_signal(number)
            except psutil.Error:
                continue
        _, left = psutil.wait_procs(left, timeout=_PATIENCE / 2)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
