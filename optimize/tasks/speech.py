"""Speech recognition: Whisper checkpoints, recordings, and the word error rate."""

import dataclasses
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from optimize.data import speech
from optimize.data.dataset import Sample
from optimize.errors import DataError
from optimize.evaluation import word_errors
from optimize.evaluation.examples import Example
from optimize.evaluation.metrics import Metric
from optimize.models.whisper import build, cost, find
from optimize.models.whisper.checkpoint import Checkpoint
from optimize.models.whisper.compress import options_of
from optimize.models.whisper.transcriber import Transcriber, batch
from optimize.recipe.schema import Named, Recipe
from optimize.tasks import examples, named, speech_stages
from optimize.tasks.base import Inputs, Stage, State, Task
from optimize.tasks.speech_stages import SpeechData, samples
from optimize.utils import torchscript
from optimize.utils.bars import bar
from optimize.utils.packages import package_folder

WORD_ERROR_RATE = Metric("wer", "Word error rate", higher_is_better=False, most=None)
LANGUAGE = "en"
MAX_SECONDS = 3600
TIMED = 8  # recordings, evenly spaced, for latency and parity
SAMPLES = 4


@dataclass(frozen=True)
class Transcripts:
    """A model's transcript of each recording: token ids without start and end, and text."""

    tokens: list[list[int]]
    texts: list[str]


def load_recordings(spec: Named, folder: Path) -> speech.Speech:
    """Recordings: `speech`, or `speech: {path: LISTING}`; see `optimize.data.speech`.

    Raises:
        DataError: there are none.
        RecipeError: no such data set or option.
    """
    if spec.name != "speech":
        raise named.unknown("data set", spec, ["speech"])
    return named.call(speech.load, named.absolute(named.with_path(spec), folder, "path"))


def load_checkpoint(spec: Named, folder: Path, override: str | None) -> Checkpoint:
    """Weights: `whisper`, or `whisper: {path: FOLDER, language: de}`; a recipe's `checkpoint`
    names the folder too.

    Raises:
        DataError: there are none.
        RecipeError: no such architecture or option.
    """
    if spec.name != "whisper":
        raise named.unknown("architecture", spec, ["whisper"])
    if override is not None:
        spec = dataclasses.replace(spec, options={**spec.options, "path": override})
    return named.call(find.find, named.absolute(spec, folder, "path"), language=LANGUAGE)


def voice_detector() -> Path:
    """silero-vad's TorchScript file.

    Raises:
        DataError: its package is not installed.
    """
    package = package_folder("silero_vad")
    path = package / "data" / "silero_vad.jit" if package else None
    if path is None or not path.is_file():
        raise DataError(
            "no voice detector here: `pip install --no-deps silero-vad==6.2.3` brings it"
        )
    return path


