"""Speech recognition: recordings in, text with its segments out."""

import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from handlers.audio import FORMATS, PCM_ENCODINGS, SAMPLE_RATE, AudioSpec, Recording, Samples
from handlers.base import BaseHandler
from handlers.detokenizer import Detokenizer
from handlers.errors import ModelError, RequestError
from handlers.memory import trim
from handlers.payload import Input, Request, decode_base64, refuse_url
from handlers.predictions import DRAFT, one_or_many
from handlers.streaming import Send
from handlers.vad import Segment, has_speech, segments, speech_share

CLIP_SECONDS = 30.0
# Freed memory is returned after longer answers: 10 ms of page faults, beside 0.1 s of work.
LONG_SECONDS = 10.0
# Shorter clips are padded to this length: the model was never given shorter ones.
SHORTEST_SAMPLES = 1600
_TRIAL_SECONDS = 25
# Of a text's average log-probability: below it, the text is believed only if what is loud is speech
# (0.83 to 1 for recordings of it, at most 0.7 for the tunes and noises of benchmarks/silence.py).
SURE, SPEECH_SHARE = -0.4, 0.75
MOST_REPETITION = 2.4  # length over compressed length, from Whisper's reference
# Parameters of English-only weights: the name, the one value allowed, the error for any other.
_ENGLISH_ONLY = (
    ("language", "en", "these weights know English only: leave language out"),
    ("task", "transcribe", "these weights cannot translate: leave task out"),
)


@dataclass
class _Transcript:
    """A recording and the text of its segments so far.

    Attributes:
        samples: the whole recording, decoded; None for a long one, which is decoded block by block.
        start: int64 `[k]`, the tokens to decode from; None for the model file's own.
        send: sends each segment to a client that streams.
        spoken: taken for speech whatever the detector says.
        sent: how many segments were streamed; a batch that is retried does not send them again.
    """

    recording: Recording
    samples: Samples | None
    start: torch.Tensor | None = None
    send: Send | None = None
    spoken: bool = False
    segments: list[dict[str, Any]] = field(default_factory=list)
    sent: int = 0

    def add(self, segment: Segment, text: str) -> None:
        """Append a segment's text, unless it is empty, and stream it."""
        if not text:
            return
        end = min(segment.end, self.recording.seconds)
        self.segments.append({"start": round(segment.start, 2), "end": round(end, 2), "text": text})
        if self.send is not None and len(self.segments) > self.sent:
            self.send({"segment": self.segments[-1]})
            self.sent = len(self.segments)


