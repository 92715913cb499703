"""Runs an exported file in its own process, where the libraries that wrote it are not loaded.

The parent sends arrays and receives arrays or seconds. With one thread the process is bound to one
core, so that every runtime has the time of one thread.
"""

import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, from_numpy

from optimize.errors import ExportRefused
from optimize.evaluation import timer
from optimize.evaluation.session import served
from optimize.export.formats import registry
from optimize.export.formats.interface import Run, arrays
from optimize.utils import child, pickles
from optimize.utils.child import Child, ChildError, Failed, TimedOut

_MODULE = "optimize.export.runner"
# For runtimes that print at start-up or look for accelerators.
QUIET = {
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TF_ENABLE_ONEDNN_OPTS": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "JAX_PLATFORMS": "cpu",
    "TQDM_DISABLE": "1",
}


class Runner:
    """A file of `kind` (a format's name, `served` or `eager`), loaded in a fresh process.

    `engine` and `threads` are those of a `served` file.
    """

    def __init__(self, kind: str, path: Path, engine: str | None = None, threads: int = 1) -> None:
        self.path = path
        self._sent: list[tuple[Tensor, int]] = []
        environment = {**child.MALLOC, **QUIET, "OMP_NUM_THREADS": str(threads)}
        arguments = [kind, str(path.absolute()), engine or "", str(threads)]
        try:
            self._child = Child(_MODULE, *arguments, environment=environment)
        except ChildError as error:
            raise self._refused(error) from error

    def _ask(self, *question: Any) -> Any:
        try:
            return self._child.ask(question)
        except ChildError as error:
            raise self._refused(error) from error

    def _refused(self, error: ChildError) -> ExportRefused:
        if isinstance(error, Failed):
            return ExportRefused(f"{self.path.name} does not run: {error}")
        if isinstance(error, TimedOut):
            return ExportRefused(f"{self.path.name} {error}")
        return ExportRefused(f"{self.path.name}: its process {error}")

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        """The file's answers.

        Raises:
            ExportRefused: it does not run on these inputs.
        """
        return [from_numpy(array) for array in self._ask("run", self._changed(inputs))]

    def _changed(self, inputs: tuple[Tensor, ...]) -> list[Any]:
        """Arrays to send; None for a tensor that is unchanged since the previous call.

        A decoder is called for every token with the same encoded audio, a hundred megabytes.
        """
        current = [(t, -1 if t.is_inference() else t._version) for t in inputs]
        previous = self._sent if len(self._sent) == len(current) else [(None, -1)] * len(current)
        self._sent = current
        return [
            None if tensor is last and version == last_version != -1 else tensor.numpy()
            for (tensor, version), (last, last_version) in zip(current, previous, strict=True)
        ]

    def time(self, *inputs: Tensor) -> timer.Burst:
        """A function for `timer.by_turns` that times the file on these inputs."""
        arrays = [tensor.numpy() for tensor in inputs]
        return lambda seconds: self._ask("time", arrays, seconds)

    def operators(self) -> dict[str, int]:
        """Counts of the file's operators; see `interface.Format.operators`."""
        return self._ask("operators")  # type: ignore[no-any-return]

    def close(self) -> None:
        """End the process."""
        self._child.close()

    def __enter__(self) -> "Runner":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _load(kind: str, path: Path, engine: str, threads: int) -> Run:
    if kind == "served":
        return arrays(served(path, engine or None, threads))
    if kind == "eager":
        model: Any = pickles.load(path).eval()

        def predict(*inputs: Tensor) -> Any:
            with torch.inference_mode():
                return model(*inputs)

        return arrays(predict)
    return registry.load(kind).load(path)


def _start(kind: str, path: str, engine: str, threads: str) -> Callable[[tuple[Any, ...]], Any]:
    """The child's side."""
    if hasattr(os, "sched_setaffinity") and threads == "1":
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    torch.set_num_threads(int(threads))
    run = _load(kind, Path(path), engine, int(threads))
    received: list[Any] = []

    def answer(question: tuple[Any, ...]) -> Any:
        nonlocal received
        verb, *rest = question
        if verb == "operators":
            return registry.load(kind).operators(Path(path))
        if verb == "time":
            arrays, seconds = rest
            return timer.burst([lambda: run(*arrays)], seconds)
        received = [received[i] if array is None else array for i, array in enumerate(rest[0])]
        return run(*received)

    return answer


if __name__ == "__main__":
    child.serve(_start)
