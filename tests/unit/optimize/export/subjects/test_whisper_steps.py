"""The two loopless Whisper modules give the transcriber's tokens, and survive export."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from optimize.errors import ExportRefused
from optimize.export import check
from optimize.export.convert import convert
from optimize.export.formats import registry
from optimize.export.formats.interface import INT8
from optimize.export.runner import Runner
from optimize.export.subject import Axis, Subject
from optimize.export.subjects import speech
from optimize.export.subjects.whisper_steps import DecoderStep, EncoderExport
from optimize.models.whisper.build import build
from optimize.models.whisper.checkpoint import Checkpoint
from optimize.models.whisper.frontend import LogMel
from optimize.models.whisper.transcriber import batch
from tests.unit.optimize.models.whisper.reference import SPEC, random_weights

pytestmark = pytest.mark.slow

FOUND = Checkpoint(SPEC, random_weights(), Path("tokenizer.json"), "random")


def clips(*lengths: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(n, generator=generator) * 0.2 for n in lengths]


@pytest.fixture(scope="module")
def subjects() -> list[Subject]:
    model = build(FOUND, int8=False)
    frontend = LogMel(SPEC.mels)
    heard = [
        speech.features(frontend, clips(*sizes)) for sizes in ((9000, 4000), (7000,), (5, 999, 80))
    ]
    first = Subject(
        "encoder",
        EncoderExport(model).eval(),
        ("features",),
        ("audio",),
        [(part,) for part in heard],
        [(heard[0][1:],)],
        {"batch": Axis(most=8, sizes=(1,))},
        ({0: "batch"},),
        activations="dynamic",
    )
    step = DecoderStep(model, SPEC, speech.capacity(SPEC)).eval()
    second = Subject(
        "decoder_step",
        step,
        ("token", "past", "cache", "audio"),
        ("logits", "fresh"),
        [speech._state(first, step, part, FOUND) for part in heard],
        [speech._state(first, step, heard[0][1:], FOUND)],
        {"batch": Axis(most=8, sizes=(1,))},
        tuple({0: "batch"} for _ in range(4)),
        ("logits",),
        "dynamic",
    )
    return [first, second]


def test_the_steps_give_the_tokens_of_the_transcriber(subjects: list[Subject]) -> None:
    samples = clips(3000, 47_001, 16_000)
    with torch.inference_mode():
        ids, counts, _ = build(FOUND, int8=False)(*batch(samples))
    wanted = [row[:count].tolist() for row, count in zip(ids, counts.tolist(), strict=True)]
    heard = speech.features(LogMel(SPEC.mels), samples)
    found = speech.transcribe(subjects[0], subjects[1], heard, FOUND)
    assert found == wanted
    assert any(found)


def test_what_lies_past_the_cache_is_not_read(subjects: list[Subject]) -> None:
    step = subjects[1]
    token, past, cache, audio = step.pieces[0]
    spoiled = cache.clone()
    for row, place in enumerate(past.tolist()):
        spoiled[row, :, place:] = 1e3
    torch.testing.assert_close(
        step(token, past, spoiled, audio)[0], step(token, past, cache, audio)[0]
    )


def test_an_error_in_the_logits_is_seen(subjects: list[Subject]) -> None:
    def noisy(*inputs: torch.Tensor) -> list[torch.Tensor]:
        logits, fresh = subjects[1](*inputs)
        spread = logits.quantile(0.8) - logits.quantile(0.2)
        return [logits + 0.5 * spread * torch.randn(logits.shape), fresh]

    with pytest.raises(ExportRefused, match="logits differs"):
        check.parity(subjects[1], noisy, INT8)


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        *((name, "float32") for name in registry.NAMES),
        *((name, "int8") for name in registry.NAMES if name != "savedmodel"),
    ],
)
def test_both_files_answer_as_the_modules(
    name: str, precision: str, needs: Callable[[str], None], subjects: list[Subject], tmp_path: Path
) -> None:
    needs(name)
    form = registry.load(name)
    limits = form.PRECISIONS[precision]
    for subject in subjects:
        path = tmp_path / form.file("speech", subject.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        convert(name, subject, path, precision)
        with Runner(name, path) as run:
            errors = check.parity(subject, run, limits)
            check.quantized(run, limits)
        assert precision == "float32" or max(errors.values()) > 1e-4  # not float32 again
