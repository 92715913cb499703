"""Speech: Whisper's encoder and decoder step as two files; the caller loops over tokens."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from optimize.data.speech import Speech, Utterance
from optimize.export import source
from optimize.export.subject import Axis, Exportable, Subject
from optimize.export.subjects.whisper_steps import DecoderStep, EncoderExport
from optimize.models.whisper import build
from optimize.models.whisper.checkpoint import Checkpoint, Spec
from optimize.models.whisper.frontend import LogMel
from optimize.recipe.schema import Recipe
from optimize.tasks import speech
from optimize.tasks.speech_stages import samples

BATCH = 8
SAMPLES = 500
CALIBRATION = 8
FRAMES = 3000

Step = Callable[..., list[Tensor]]


def features(frontend: LogMel, clips: list[Tensor]) -> Tensor:
    """Log-mel of clips padded to 30 s, float32 `[batch, 3000, mels]`."""
    return torch.stack([frontend(clip, FRAMES)[0] for clip in clips])


def capacity(spec: Spec) -> int:
    """The most tokens of a decoding, including those it starts from."""
    return len(spec.start) + spec.text_positions // 2 - 1


def transcribe(encoder: Step, step: Step, mels: Tensor, checkpoint: Checkpoint) -> list[list[int]]:
    """Greedy decoding of a batch of features; `encoder` and `step` are the two files.

    Returns:
        Token ids of every row, without start and end.
    """
    spec, rows = checkpoint.spec, len(mels)
    (audio,) = encoder(mels)
    limit = capacity(spec)
    cache = torch.zeros(rows, spec.decoder_layers * 2 * spec.heads, limit, spec.head_width)
    answers: list[list[int]] = [[] for _ in range(rows)]
    active = [True] * rows
    token = torch.full((rows,), spec.start[0], dtype=torch.int32)
    for position in range(limit):
        logits, fresh = step(token, torch.full((rows,), position, dtype=torch.int32), cache, audio)
        cache[:, :, position : position + 1] = fresh
        if position + 1 < len(spec.start):
            token = torch.full((rows,), spec.start[position + 1], dtype=torch.int32)
            continue
        logits = logits.clone()
        logits[:, spec.suppress] = -torch.inf
        if position + 1 == len(spec.start):
            logits[:, spec.suppress_first] = -torch.inf
        token = logits.argmax(1).int()
        for row, best in enumerate(token.tolist()):
            active[row] = active[row] and best != spec.end
            if active[row]:
                answers[row].append(best)
        if not any(active):
            break
    return answers


def make(
    checkpoint: Checkpoint, recordings: Speech, decode: Callable[[list[int]], str]
) -> Exportable:
    """A Whisper checkpoint to export.

    Args:
        checkpoint: the weights.
        recordings: eight development recordings calibrate the files. The word error rate is
            measured on the test recordings; agreement with PyTorch on these, single words, and the
            other development recordings, 500 in total.
        decode: from token ids to text.
    """
    subjects = _subjects(checkpoint, recordings)
    comparison = _Comparison(checkpoint, recordings, decode, subjects)
    notes = _notes(len(recordings.test[:SAMPLES]), len(comparison.utterances))
    return Exportable(subjects, speech.WORD_ERROR_RATE, comparison.measure, notes=notes)


def _subjects(checkpoint: Checkpoint, recordings: Speech) -> list[Subject]:
    """The encoder, and the decoder step with that encoder's outputs as inputs."""
    model, spec = build.build(checkpoint, int8=False), checkpoint.spec
    step = DecoderStep(model, spec, capacity(spec)).eval()
    frontend = LogMel(spec.mels)

    def mels(utterances: list[Utterance]) -> Tensor:
        return features(frontend, samples(utterances))

    test = recordings.test
    parts = [part for part in (test[0:2], test[2:3], test[3:6]) if part]
    encoder = Subject(
        name="encoder",
        module=EncoderExport(model).eval(),
        inputs=("features",),
        outputs=("audio",),
        pieces=[(mels(part),) for part in parts],
        calibration=[(mels([u]),) for u in recordings.development[:CALIBRATION]],
        axes={"batch": Axis(most=BATCH, sizes=(1,))},
        dynamic=({0: "batch"},),
        activations="dynamic",
    )
    decoder = Subject(
        name="decoder_step",
        module=step,
        inputs=("token", "past", "cache", "audio"),
        outputs=("logits", "fresh"),
        pieces=[_state(encoder, step, piece[0], checkpoint) for piece in encoder.pieces],
        calibration=[_state(encoder, step, piece[0], checkpoint) for piece in encoder.calibration],
        axes={"batch": Axis(most=BATCH, sizes=(1,))},
        dynamic=tuple({0: "batch"} for _ in range(4)),
        scores=("logits",),
        activations="dynamic",
    )
    return [encoder, decoder]


