"""The scripted transcriber against a plain implementation, batched, cut, quantized, reloaded."""

import dataclasses
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from optimize.models.whisper import screen, silence
from optimize.models.whisper.build import build
from optimize.models.whisper.checkpoint import Checkpoint
from optimize.models.whisper.compress import ENGINE, CompressOptions, compress
from optimize.models.whisper.frontend import LogMel
from optimize.models.whisper.transcriber import batch
from optimize.utils import torchscript
from tests.unit.optimize.models.whisper.reference import SPEC, Reference, random_weights

# torch says, once, that packing int8 weights will need torchao one day.
pytestmark = pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")

WEIGHTS = random_weights()
CHECKPOINT = Checkpoint(SPEC, WEIGHTS, Path("tokenizer.json"), "random")


@pytest.fixture(autouse=True)
def _engine() -> Iterator[None]:
    kept = torch.backends.quantized.engine
    torch.backends.quantized.engine = ENGINE
    yield
    torch.backends.quantized.engine = kept


def clips(*lengths: int) -> list[Tensor]:
    """Noise that swells and fades, so that clips differ."""
    generator = torch.Generator().manual_seed(sum(lengths))
    return [
        torch.randn(n, generator=generator) * torch.linspace(0.3, 0.01, n) * (1 + i)
        for i, n in enumerate(lengths)
    ]


def tokens(model: torch.nn.Module, samples: list[Tensor]) -> list[list[int]]:
    with torch.inference_mode():
        ids, counts, _ = model(*batch(samples))
    assert ids.shape[0] == len(samples) and ids.dtype == counts.dtype == torch.int64
    for row, count in zip(ids, counts.tolist(), strict=True):
        assert (row[count:] == SPEC.end).all()
    return [row[:count].tolist() for row, count in zip(ids, counts.tolist(), strict=True)]


def test_float32_gives_the_tokens_of_the_plain_implementation() -> None:
    model = torch.jit.script(build(CHECKPOINT, int8=False))
    reference, frontend = Reference(WEIGHTS), LogMel(SPEC.mels)
    answers = set()
    for samples in clips(3000, 16_000, 47_001):
        (found,) = tokens(model, [samples])
        memory = reference.encode(frontend(samples, 3000)[0].T)
        assert found == reference.decode(memory)
        answers.add(tuple(found))
    assert len(answers) > 1, "random weights that always say the same test nothing"


