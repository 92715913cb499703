"""A Python child process that answers questions. It loads once and ends with its parent.

It is started as `python -m MODULE`, from any working directory, and the module calls `serve`.
Questions and answers are pickled over a separate pipe, so what libraries print does no harm.
However the process ends, the parent gets the last line it wrote to standard error.
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
from types import TracebackType
from typing import Any

from optimize.utils import user_modules

logger = logging.getLogger(__name__)

ROOT = user_modules.ROOT
SECONDS = 600
# Without these, large batches spend their time in the allocator. The handlers use mallopt.
MALLOC = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "100000000000",
    "MALLOC_TOP_PAD_": "268435456",
}


class ChildError(Exception):
    """No answer came; `str` gives the reason, and the parent adds which file it was about."""


class Failed(ChildError):
    """The child's own code raised: `ValueError: ...`."""


class Ended(ChildError):
    """The process ended: `ended with code 3 (its last line)`."""


class TimedOut(ChildError):
    """It took too long and was killed: `gave no answer within 600 s`."""


class Child:
    """A running `python -m module *arguments`, loaded and ready to be asked.

    Args:
        module: calls `serve` when it is run.
        arguments: passed to its `start`.
        environment: variables in addition to the parent's.
        seconds: time limit for loading.

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
            env={
                **os.environ,
                **user_modules.environment(),
                **(environment or {}),
                "PYTHONPATH": os.pathsep.join(paths),
            },
        )
        theirs.close()
        logger.debug("process %d: %s %s", self._process.pid, module, " ".join(arguments))
        try:
            self._answer(seconds)
        except BaseException:
            self.close()
            raise

    def ask(self, question: Any, seconds: float = SECONDS) -> Any:
        """The child's answer to `question`; both can be anything that pickles.

        Raises:
            Failed: answering it raised; the child can be asked again.
            Ended: the process ended.
            TimedOut: it took longer than `seconds`; the process is ended.
        """
        try:
            self._pipe.send(question)
        except OSError as error:  # EPIPE or ECONNRESET: the process has ended
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
            self._process.kill()  # it is busy and would not notice the closed pipe
            raise
        if not good:
            raise Failed(value)
        return value

    def _end(self) -> str:
        """A sentence on how the process ended."""
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
        """End the process, which exits when its pipe is closed."""
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
    """The child's side: `start(*arguments)` loads and returns the function that answers."""
    pipe = Connection(int(sys.argv[1]))
    user_modules.inherit()
    try:
        answer = start(*sys.argv[2:])
    except Exception as error:  # a runtime's loader can raise anything
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
    """One line with the error and its cause: `ValueError: ...; from KeyError: ...`."""
    causes = [error] if error.__cause__ is None else [error, error.__cause__]
    return "; from ".join(f"{type(e).__name__}: {' '.join(str(e).split())[:400]}" for e in causes)