class SpeechRecognizer(BaseHandler):
    """Samples [N, n] and lengths [N] to token ids [N, t] and counts [N], answered as text."""

    task = "speech_recognition"
    parameters = ("language", "task", "encoding", "sample_rate", "stream")
    unit = "seconds"
    limits = ("max_seconds",)
    max_json = 4096

    def setup(self) -> None:
        self.spec = AudioSpec.from_card(self.card.input)
        self.tokens = Detokenizer(self.folder / "tokenizer.json")
        decoding = self.card.model.get("decoding", {})
        self.languages: dict[str, int] = decoding.get("languages", {})
        self.tasks: dict[str, int] = decoding.get("tasks", {})
        self.start: list[int] = decoding.get("start", [])
        self.language: str = decoding.get("language", "en")
        self._load_detector()

    def initialize(self, context: Any) -> None:
        # Clips come in many lengths. oneDNN keeps compiled kernels for 1024 of them, and
        # TorchScript a copy of its graph for each of the first twenty, which is no faster.
        os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
        torch.jit.set_fusion_strategy([("STATIC", 0), ("DYNAMIC", 0)])
        super().initialize(context)
        trim()

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

    def preprocess(self, request: Request) -> list[_Transcript]:
        start = self._start(request)
        encoding, rate = self._pcm(request)
        send = request.send if request.streaming else None

        def load(entry: Input) -> _Transcript:
            recording = Recording(self._bytes(entry), self.spec, encoding, rate)
            return _Transcript(recording, None, start, send)

        return request.load_inputs(load)

    def cost(self, value: _Transcript) -> float:
        return value.recording.seconds

    def decode(self, value: _Transcript) -> _Transcript:
        # Short ones are decoded at once; long ones block by block, while transcribed.
        if value.samples is None and value.recording.seconds <= CLIP_SECONDS:
            value.samples = value.recording.samples()
        return value

    def inference(self, inputs: list[_Transcript]) -> list[Any]:
        errors: dict[int, RequestError] = {}
        waiting: dict[int, Iterator[Segment]] = {}
        for index, transcript in enumerate(inputs):
            transcript.segments = []
            waiting[index] = self._segments(transcript)
        # Each turn takes the next segment of every recording that has one, so that memory
        # holds one segment of each, and short recordings do not wait for long ones.
        while waiting:
            turn: list[tuple[int, Segment]] = []
            for index, pieces in list(waiting.items()):
                try:
                    segment = next(pieces, None)
                except RequestError as error:
                    errors[index] = error
                    segment = None
                if segment is None:
                    del waiting[index]
                else:
                    turn.append((index, segment))
            for group in _by_start(turn, inputs):
                heard = self._heard(group, inputs)
                for (index, segment), (text, confidence) in zip(group, heard, strict=True):
                    if self._is_speech(segment, text, confidence):
                        inputs[index].add(segment, text)
        if any(transcript.recording.seconds > LONG_SECONDS for transcript in inputs):
            trim()
        return [
            errors.get(index)
            or {
                "text": " ".join(part["text"] for part in transcript.segments),
                "segments": transcript.segments,
                "duration": round(transcript.recording.seconds, 3),
            }
            for index, transcript in enumerate(inputs)
        ]

    def postprocess(self, request: Request, results: list[Any]) -> Any:
        return results if request.many else results[0]

    def example(self) -> _Transcript:
        return _noise(2)

    def request_limit(self) -> float:
        return self.spec.max_seconds

    def trials(self) -> tuple[_Transcript, _Transcript]:
        return replace(_noise(1), spoken=False), _noise(_TRIAL_SECONDS)

    def schemas(self) -> tuple[Any, Any]:
        audio = {
            "description": f"{FORMATS} as the raw body, as a multipart part or in base64; "
            "headerless mono samples with the parameters encoding and sample_rate",
            "type": "string",
        }
        request = {
            "$schema": DRAFT,
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
                "max_request_seconds": self.budget.request,
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
        return request, one_or_many(one)

    # Parameters.

    def _start(self, request: Request) -> torch.Tensor | None:
        """The tokens to decode from; None for the model file's own."""
        if not self.languages:
            for name, allowed, message in _ENGLISH_ONLY:
                if request.parameters.get(name) not in (None, allowed):
                    raise RequestError(400, "bad_parameter", message)
            return None
        language = request.choice("language", sorted(self.languages), None)
        task = request.choice("task", sorted(self.tasks), None)
        if language is None and task is None:
            return None
        tokens = list(self.start)  # start, language, task, no timestamps
        tokens[1] = self.languages[language or self.language]
        tokens[2] = self.tasks[task or "transcribe"]
        return torch.tensor(tokens)

    def _pcm(self, request: Request) -> tuple[str | None, int | None]:
        encoding = request.choice("encoding", PCM_ENCODINGS, None)
        if encoding is None:
            if "sample_rate" in request.parameters:
                raise RequestError(
                    400, "bad_parameter", "sample_rate goes with encoding: files say their own"
                )
            return None, None
        return encoding, request.integer("sample_rate", SAMPLE_RATE, 4000, 192_000)

    def _bytes(self, entry: Input) -> bytes:
        value = entry.value
        if isinstance(value, str | bytes):
            refuse_url(value, entry.where)
        if isinstance(value, str) and not entry.content_type.startswith("text/"):
            value = decode_base64(value, self.spec.max_bytes, entry.where)
        if not isinstance(value, bytes):
            raise RequestError(
                400, "wrong_type", f"{entry.where} is neither an audio file nor base64 of one"
            )
        return value

    # Segments and their text.

    def _segments(self, transcript: _Transcript) -> Iterator[Segment]:
        detect = self._detect({})
        samples = transcript.samples
        if samples is None:
            yield from segments(transcript.recording.blocks(), detect)
        elif len(samples) > CLIP_SECONDS * SAMPLE_RATE:  # its packets said a little less
            yield from segments([samples], detect)
        elif has_speech(samples, detect) or transcript.spoken:
            yield Segment(0.0, len(samples) / SAMPLE_RATE, samples)

    def _is_speech(self, segment: Segment, text: str, confidence: float) -> bool:
        """Whether a text was said, not made up over music or noise.

        Where the decoder is unsure, or repeats itself, the sound decides.
        """
        data = text.encode()
        repeats = len(data) > MOST_REPETITION * len(zlib.compress(data))
        if confidence >= SURE and not repeats:
            return True
        share = segment.share
        if share is None:
            share = speech_share(segment.samples, self._detect({}))
        return share >= SPEECH_SHARE

    def _heard(
        self, group: list[tuple[int, Segment]], inputs: list[_Transcript]
    ) -> list[tuple[str, float]]:
        """Text and confidence of segments that are decoded from the same start tokens.

        The confidence is the average logarithm of the tokens' probabilities.
        """
        longest = max(len(segment.samples) for _, segment in group)
        batch = torch.zeros(len(group), max(longest, SHORTEST_SAMPLES))
        for row, (_, segment) in enumerate(group):
            batch[row, : len(segment.samples)] = torch.from_numpy(segment.samples)
        lengths = [max(len(segment.samples), SHORTEST_SAMPLES) for _, segment in group]
        start = inputs[group[0][0]].start
        start_tokens = () if start is None else (start,)
        ids, counts, chances = self.predict(batch, torch.tensor(lengths), *start_tokens)
        rows = zip(ids.tolist(), counts.tolist(), chances.tolist(), strict=True)
        return [(self.tokens.decode(row[:n]).strip(), chance) for row, n, chance in rows]


def _noise(seconds: int) -> _Transcript:
    """Noise that `spoken` takes past the detector, so that the model transcribes it."""
    noise = np.random.default_rng(0).normal(0, 0.01, seconds * SAMPLE_RATE).astype("<f4")
    recording = Recording(noise.tobytes(), AudioSpec(), "pcm_f32le", SAMPLE_RATE)
    return _Transcript(recording, recording.samples(), spoken=True)


def _by_start(
    turn: list[tuple[int, Segment]], inputs: list[_Transcript]
) -> list[list[tuple[int, Segment]]]:
    """Segments that can share a batch: those decoded from the same start tokens."""
    groups: dict[tuple[int, ...], list[tuple[int, Segment]]] = {}
    for index, segment in turn:
        start = inputs[index].start
        key = () if start is None else tuple(start.tolist())
        groups.setdefault(key, []).append((index, segment))
    return list(groups.values())