def test_the_confidence_is_the_average_over_tokens_and_end() -> None:
    model = build(CHECKPOINT, int8=False)
    chances: list[float] = []
    model.vocabulary.register_forward_hook(lambda _m, _i, out: chances.append(float(out[1][0])))
    with torch.inference_mode():
        _, counts, confidence = model(*batch(clips(9000)))
    assert confidence.shape == (1,) and float(confidence) < 0
    assert len(chances) == min(int(counts[0]) + 1, SPEC.text_positions // 2)
    assert float(confidence) == pytest.approx(sum(chances) / len(chances), rel=1e-4)


def test_suppressed_tokens_never_come_and_length_is_bounded() -> None:
    model = build(CHECKPOINT, int8=False)
    for row in tokens(model, clips(8000, 20_000)):
        assert not set(row) & set(SPEC.suppress)
        assert len(row) <= SPEC.text_positions // 2
        assert not row or row[0] not in SPEC.suppress_first


@pytest.mark.parametrize("context", ["real", "padded"])
def test_rows_of_a_batch_are_transcribed_as_alone(context: str) -> None:
    """Rows of several lengths, some ending early: order, padding and company change nothing."""
    ending = dataclasses.replace(SPEC, end=_often_second(), suppress_first=[7])
    found = Checkpoint(ending, WEIGHTS, Path("t"), "random")
    model = build(found, int8=False)
    if context == "real":
        silence.fill(model, model.encoder)
    model = torch.jit.script(model)
    samples = clips(4000, 30_000, 9000, 16_000, 52_000)
    alone = [_row(model, [clip])[0] for clip in samples]
    assert len({len(row) for row in alone}) > 1, "rows that end together test nothing"
    assert _row(model, samples) == alone
    assert _row(model, samples[::-1]) == alone[::-1]


def _row(model: torch.nn.Module, samples: list[Tensor]) -> list[list[int]]:
    with torch.inference_mode():
        ids, counts, _ = model(*batch(samples))
    return [row[:count].tolist() for row, count in zip(ids, counts.tolist(), strict=True)]


def _often_second() -> int:
    """A token that some clips say and others do not: as the end token it ends rows early."""
    found = _row(build(CHECKPOINT, int8=False), clips(4000, 30_000, 9000, 16_000, 52_000))
    everywhere = set.intersection(*[set(row) for row in found])
    return next(t for row in found for t in row[1:] if t not in everywhere)


def test_padding_behind_the_length_is_not_heard() -> None:
    model = build(CHECKPOINT, int8=False)
    (samples,) = clips(12_000)
    rows, lengths = batch([samples])
    loud = torch.cat([rows, torch.ones(1, 5000)], dim=1)
    with torch.inference_mode():
        ids, counts, _ = model(loud, lengths)
        wanted, lengths, _ = model(rows, lengths)
    assert torch.equal(ids, wanted) and torch.equal(counts, lengths)


def test_cached_silence_is_exact_where_the_clip_is_silent() -> None:
    """A silent clip, cut after half a second: with unmerged positions nothing is lost."""
    padded = build(CHECKPOINT, int8=False)
    cut = build(CHECKPOINT, int8=False, step=16)
    silence.fill(cut, padded.encoder, levels=(-1.5, -0.6), group=1)
    cut.fill_encoder = cut.fill_encoder.float()  # half precision is the file's, not the method's
    cut.fill_cross = cut.fill_cross.float()
    with torch.inference_mode():
        whole, zero = padded._encode(torch.zeros(8000))
        part, bias = cut._encode(torch.zeros(8000))
    assert part.shape == whole.shape
    assert not zero.any() and not bias.any()
    assert (part - whole).norm() / whole.norm() < 1e-3


@pytest.mark.parametrize("seconds", [0.3, 4.01, 29.9, 30.0])
@pytest.mark.parametrize(
    "options",
    [
        CompressOptions(rank=0),
        CompressOptions(rank=0, group=7, step=10, merged=5),
        CompressOptions("padded", rank=0, group=4),
        CompressOptions("padded", rank=0, group=1, merged=1),
    ],
)
def test_every_position_of_the_thirty_seconds_weighs(
    options: CompressOptions, seconds: float
) -> None:
    model = compress(CHECKPOINT, options=options)
    (samples,) = clips(int(seconds * 16_000))
    with torch.inference_mode():
        keys, bias = model._encode(samples)
    assert keys.shape[3] == len(bias)
    assert float(bias.exp().sum()) == pytest.approx(SPEC.audio_positions, abs=0.1)


def test_silence_is_convolved_once_and_looks_as_if_it_were_all_convolved() -> None:
    model = build(CHECKPOINT, int8=False)
    (samples,) = clips(20_000)
    seen: list[Tensor] = []
    model.encoder.layers[0].register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
    with torch.inference_mode():
        model._encode(samples)
        model.group = 2
        model._encode(samples)
    assert torch.equal(seen[0], seen[1])


def test_encoding_groups_of_silence_changes_the_audio_little() -> None:
    model = build(CHECKPOINT, int8=False)
    (samples,) = clips(64_000)
    with torch.inference_mode():
        whole, _ = model._encode(samples)
        model.group = 4
        part, _ = model._encode(samples)
    real = 64_000 // SPEC.samples_per_position
    assert part.shape[3] < 0.5 * whole.shape[3]
    difference = part[:, :, :, :real] - whole[:, :, :, :real]
    assert 0 < difference.norm() / whole[:, :, :, :real].norm() < 0.05


def test_merged_groups_weigh_as_their_members() -> None:
    values = torch.arange(14.0).view(7, 2)
    means, bias = silence.merge(values, 3)
    assert means.tolist() == [[2, 3], [8, 9], [12, 13]]
    assert bias.exp().tolist() == pytest.approx([3, 3, 1])


@pytest.mark.parametrize(
    ("samples", "positions"), [(1, 16), (320 * 12, 16), (320 * 13, 32), (480_000, 1500)]
)
def test_encoded_positions_follow_the_audio(samples: int, positions: int) -> None:
    model = build(CHECKPOINT, int8=False, step=16, margin=4)
    assert model._positions(samples) == SPEC.audio_positions
    silence.fill(model, model.encoder, group=16)
    assert model._positions(samples) == positions


@pytest.mark.parametrize("tokens_", [50, 2000, 51_864])
def test_the_search_for_candidates_finds_the_greatest(tokens_: int) -> None:
    from optimize.lowering.kernels.vocabulary import SvdSoftmaxVocabulary

    generator = torch.Generator().manual_seed(tokens_)
    bases = torch.randn(32, 8, generator=generator), torch.randn(32, 8, generator=generator)
    head = SvdSoftmaxVocabulary(torch.randn(tokens_, 32), torch.zeros(tokens_), *bases)
    estimates = torch.randn(3, -(-tokens_ // head.parts) * head.parts, generator=generator)
    estimates[:, tokens_:] = -1e9
    wanted = torch.topk(estimates, min(head.candidates, tokens_), 1).indices.sort(1).values
    found = head._likely(estimates).sort(1).values
    assert torch.equal(found[:, : wanted.shape[1]], wanted)


def test_screened_head_picks_the_token_of_the_full_one() -> None:
    from optimize.lowering.kernels.vocabulary import Int8Vocabulary, SvdSoftmaxVocabulary

    generator = torch.Generator().manual_seed(1)
    table = torch.randn(2000, 64, generator=generator)
    hidden = torch.randn(600, 12, generator=generator) @ torch.randn(12, 64, generator=generator)
    bias = torch.zeros(2000)
    bias[:100] = -1e9
    bases = screen.fit(table, hidden[:300], rank=32)
    assert bases[0].shape == bases[1].shape == (64, 32)
    screened = torch.jit.script(SvdSoftmaxVocabulary(table, bias, *bases))
    logits = hidden[300:] @ table.T + bias
    exact = logits.argmax(1)
    found, chances = screened(hidden[300:])
    assert (found == exact).float().mean() > 0.97
    assert (found >= 100).all()
    assert (chances - logits.log_softmax(1).amax(1)).abs().mean() < 0.1
    penalty = torch.zeros(2000)
    penalty[int(exact[0])] = -1e9
    assert int(screened(hidden[300:301], penalty)[0]) != int(exact[0])
    plain = Int8Vocabulary(table, bias)
    assert (plain(hidden[300:])[1] - logits.log_softmax(1).amax(1)).abs().mean() < 0.1
    ids = torch.tensor([[5, 1999]])
    assert torch.equal(plain.embed(ids), screened.embed(ids))
    assert (plain.embed(ids) - table[ids]).abs().max() < 0.03


@pytest.mark.slow
@pytest.mark.parametrize("context", ["real", "padded"])
def test_a_saved_file_gives_the_same_tokens_in_a_fresh_process(
    context: str, tmp_path: Path
) -> None:
    model = compress(CHECKPOINT, options=CompressOptions(context=context, rank=0))
    path = tmp_path / "model.pt"
    torch.jit.script(model).save(str(path))
    heard = clips(5000, 16_000, 9000)
    calls = [batch(heard[:count]) for count in (1, 3)]
    torchscript.check_parity(torchscript.load(path), path, calls, engine=ENGINE)


def test_int8_stays_close_to_float32() -> None:
    model = compress(CHECKPOINT, options=CompressOptions("padded", rank=0, group=1, merged=1))
    exact = build(CHECKPOINT, int8=False)
    with torch.inference_mode():
        for samples in clips(16_000, 40_000):
            whole, _ = exact._encode(samples)
            small, _ = model._encode(samples)
            assert (whole - small).norm() / whole.norm() < 0.1


def test_another_start_is_taken(tmp_path: Path) -> None:
    model = torch.jit.script(build(CHECKPOINT, int8=False))
    samples = clips(16_000)
    with torch.inference_mode():
        ids, _, _ = model(*batch(samples), torch.tensor(SPEC.start))
        other, _, _ = model(*batch(samples), torch.tensor([91, 44, 92]))
    assert ids[0].tolist() != other[0].tolist()


@pytest.mark.parametrize(
    ("shape", "lengths", "message"),
    [((1, 480_001), [480_001], "at most 30 s"), ((2, 100), [100], "one length per row")],
)
def test_wrong_shapes_are_refused(shape: tuple[int, int], lengths: list[int], message: str) -> None:
    model = build(CHECKPOINT, int8=False)
    with pytest.raises(AssertionError, match=message):
        model(torch.zeros(shape), torch.tensor(lengths))


@pytest.mark.parametrize("wrong", [{"context": "half"}, {"group": 0}, {"step": 5}, {"margin": -1}])
def test_options_that_cannot_be_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"context|step|margin"):
        CompressOptions(**wrong)  # type: ignore[arg-type]


@pytest.mark.slow
def test_the_file_needs_no_package_of_ours(tmp_path: Path) -> None:
    """Loading takes torch alone: a worker has nothing else of `optimize`."""
    path = tmp_path / "model.pt"
    model = compress(CHECKPOINT, options=CompressOptions(rank=0))
    torch.jit.script(model).save(str(path))
    code = (
        "import sys, torch; torch.backends.quantized.engine = 'fbgemm'\n"
        f"model = torch.jit.load({str(path)!r})\n"
        "model(torch.zeros(1, 8000), torch.tensor([8000]))\n"
        "assert not [m for m in sys.modules if m.startswith('optimize')]"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, cwd=tmp_path)
