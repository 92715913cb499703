"""A Python process of our own that answers questions: loaded once, gone when its parent is.

Started as `python -m MODULE`, wherever the parent was started from; the module calls `serve`.
Questions and answers are pickled over a pipe of their own, so that what libraries print disturbs
nobody. Whatever ends the process, its last words reach the parent.
"""

import logging
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any

logger = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 600
# Big batches spend their time in the allocator otherwise; the handlers set the same with mallopt.
MALLOC = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "100000000000",
    "MALLOC_TOP_PAD_": "268435456",
}


class ChildError(Exception):
    """No answer came; `str` says why, for the parent to say of what."""


class Failed(ChildError):
    """What the child's own code raised: `ValueError: ...`."""


class Ended(ChildError):
    """How the process came to its end: `ended with code 3 (its last line)`."""


class TimedOut(ChildError):
    """It took too long and was ended: `gave no answer within 600 s`."""


class Child:
    """A running `python -m module *arguments`, loaded and ready to be asked.

    Args:
        module: calls `serve` when it is run.
        arguments: of its `start`.
        environment: variables beside the parent's own.
        seconds: to load within.

    Raises:
        Failed: `start` raised.
        Ended: the process ended.
        TimedOut: it was not ready in time.
    """

    def __init__(
        self,
        module: str,
        *arguments: str,
        environment: Mapping[str, str] | None = None,
        seconds: float = SECONDS,
    ) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        self._pipe, theirs = Pipe()
        # -P: the user's own folder may hold an `optimize` or a `torch.py`.
        command = [sys.executable, "-P", "-W", "ignore", "-m", module, str(theirs.fileno())]
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        self._process = subprocess.Popen(
            [*command, *arguments],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._errors,
            env={**os.environ, **(environment or {}), "PYTHONPATH": os.pathsep.join(paths)},
        )
        theirs.close()
        logger.debug("process %d: %s %s", self._process.pid, module, " ".join(arguments))
        try:
            self._answer(seconds)
        except BaseException:
            self.close()
            raise

    def ask(self, question: Any, seconds: float = SECONDS) -> Any:
        """The child's answer to `question`, both of anything that pickles.

        Raises:
            Failed: answering it raised; the child can be asked again.
            Ended: the process ended.
            TimedOut: it took longer than `seconds`; the process is ended.
        """
        try:
            self._pipe.send(question)
        except OSError as error:  # EPIPE or ECONNRESET: it has ended
            raise Ended(self._end()) from error
        return self._answer(seconds)

    def _answer(self, seconds: float) -> Any:
        try:
            if not self._pipe.poll(seconds):
                raise TimedOut(f"gave no answer within {seconds:.0f} s")
            good, value = self._pipe.recv()
        except (EOFError, ConnectionResetError) as error:
            raise Ended(self._end()) from error
        except (KeyboardInterrupt, TimedOut):
            self._process.kill()  # busy as it is, it would not see that its pipe is closed
            raise
        if not good:
            raise Failed(value)
        return value

    def _end(self) -> str:
        """How the process came to its end."""
        try:
            code = self._process.wait(10)
        except subprocess.TimeoutExpired:
            return "closed its pipe and goes on"
        if code == -signal.SIGKILL:
            return "was killed: most likely memory ran out, free some and try again"
        self._errors.seek(0)
        last = self._errors.read().decode(errors="replace").strip().splitlines()[-1:]
        return f"ended with code {code} ({' '.join(last) or 'no message'})"

    def close(self) -> None:
        """End the process: a closed pipe is its sign to leave."""
        self._pipe.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.close()

    def __enter__(self) -> "Child":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def serve(start: Callable[..., Callable[[Any], Any]]) -> None:
    """The child's side: `start(*arguments)` loads, and what it returns answers each question."""
    pipe = Connection(int(sys.argv[1]))
    try:
        answer = start(*sys.argv[2:])
    except Exception as error:  # a foreign runtime's loader: anything can come out
        pipe.send((False, _described(error)))
        return
    pipe.send((True, None))
    while True:
        try:
            question = pipe.recv()
        except EOFError:
            return
        try:
            reply = True, answer(question)
        except Exception as error:
            reply = False, _described(error)
        pipe.send(reply)


def _described(error: BaseException) -> str:
    """`ValueError: what it says; from KeyError: what caused it`, in one line."""
    causes = [error] if error.__cause__ is None else [error, error.__cause__]
    return "; from ".join(f"{type(e).__name__}: {' '.join(str(e).split())[:400]}" for e in causes)
