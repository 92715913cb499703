"""A foreign TorchScript file served as it is: silero-vad, audio in, chances of speech out."""

from typing import Any

import torch

from handlers.audio import SAMPLE_RATE, Samples, decode
from handlers.base import BaseHandler
from handlers.payload import Request
from handlers.vad import WINDOW, windows


class VoiceActivity(BaseHandler):
    """The chance of speech in every 32 ms of a recording."""

    task = "voice_activity"

    def preprocess(self, request: Request) -> list[Samples]:
        return [decode(entry.value) for entry in request.inputs]

    def inference(self, inputs: list[Samples]) -> list[Any]:
        return [self._chances(samples) for samples in inputs]

    def postprocess(self, request: Request, results: list[Any]) -> Any:
        return results if request.many else results[0]

    def _chances(self, samples: Samples) -> dict[str, Any]:
        model = torch.jit.load(str(self.folder / self.card.model["file"]))  # a fresh state
        with torch.inference_mode():
            rows = [torch.from_numpy(window)[None] for window in windows([samples])]
            chances = [round(float(model(row, SAMPLE_RATE)), 4) for row in rows]
        return {"window_s": WINDOW / SAMPLE_RATE, "speech": chances}