class _Comparison:
    """Compares the texts of an exported pair of files with PyTorch's."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        recordings: Speech,
        decode: Callable[[list[int]], str],
        subjects: list[Subject],
    ) -> None:
        self.checkpoint, self.decode, self.subjects = checkpoint, decode, subjects
        self.frontend = LogMel(checkpoint.spec.mels)
        test = recordings.test[:SAMPLES]
        others = [*recordings.spare, *recordings.development[CALIBRATION:]]
        # Sorted by length, so that the rows of a batch end together.
        self.utterances = sorted([*test, *others][:SAMPLES], key=lambda u: len(u.samples()))
        self.tested = {i for i, utterance in enumerate(self.utterances) if utterance in test}
        self.reference: dict[int, str] = {}  # PyTorch's text of each recording, computed once

    def texts(self, files: dict[str, Step], chosen: list[int]) -> list[str]:
        """Texts of a pair of files for some of the recordings."""
        texts = []
        for start in range(0, len(chosen), BATCH):
            part = [self.utterances[i] for i in chosen[start : start + BATCH]]
            mels = features(self.frontend, samples(part))
            tokens = transcribe(files["encoder"], files["decoder_step"], mels, self.checkpoint)
            texts += [self.decode(row) for row in tokens]
        return texts

    def measure(self, files: dict[str, Step], limit: int | None = None) -> dict[str, Any]:
        """Word error rate on the test recordings, and the share of texts that equal PyTorch's, on
        all recordings or on `limit` of them, evenly spaced in length."""
        count = min(limit or len(self.utterances), len(self.utterances))
        chosen: list[int] = torch.linspace(0, len(self.utterances) - 1, count).long().tolist()
        missing = [i for i in chosen if i not in self.reference]
        modules: dict[str, Step] = {subject.name: subject for subject in self.subjects}
        self.reference.update(zip(missing, self.texts(modules, missing), strict=True))
        reference = [self.reference[i] for i in chosen]
        is_reference = files["encoder"] is modules["encoder"]
        texts = reference if is_reference else self.texts(files, chosen)
        tested = [(i, text) for i, text in zip(chosen, texts, strict=True) if i in self.tested]
        same = list(map(speech.same_text, texts, reference))
        return {
            **speech.score([self.utterances[i].text for i, _ in tested], [t for _, t in tested]),
            "agreement": sum(same) / len(same),
            "agreement_samples": len(same),
        }


def _notes(tested: int, compared: int) -> list[str]:
    if tested >= SAMPLES:
        return []
    return [
        f"there are {tested} test recordings; on {compared}, with lone words and development "
        "recordings that calibrate nothing, the text is compared with PyTorch's"
    ]


def _state(encoder: Subject, step: DecoderStep, mels: Tensor, checkpoint: Checkpoint) -> Any:
    """Inputs of the decoder in the middle of a sentence, with rows at different positions."""
    calls: list[tuple[Tensor, ...]] = []

    def recording_step(*inputs: Tensor) -> list[Tensor]:
        calls.append(tuple(tensor.clone() for tensor in inputs))
        with torch.inference_mode():
            return list(step(*inputs))

    transcribe(encoder, recording_step, mels, checkpoint)
    token, past, cache, audio = calls[len(calls) * 2 // 3]
    rows = torch.arange(len(token), dtype=torch.int32)
    return token, (past - rows).clamp(min=1), cache, audio


def load(recipe: Recipe, folder: Path, report: dict[str, Any]) -> Exportable:
    """See `optimize.export.subjects.load`."""
    data = speech.SpeechRecognition().load_data(recipe)
    source.same_data(data.fingerprint(), recipe, report)
    return make(data.checkpoint, data.recordings, speech.decoder(data.checkpoint))
