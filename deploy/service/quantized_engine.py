"""One quantized engine at a time.

`torch.backends.quantized.engine` belongs to the process, and a quantized model answers only
under the engine it was made for. Models of one engine run together; others wait their turn.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Turns:
    """Sets the process's engine for the models that need one, in turn."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._engine: str | None = None
        self._users = 0

    @contextmanager
    def turn(self, engine: str | None) -> Iterator[None]:
        """Run the block under `engine`; None for a model that needs no particular one."""
        if engine is None:
            yield
            return
        import torch

        with self._changed:
            self._changed.wait_for(lambda: self._users == 0 or self._engine == engine)
            if engine in torch.backends.quantized.supported_engines:
                torch.backends.quantized.engine = engine  # others: the handler says why not
            self._engine = engine
            self._users += 1
        try:
            yield
        finally:
            with self._changed:
                self._users -= 1
                self._changed.notify_all()


TURNS = Turns()
