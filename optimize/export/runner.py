"""An exported file in a process of its own: nothing that wrote it is there to help.

The parent sends arrays over a pipe and gets arrays, or seconds, back. The process is bound to
one core, so that every runtime has one thread's worth of time.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any

from torch import Tensor, from_numpy

from optimize.errors import ExportRefused
from optimize.evaluation.latency import MALLOC

START_SECONDS = 600
CALL_SECONDS = 600


class Runner:
    """A file of `kind` (a format's name, `served` or `eager`), loaded in a fresh process."""

    def __init__(self, kind: str, path: Path, engine: str | None = None) -> None:
        self.path = path
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        self._kept: list[tuple[Tensor, int]] = []
        self._pipe, child = Pipe()
        command = [sys.executable, "-W", "ignore", "-m", "optimize.export.runner"]
        self._process = subprocess.Popen(
            [*command, str(child.fileno()), kind, str(path.absolute()), engine or ""],
            pass_fds=[child.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._errors,
            cwd=Path(__file__).resolve().parents[2],
            env={**os.environ, **MALLOC, **QUIET, "OMP_NUM_THREADS": "1"},
        )
        child.close()
        try:
            self._answer(START_SECONDS)
        except ExportRefused:
            self.close()
            raise

    def _answer(self, seconds: float) -> Any:
        try:
            if not self._pipe.poll(seconds):
                raise ExportRefused(f"{self.path.name} gave no answer within {seconds:.0f} s")
            good, value = self._pipe.recv()
        except EOFError as error:
            raise ExportRefused(f"{self.path.name}: its process {self._end()}") from error
        if not good:
            raise ExportRefused(f"{self.path.name} does not run: {value}")
        return value

    def _end(self) -> str:
        """How the process came to its end."""
        if self._process.wait(10) == -signal.SIGKILL:
            return "was killed: most likely memory ran out, free some and export again"
        self._errors.seek(0)
        last = self._errors.read().decode(errors="replace").strip().splitlines()[-1:]
        return f"ended with code {self._process.returncode} ({' '.join(last) or 'no message'})"

    def _ask(self, question: Any) -> Any:
        try:
            self._pipe.send(question)
        except BrokenPipeError as error:
            raise ExportRefused(f"{self.path.name}: its process has ended") from error
        return self._answer(CALL_SECONDS)

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        """The file's answers.

        Raises:
            ExportRefused: it does not run on these inputs.
        """
        return [from_numpy(array) for array in self._ask(("run", self._news(inputs)))]

    def _news(self, inputs: tuple[Tensor, ...]) -> list[Any]:
        """Arrays to send; None for a tensor that the process has from the call before.

        A decoder is asked for token after token with what was heard, a hundred megabytes.
        """
        known = [(t, -1 if t.is_inference() else t._version) for t in inputs]
        before = self._kept if len(self._kept) == len(known) else [(None, -1)] * len(known)
        self._kept = known
        return [
            None if tensor is was and version == then != -1 else tensor.numpy()
            for (tensor, version), (was, then) in zip(known, before, strict=True)
        ]

    def time(self, seconds: float, *inputs: Tensor) -> list[float]:
        """Processor seconds of each of the calls that fit in so much time (3 at least)."""
        return self._ask(("time", [tensor.numpy() for tensor in inputs], seconds))  # type: ignore[no-any-return]

    def operators(self) -> dict[str, int]:
        """What the file consists of; see `optimize.export.Format.operators`."""
        return self._ask(("operators", []))  # type: ignore[no-any-return]

    def close(self) -> None:
        """End the process: a closed pipe is its sign to leave."""
        self._pipe.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.close()

    def __enter__(self) -> "Runner":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


# Runtimes that greet on standard error, or look for accelerators that are not there.
QUIET = {
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TF_ENABLE_ONEDNN_OPTS": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "JAX_PLATFORMS": "cpu",
    "TQDM_DISABLE": "1",
}


def _load(kind: str, path: Path, engine: str) -> Any:
    import torch

    torch.set_num_threads(1)
    if kind not in ("served", "eager"):
        from optimize.export.formats import base

        return base.load(kind).load(path)
    from optimize.utils import pickles, torchscript

    if engine:
        torch.backends.quantized.engine = engine
    model: Any = torchscript.load(path) if kind == "served" else pickles.load(path).eval()

    def run(*arrays: Any) -> list[Any]:
        with torch.inference_mode():
            found = model(*(from_numpy(array) for array in arrays))
        return [t.numpy() for t in ([found] if isinstance(found, Tensor) else found)]

    return run


def _serve(pipe: Connection, kind: str, path: Path, engine: str) -> None:
    """The child's side."""
    try:
        run = _load(kind, path, engine)
    except Exception as error:  # a foreign runtime's loader: anything can come out
        pipe.send((False, f"{type(error).__name__}: {str(error)[:400]}"))
        return
    pipe.send((True, None))
    kept: list[Any] = []
    while True:
        try:
            what, arrays, *rest = pipe.recv()
        except EOFError:
            return
        try:
            if what == "operators":
                from optimize.export.formats import base

                pipe.send((True, base.load(kind).operators(path)))
                continue
            if what == "run":
                kept = [kept[i] if array is None else array for i, array in enumerate(arrays)]
                pipe.send((True, run(*kept)))
                continue
            times: list[float] = []
            end = time.perf_counter() + rest[0]
            while time.perf_counter() < end or len(times) < 3:
                # The processor's time, one thread: what else the machine does is not counted.
                start = time.process_time()
                run(*arrays)
                times.append(time.process_time() - start)
            pipe.send((True, times))
        except Exception as error:
            pipe.send((False, f"{type(error).__name__}: {str(error)[:400]}"))


if __name__ == "__main__":
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    _serve(Connection(int(sys.argv[1])), sys.argv[2], Path(sys.argv[3]), sys.argv[4])