def decoder(checkpoint: Checkpoint) -> Callable[[list[int]], str]:
    """From token ids to text, by the checkpoint's tokenizer."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(checkpoint.tokenizer))

    def decode(tokens: list[int]) -> str:
        return str(tokenizer.decode(tokens, skip_special_tokens=True))

    return decode


def same_text(text: str, reference: str) -> bool:
    """Whether two texts have the same words."""
    return word_errors.normalise(text) == word_errors.normalise(reference)


def score(references: list[str], texts: list[str]) -> dict[str, Any]:
    """Word error rate with samples and the bootstrap interval over utterances."""
    measured = word_errors.measure(references, texts)
    return {
        WORD_ERROR_RATE.name: measured.rate,
        "samples": measured.utterances,
        "ci95": list(measured.ci95),
    }


class SpeechRecognition(Task[SpeechData, Transcripts]):
    """Float32 samples `[N, n]` at 16 kHz and their lengths `[N]` to token ids and counts.

    There is no training: compression is post-training, and uses the development recordings.
    """

    stages: ClassVar[dict[str, Stage[SpeechData]]] = {
        "int8": Stage(speech_stages.Int8Stage, speech_stages.run_int8),
        "screen": Stage(speech_stages.ScreenStage, speech_stages.run_screen),
        "context": Stage(speech_stages.ContextStage, speech_stages.run_context),
    }
    exporter = "optimize.export.subjects.speech"
    datasets: ClassVar[dict[str, str]] = {"speech": "optimize.data.speech:load"}
    architectures: ClassVar[dict[str, str]] = {"whisper": "optimize.models.whisper.find:find"}

    def load_data(self, recipe: Recipe) -> SpeechData:
        recordings = load_recordings(recipe.data, recipe.folder)
        return SpeechData(
            recordings, load_checkpoint(recipe.model, recipe.folder, recipe.checkpoint)
        )

    def build_model(self, recipe: Recipe, data: SpeechData) -> nn.Module:
        voice_detector()  # if it is missing, fail before anything runs
        return build.build(data.checkpoint, int8=False)

    def calls(self, data: SpeechData, batch_size: int) -> list[Inputs]:
        test = data.recordings.test
        clips = samples([test[i * len(test) // TIMED] for i in range(TIMED)])
        # A batch size above the number of clips takes some of them again.
        clips = [clips[i % TIMED] for i in range(-(-TIMED // batch_size) * batch_size)]
        return [batch(clips[i : i + batch_size]) for i in range(0, len(clips), batch_size)]

    def predict(self, model: nn.Module, data: SpeechData, split: str, title: str) -> Transcripts:
        if isinstance(model, Transcriber):
            with torchscript.silenced():
                model = model.scripted()  # several times faster than its loop in Python
        tokens = []
        with torch.inference_mode():
            for utterance in bar(data.recordings.split(split), title=title, unit="clip"):
                (clip,) = samples([utterance])
                ids, counts, _ = model(clip[None], torch.tensor([len(clip)]))
                tokens.append(ids[0, : int(counts[0])].tolist())
        decode = decoder(data.checkpoint)
        return Transcripts(tokens, [decode(row) for row in tokens])

    def metric(self, data: SpeechData) -> Metric:
        return WORD_ERROR_RATE

    def score(self, answers: Transcripts, data: SpeechData, split: str) -> dict[str, Any]:
        return score([u.text for u in data.recordings.split(split)], answers.texts)

    def chance(self, data: SpeechData) -> float:
        return 1.0  # the word error rate of empty transcripts

    def agreement(self, answers: Transcripts, reference: Transcripts) -> float:
        same = map(same_text, answers.texts, reference.texts)
        return statistics.mean(map(float, same))

    def examples(
        self, before: Transcripts, after: Transcripts, data: SpeechData, most: int
    ) -> list[Example]:
        return examples.of_recordings(before.texts, after.texts, data.recordings.test, most)

    def cost(self, state: State, data: SpeechData, answers: Transcripts) -> dict[str, int]:
        """Parameters of the checkpoint; multiply-accumulates of the mean test recording."""
        spec = data.checkpoint.spec
        options = None
        if state.model is not state.original and isinstance(state.model, Transcriber):
            options = options_of(state.model)
        macs = [
            cost.macs(spec, cost.positions(spec, len(clip), options), len(tokens), options)
            for clip, tokens in zip(samples(data.recordings.test), answers.tokens, strict=True)
        ]
        return {"parameters": cost.parameters(spec), "macs": round(statistics.mean(macs))}

    def card(self, recipe: Recipe, data: SpeechData) -> dict[str, Any]:
        spec = data.checkpoint.spec
        return {
            "handler": "speech_recognizer",
            "labels": [],
            "model": {
                "decoding": {
                    "start": spec.start,
                    "language": next(
                        (k for k, v in spec.languages.items() if v in spec.start), LANGUAGE
                    ),
                    "languages": spec.languages,
                    "tasks": spec.tasks,
                }
            },
            "input": {"max_seconds": MAX_SECONDS, "max_bytes": recipe.serving.max_bytes},
        }

    def files(self, recipe: Recipe, data: SpeechData) -> dict[str, Path]:
        return {"tokenizer.json": data.checkpoint.tokenizer, "vad.jit": voice_detector()}

    def samples(self, data: SpeechData, answers: Transcripts) -> list[Sample]:
        """A few recordings whose transcript equals the reference exactly."""
        right = [
            (utterance, text.strip())
            for utterance, text in zip(data.recordings.test, answers.texts, strict=True)
            if utterance.text.strip() == text.strip() and len(text.split()) >= 5
        ]
        return [
            Sample(
                u.name.replace("/", "_").removesuffix(".wav") + u.path.suffix,
                u.path.read_bytes(),
                text,
            )
            for u, text in right[:SAMPLES]
        ]
