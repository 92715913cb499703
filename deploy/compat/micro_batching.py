"""`ts.handler_utils.micro_batching`: a batch in parts, whose steps run at the same time."""

import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

STEPS = ("preprocess", "inference", "postprocess")


class MicroBatching:
    """Takes the place of a handler's `handle`: `self.handle = MicroBatching(self)`.

    A batch is cut into parts of `micro_batch_size`; each step of the handler has as many threads
    as `parallelism` says (one by default), so that one part is decoded while another is inferred.
    An exception in a step is the batch's, as without micro batches.
    """

    def __init__(
        self,
        parent_handler: Any,
        micro_batch_size: int = 1,
        parallelism: Mapping[str, int] | None = None,
    ) -> None:
        self.handler = parent_handler
        self.micro_batch_size = micro_batch_size
        self._local = threading.local()
        self._parallelism: dict[str, int] = {}
        self._pools: dict[str, ThreadPoolExecutor] = {}
        self.parallelism = dict(parallelism or {})

    @property
    def parallelism(self) -> dict[str, int]:
        """Threads per step."""
        return dict(self._parallelism)

    @parallelism.setter
    def parallelism(self, parallelism: Mapping[str, int]) -> None:
        unknown = set(parallelism) - set(STEPS)
        if unknown:
            raise ValueError(f"no steps {sorted(unknown)}: there are {', '.join(STEPS)}")
        self._parallelism.update(parallelism)
        for step in STEPS:
            threads = max(1, self._parallelism.get(step, 1))
            left = self._pools.get(step)
            self._pools[step] = ThreadPoolExecutor(threads, thread_name_prefix=step)
            if left is not None:
                left.shutdown()

    def shutdown(self) -> None:
        """End the threads."""
        for pool in self._pools.values():
            pool.shutdown()

    def get_micro_batch_idx(self) -> int | None:
        """Which part the calling thread works on."""
        return getattr(self._local, "index", None)

    def handle(self, data: list[Any]) -> list[Any]:
        """The answers to a batch, in its order."""
        size = max(1, self.micro_batch_size)
        starts = range(0, len(data), size)
        pending: list[Future[Any]] = [
            self._submit(STEPS[0], index, data[start : start + size])
            for index, start in enumerate(starts)
        ]
        for step in STEPS[1:]:
            pending = [
                self._submit(step, index, part, wait=True) for index, part in enumerate(pending)
            ]
        return [answer for part in pending for answer in part.result()]

    def __call__(self, data: list[Any], context: Any) -> list[Any]:
        """As `BaseHandler.handle`."""
        started = time.perf_counter()
        handler = self.handler
        handler.context = context
        if handler._is_describe():
            output = [handler.describe_handle()]
        elif handler._is_explain():
            output = handler.explain_handle(handler.preprocess(data), data)
        else:
            output = self.handle(data)
        spent = round(1000 * (time.perf_counter() - started), 2)
        context.metrics.add_time("HandlerTime", spent, None, "ms")
        return output

    def _submit(self, step: str, index: int, value: Any, wait: bool = False) -> "Future[Any]":
        def run() -> Any:
            given = value.result() if wait else value
            self._local.index = index
            return getattr(self.handler, step)(given)

        return self._pools[step].submit(run)
