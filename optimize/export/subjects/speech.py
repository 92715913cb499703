"""Speech: Whisper's encoder and decoder step as two files; whoever runs them loops."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from optimize.data.speech import Speech
from optimize.evaluation import word_errors
from optimize.export import source
from optimize.export.subject import Axis, Exportable, Subject
from optimize.export.subjects.whisper_steps import DecoderStep, EncoderExport
from optimize.models.whisper import build
from optimize.models.whisper.checkpoint import Checkpoint, Spec
from optimize.models.whisper.frontend import LogMel
from optimize.recipe.schema import Recipe
from optimize.tasks import speech

BATCH = 8
SAMPLES = 500
CALIBRATION = 8
FRAMES = 3000

Step = Callable[..., list[Tensor]]


def features(frontend: LogMel, clips: list[Tensor]) -> Tensor:
    """Log-mel of clips padded to 30 s, float32 `[batch, 3000, mels]`."""
    return torch.stack([frontend(clip, FRAMES)[0] for clip in clips])


def capacity(spec: Spec) -> int:
    """Tokens that decoding may come to, those it starts from among them."""
    return len(spec.start) + spec.text_positions // 2 - 1


def transcribe(encoder: Step, step: Step, heard: Tensor, found: Checkpoint) -> list[list[int]]:
    """Greedy decoding of a batch of features with one function for each of the two files.

    Returns:
        Token ids of every row, without start and end.
    """
    spec, rows = found.spec, len(heard)
    (audio,) = encoder(heard)
    limit = capacity(spec)
    cache = torch.zeros(rows, spec.decoder_layers * 2 * spec.heads, limit, spec.head_width)
    answers: list[list[int]] = [[] for _ in range(rows)]
    alive = [True] * rows
    token = torch.full((rows,), spec.start[0], dtype=torch.int32)
    for place in range(limit):
        logits, fresh = step(token, torch.full((rows,), place, dtype=torch.int32), cache, audio)
        cache[:, :, place : place + 1] = fresh
        if place + 1 < len(spec.start):
            token = torch.full((rows,), spec.start[place + 1], dtype=torch.int32)
            continue
        logits = logits.clone()
        logits[:, spec.suppress] = -torch.inf
        if place + 1 == len(spec.start):
            logits[:, spec.suppress_first] = -torch.inf
        token = logits.argmax(1).int()
        for row, best in enumerate(token.tolist()):
            alive[row] = alive[row] and best != spec.end
            if alive[row]:
                answers[row].append(best)
        if not any(alive):
            break
    return answers


def make(found: Checkpoint, data: Speech, decode: Callable[[list[int]], str]) -> Exportable:
    """What exporting a Whisper checkpoint needs.

    Args:
        found: the checkpoint.
        data: eight development recordings calibrate the files. Their word error rate is that of
            the test recordings; they are compared with PyTorch on these, lone words, and the
            other development recordings, 500 in all.
        decode: from token ids to text.
    """
    model, spec = build.build(found, int8=False), found.spec
    encoder, step = EncoderExport(model).eval(), DecoderStep(model, spec, capacity(spec))
    frontend = LogMel(spec.mels)
    held = data.test[:SAMPLES]
    calibration = data.development[:CALIBRATION]
    others = [*data.spare, *data.development[CALIBRATION:]]
    # By length: rows of a batch then end together.
    ordered = sorted([*held, *others][:SAMPLES], key=lambda u: len(u.samples()))

    def heard(utterances: list[Any]) -> Tensor:
        return features(frontend, [torch.from_numpy(u.samples()) for u in utterances])

    sizes = [held[a : a + n] for a, n in ((0, 2), (2, 1), (3, 3))]
    first = Subject(
        name="encoder",
        module=encoder,
        inputs=("features",),
        outputs=("audio",),
        pieces=[(heard(part),) for part in sizes if part],
        calibration=[(heard([u]),) for u in calibration],
        axes={"batch": Axis(most=BATCH, sizes=(1,))},
        dynamic=({0: "batch"},),
        dynamic_outputs=({0: "batch"},),
        activations="dynamic",
    )
    second = Subject(
        name="decoder_step",
        module=step.eval(),
        inputs=("token", "past", "cache", "audio"),
        outputs=("logits", "fresh"),
        pieces=[_state(first, step, piece[0], found) for piece in first.pieces],
        calibration=[_state(first, step, piece[0], found) for piece in first.calibration],
        axes={"batch": Axis(most=BATCH, sizes=(1,))},
        dynamic=tuple({0: "batch"} for _ in range(4)),
        dynamic_outputs=({0: "batch"}, {0: "batch"}),
        scores=("logits",),
        activations="dynamic",
    )
    test = {i for i, utterance in enumerate(ordered) if utterance in held}
    truth: dict[int, str] = {}

    def listen(run: dict[str, Step], chosen: list[int]) -> list[str]:
        texts = []
        for start in range(0, len(chosen), BATCH):
            part = heard([ordered[i] for i in chosen[start : start + BATCH]])
            tokens = transcribe(run["encoder"], run["decoder_step"], part, found)
            texts += [decode(row) for row in tokens]
        return texts

    def measure(run: dict[str, Step], limit: int | None = None) -> dict[str, Any]:
        """Word error rate of the test recordings, and how often the text is PyTorch's to the
        letter; of all recordings, or of as many as `limit`, short and long."""
        count = min(limit or len(ordered), len(ordered))
        chosen: list[int] = torch.linspace(0, len(ordered) - 1, count).long().tolist()
        missing = [i for i in chosen if i not in truth]
        modules: dict[str, Step] = {"encoder": first, "decoder_step": second}
        truth.update(zip(missing, listen(modules, missing), strict=True))
        known = [truth[i] for i in chosen]
        texts = known if run["encoder"] is first else listen(run, chosen)
        tested = [(ordered[i].text, t) for i, t in zip(chosen, texts, strict=True) if i in test]
        rate = word_errors.measure(*map(list, zip(*tested, strict=True)))
        same = [
            word_errors.normalise(a) == word_errors.normalise(b)
            for a, b in zip(texts, known, strict=True)
        ]
        return {
            "wer": rate.rate,
            "samples": rate.utterances,
            "ci95": list(rate.ci95),
            "agreement": sum(same) / len(same),
            "agreement_samples": len(same),
        }

    return Exportable([first, second], measure, notes=_notes(len(held), len(ordered)))


def _notes(tested: int, compared: int) -> list[str]:
    if tested >= SAMPLES:
        return []
    return [
        f"there are {tested} test recordings; on {compared}, with lone words and development "
        "recordings that calibrate nothing, the text is compared with PyTorch's"
    ]


def _state(encoder: Subject, step: DecoderStep, heard: Tensor, found: Checkpoint) -> Any:
    """Inputs of the decoder in the middle of a sentence, rows at different places."""
    calls: list[tuple[Tensor, ...]] = []

    def listening(*inputs: Tensor) -> list[Tensor]:
        calls.append(tuple(tensor.clone() for tensor in inputs))
        with torch.inference_mode():
            return list(step(*inputs))

    transcribe(encoder, listening, heard, found)
    token, past, cache, audio = calls[len(calls) * 2 // 3]
    rows = torch.arange(len(token), dtype=torch.int32)
    return token, (past - rows).clamp(min=1), cache, audio


def load(recipe: Recipe, folder: Path, report: dict[str, Any]) -> Exportable:
    """See `optimize.export.subjects.load`."""
    from tokenizers import Tokenizer

    data = speech.load_data(recipe.data, recipe.folder)
    source.same_data(data.fingerprint(), recipe, report)
    found = speech.load_checkpoint(recipe.model, recipe.folder, recipe.checkpoint)
    tokenizer = Tokenizer.from_file(str(found.tokenizer))

    def decode(row: list[int]) -> str:
        return str(tokenizer.decode(row, skip_special_tokens=True))

    return make(found, data, decode)
