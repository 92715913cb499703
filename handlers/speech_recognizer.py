"""Speech recognition: recordings in, text with its segments out."""

import contextlib
import ctypes
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from handlers.audio import PCM_ENCODINGS, SAMPLE_RATE, AudioSpec, Recording, Samples
from handlers.base import BaseHandler
from handlers.detokenizer import Detokenizer
from handlers.errors import ModelError, RequestError
from handlers.payload import Input, Request, decode_base64
from handlers.vad import Segment, has_speech, segments

CLIP_SECONDS = 30.0
# From here on memory goes back after the answer: 10 ms of page faults, next to 0.1 s of work.
LONG_SECONDS = 10.0
# A clip this short is padded: the model never saw less.
SHORTEST_SAMPLES = 1600


@dataclass
class _Job:
    """One recording on its way: what was said in it so far."""

    recording: Recording
    samples: Samples | None
    start: torch.Tensor | None
    row: int
    stream: bool
    spoken: bool = False  # known to be speech: the detector is not asked
    found: list[dict[str, Any]] = field(default_factory=list)


class SpeechRecognizer(BaseHandler):
    """Samples [N, n] and lengths [N] to token ids [N, t] and counts [N], answered as text."""

    task = "speech_recognition"
    parameters = ("language", "task", "encoding", "sample_rate", "stream")

    def setup(self) -> None:
        self.spec = AudioSpec.from_card(self.card.input)
        self.tokens = Detokenizer(self.folder / "tokenizer.json")
        decoding = self.card.model.get("decoding", {})
        self.languages: dict[str, int] = decoding.get("languages", {})
        self.tasks: dict[str, int] = decoding.get("tasks", {})
        self.start: list[int] = decoding.get("start", [])
        self.language: str = decoding.get("language", "en")
        self._load_detector()
        self._row = -1
        self._context: Any = None

    def initialize(self, context: Any) -> None:
        # Clips come in many lengths. oneDNN keeps compiled kernels for 1024 of them, and
        # TorchScript a copy of its graph for each of the first twenty, which is no faster.
        os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
        torch.jit.set_fusion_strategy([("STATIC", 0), ("DYNAMIC", 0)])
        super().initialize(context)
        _return_freed_memory()

    def _load_detector(self) -> None:
        path = self.folder / "vad.jit"
        try:
            module = torch.jit.load(str(path), map_location="cpu").eval()
        except (RuntimeError, ValueError) as error:
            raise ModelError(
                f"{path} cannot be read: rebuild the archive with vad.jit among the card's files"
            ) from error
        self._detector = module

    def _detect(self, state: dict[str, torch.Tensor]) -> Any:
        """A detector with a state of its own, so that recordings can take turns."""
        model = self._detector._model
        context_size = int(model.context_size_samples)

        def detect(window: torch.Tensor) -> float:
            with torch.inference_mode():
                before = state.get("context", torch.zeros(context_size))
                joined = torch.cat([before, window])
                memory = state.get("memory", torch.zeros(0))
                chance, state["memory"] = model(joined[None], memory)
                state["context"] = window[-context_size:]
                return float(chance)

        return detect

    # A batch's life: rows are counted so that partial text goes to the right client.

    def handle(self, data: Any, context: Any) -> list[bytes]:
        self._row, self._context = -1, context
        try:
            return super().handle(data, context)
        finally:
            self._context = None

    def _parsed(self, row: Any, headers: Mapping[str, Any]) -> Any:
        self._row += 1
        return super()._parsed(row, headers)

    def parse(self, request: Request) -> list[_Job]:
        start = self._start(request)
        stream = self._stream(request)
        encoding, rate = self._pcm(request)
        jobs = []
        for entry in request.inputs:
            try:
                recording = Recording(self._bytes(entry), self.spec, encoding, rate)
                # Short ones are decoded at once; long ones block by block, while transcribed.
                short = recording.seconds <= CLIP_SECONDS
                samples = recording.samples() if short else None
            except RequestError as error:
                if not request.many:
                    raise
                message = f"{entry.where}: {error.message}"
                raise RequestError(error.status, error.type, message) from error
            jobs.append(_Job(recording, samples, start, self._row, stream))
        return jobs

    def infer(self, items: list[_Job]) -> list[Any]:
        results: list[Any] = [None] * len(items)
        waiting: dict[int, Iterator[Segment]] = {}
        for index, job in enumerate(items):
            job.found = []
            waiting[index] = self._segments(job)
        # Each turn takes the next segment of every recording that has one, so that memory
        # holds one segment of each, and short recordings do not wait for long ones.
        while waiting:
            turn: list[tuple[int, Segment]] = []
            for index, pieces in list(waiting.items()):
                try:
                    segment = next(pieces, None)
                except RequestError as error:
                    results[index] = error
                    segment = None
                if segment is None:
                    del waiting[index]
                else:
                    turn.append((index, segment))
            for group in _by_start(turn, items):
                for (index, segment), text in zip(group, self._texts(group, items), strict=True):
                    self._keep(items[index], segment, text)
        if any(job.recording.seconds > LONG_SECONDS for job in items):
            _return_freed_memory()
        for index, job in enumerate(items):
            if results[index] is None:
                results[index] = {
                    "text": " ".join(part["text"] for part in job.found),
                    "segments": job.found,
                    "duration": round(job.recording.seconds, 3),
                }
        return results

    def render(self, request: Request, results: list[Any]) -> Any:
        return results if request.many else results[0]

    def example(self) -> _Job:
        # Noise would end at the detector, and the first real recording would warm up the model.
        noise = np.random.default_rng(0).normal(0, 0.01, 2 * SAMPLE_RATE).astype("<f4")
        recording = Recording(noise.tobytes(), AudioSpec(), "pcm_f32le", SAMPLE_RATE)
        return _Job(recording, recording.samples(), None, 0, False, spoken=True)

    def schemas(self) -> tuple[Any, Any]:
        audio = {
            "description": "wav, flac, ogg or mp3 as the raw body, as a multipart part or in "
            "base64; headerless mono samples with the parameters encoding and sample_rate",
            "type": "string",
        }
        request = {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "type": "object",
            "properties": {
                "data": audio,
                "b64": {"type": "string", "contentEncoding": "base64"},
                "instances": {"type": "array", "minItems": 1},
                "encoding": {"enum": list(PCM_ENCODINGS)},
                "sample_rate": {"type": "integer", "minimum": 4000, "maximum": 192000},
                "language": {"enum": sorted(self.languages) or ["en"]},
                "task": {"enum": sorted(self.tasks) or ["transcribe"]},
                "stream": {"type": "boolean"},
            },
            "x-audio": {
                "max_seconds": self.spec.max_seconds,
                "max_bytes": self.spec.max_bytes,
            },
        }
        number = {"type": "number", "minimum": 0}
        segment = {
            "type": "object",
            "required": ["start", "end", "text"],
            "properties": {"start": number, "end": number, "text": {"type": "string"}},
        }
        one = {
            "type": "object",
            "required": ["text", "segments", "duration"],
            "properties": {
                "text": {"type": "string"},
                "segments": {"type": "array", "items": segment},
                "duration": number,
            },
        }
        answer = {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "oneOf": [one, {"type": "array", "items": one}],
        }
        return request, answer

    # Parameters.

    def _start(self, request: Request) -> torch.Tensor | None:
        """Tokens to decode from, None for the file's own."""
        language = request.parameters.get("language")
        task = request.parameters.get("task")
        if not self.languages:
            if language not in (None, "en"):
                raise RequestError(
                    400, "bad_parameter", "these weights know English only: leave language out"
                )
            if task not in (None, "transcribe"):
                raise RequestError(
                    400, "bad_parameter", "these weights cannot translate: leave task out"
                )
            return None
        if language is None and task is None:
            return None
        if language is not None and language not in self.languages:
            known = ", ".join(sorted(self.languages))
            raise RequestError(400, "bad_parameter", f"language must be one of {known}")
        if task is not None and task not in self.tasks:
            known = ", ".join(sorted(self.tasks))
            raise RequestError(400, "bad_parameter", f"task must be one of {known}")
        tokens = list(self.start)  # start, language, task, no timestamps
        tokens[1] = self.languages[language or self.language]
        tokens[2] = self.tasks[task or "transcribe"]
        return torch.tensor(tokens)

    def _stream(self, request: Request) -> bool:
        value = request.parameters.get("stream", False)
        if isinstance(value, str):
            value = {"true": True, "1": True, "false": False, "0": False}.get(value.lower())
        if not isinstance(value, bool):
            raise RequestError(400, "bad_parameter", "stream must be true or false")
        if value and request.many:
            raise RequestError(400, "bad_parameter", "stream takes one recording a request")
        return value

    def _pcm(self, request: Request) -> tuple[str | None, int | None]:
        encoding = request.parameters.get("encoding")
        if encoding is None:
            if "sample_rate" in request.parameters:
                raise RequestError(
                    400, "bad_parameter", "sample_rate goes with encoding: files say their own"
                )
            return None, None
        if encoding not in PCM_ENCODINGS:
            known = ", ".join(PCM_ENCODINGS)
            raise RequestError(400, "bad_parameter", f"encoding must be one of {known}")
        return encoding, request.integer("sample_rate", SAMPLE_RATE, 4000, 192_000)

    def _bytes(self, entry: Input) -> bytes:
        value = entry.value
        if isinstance(value, str) and not entry.content_type.startswith("text/"):
            value = decode_base64(value, self.spec.max_bytes, entry.where)
        if not isinstance(value, bytes):
            raise RequestError(
                400, "wrong_type", f"{entry.where} is neither an audio file nor base64 of one"
            )
        return value

    # Segments and their text.

    def _segments(self, job: _Job) -> Iterator[Segment]:
        detect = self._detect({})
        if job.samples is None:
            yield from segments(job.recording.blocks(), detect)
        elif has_speech(job.samples, detect) or job.spoken:
            yield Segment(0.0, len(job.samples) / SAMPLE_RATE, job.samples)

    def _texts(self, group: list[tuple[int, Segment]], items: list[_Job]) -> list[str]:
        """What is said in segments that are decoded from the same start."""
        longest = max(len(segment.samples) for _, segment in group)
        batch = torch.zeros(len(group), max(longest, SHORTEST_SAMPLES))
        for row, (_, segment) in enumerate(group):
            batch[row, : len(segment.samples)] = torch.from_numpy(segment.samples)
        lengths = [max(len(segment.samples), SHORTEST_SAMPLES) for _, segment in group]
        start = items[group[0][0]].start
        given = () if start is None else (start,)
        ids, counts = self.predict(batch, torch.tensor(lengths), *given)
        rows = zip(ids.tolist(), counts.tolist(), strict=True)
        return [self.tokens.decode(row[:count]).strip() for row, count in rows]

    def _keep(self, job: _Job, segment: Segment, text: str) -> None:
        if not text:
            return
        end = min(segment.end, job.recording.seconds)
        job.found.append({"start": round(segment.start, 2), "end": round(end, 2), "text": text})
        if job.stream and self._context is not None:
            self._send(job.row, {"segment": job.found[-1]})

    def _send(self, row: int, value: Any) -> None:
        """One line of partial answer to one client, now."""
        from ts.protocol.otf_message_handler import send_intermediate_predict_response

        context = self._context
        line = json.dumps(value).encode("ascii") + b"\n"
        context.set_response_content_type(row, "application/jsonlines")
        context.set_response_status(code=200, phrase="OK", idx=row)
        send_intermediate_predict_response(
            {row: line}, {row: context.request_ids[row]}, "Intermediate", 200, context
        )


def _by_start(
    turn: list[tuple[int, Segment]], items: list[_Job]
) -> list[list[tuple[int, Segment]]]:
    """Segments that can share a batch: those decoded from the same start tokens."""
    groups: dict[tuple[int, ...], list[tuple[int, Segment]]] = {}
    for index, segment in turn:
        start = items[index].start
        key = () if start is None else tuple(start.tolist())
        groups.setdefault(key, []).append((index, segment))
    return list(groups.values())


def _return_freed_memory() -> None:
    """Give freed memory back to the kernel: loading and long clips need much for a moment."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
