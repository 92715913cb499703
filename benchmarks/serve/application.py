"""The handler without a server: what every peer calls, on the files of FOLDER.

FOLDER is an unpacked archive, CONTENT_TYPE the type of what is sent, both in the environment.
"""

import os
from types import SimpleNamespace
from typing import Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

BATCH = 4


class Application:
    """One handler, loaded and warmed up."""

    def __init__(self, batch: int = BATCH) -> None:
        import importlib
        import json
        from pathlib import Path

        folder = Path(os.environ["FOLDER"])
        name = json.loads((folder / "model.json").read_text())["handler"]
        module = importlib.import_module(f"handlers.{name}")
        self._handler = getattr(module, "".join(part.capitalize() for part in name.split("_")))()
        properties = {"model_dir": str(folder), "batch_size": batch}
        self._handler.initialize(SimpleNamespace(system_properties=properties))
        self._header = {"content-type": os.environ.get("CONTENT_TYPE", "")}

    def answers(self, bodies: list[bytes]) -> list[bytes]:
        """The JSON for each input. Raises RuntimeError where one is refused."""
        rows: list[Any] = [{"body": body} for body in bodies]
        replies = self._handler.answer(rows, [self._header] * len(rows))
        for reply in replies:
            if reply.status != 200:
                raise RuntimeError(f"{reply.status} {reply.body!r}")
        return [reply.body for reply in replies]

    def answer(self, body: bytes) -> bytes:
        """The JSON for one input."""
        return self.answers([body])[0]
