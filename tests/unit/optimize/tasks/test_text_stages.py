"""Compression of text models: calibration, metrics, vocabulary, transfer, int8."""

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from optimize.data.corpus import TextSplit
from optimize.evaluation import calibration, environment, text_metrics
from optimize.lowering import Lowered
from optimize.models.architectures.bert import BertClassifier, BertShape
from optimize.pruning import transformer, vocabulary
from optimize.pruning.vocabulary import SharedEmbedding, VocabularyOptions
from optimize.quantization import kernels
from optimize.quantization.text import measured, quantize
from optimize.training import transfer
from optimize.training.finetune import FineTuneOptions, batches, draw, fit
from optimize.training.temperature import fit_temperature
from optimize.utils import pickles, torchscript

SHAPE = BertShape(300, 32, 4, 4, 64, max_position_embeddings=32)


@pytest.fixture(autouse=True)
def _restore_engine() -> object:
    kept = torch.backends.quantized.engine
    yield
    torch.backends.quantized.engine = kept


def toy(texts: int = 240, seed: int = 0) -> TextSplit:
    """Texts whose label is whether token 5 occurs: learnable in seconds."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(10, 300, (texts, 12), generator=generator, dtype=torch.int32)
    targets = torch.arange(texts) % 2
    place = torch.randint(0, 6, (texts,), generator=generator)
    ids[torch.arange(texts), place] = torch.where(targets == 1, 5, 6).int()
    ids[::3, 8:] = 0
    return TextSplit(ids, targets, windows=ids, owner=torch.arange(texts), sources=("a",) * texts)


@pytest.fixture(scope="module")
def teacher() -> BertClassifier:
    torch.manual_seed(0)
    model = BertClassifier(SHAPE, 2)
    options = FineTuneOptions(epochs=12, learning_rate=2e-3, batch_texts=16)
    fit(model, toy(), options)
    return model


def right(model: torch.nn.Module, split: TextSplit) -> float:
    with torch.inference_mode():
        return float((model(split.windows).argmax(1) == split.targets).float().mean())


def test_training_learns_and_repeats_itself(teacher: BertClassifier) -> None:
    assert right(teacher, toy(seed=1)) > 0.9
    models = []
    for _ in range(2):
        torch.manual_seed(0)
        model = BertClassifier(SHAPE, 2)
        models.append(fit(model, toy(40), FineTuneOptions(epochs=1, batch_texts=8)))
    assert torch.equal(models[0].head.weight, models[1].head.weight)


def test_batches_hold_every_window_once_within_the_budget() -> None:
    import numpy as np

    sizes = torch.randint(3, 128, (500,), generator=torch.Generator().manual_seed(0))
    options = FineTuneOptions(batch_tokens=1024, batch_texts=20)
    found = batches(list(range(500)), sizes, options, np.random.default_rng(0))
    assert sorted(i for batch in found for i in batch) == list(range(500))
    for batch in found:
        longest = int(sizes[batch].max())
        assert len(batch) <= 20 and (longest * len(batch) <= 1024 or len(batch) == 1)


def test_small_sources_are_repeated_when_balanced() -> None:
    import numpy as np

    plain = toy(40)
    split = TextSplit(
        plain.inputs,
        plain.targets,
        windows=plain.windows,
        owner=plain.owner,
        sources=("big",) * 30 + ("small",) * 10,
    )
    chosen = draw(split, True, np.random.default_rng(0))
    assert sum(i >= 30 for i in chosen) == 30 == sum(i < 30 for i in chosen)


# Transfer.


def test_students_are_cut_evenly() -> None:
    assert transfer.spread(3, 6) == [1, 3, 5]
    assert transfer.spread(1, 6) == [5]
    assert transfer.spread(6, 6) == list(range(6))
    with pytest.raises(ValueError, match="cannot be cut"):
        transfer.spread(7, 6)


def test_the_teacher_is_asked_about_every_token(teacher: BertClassifier) -> None:
    split = toy(20)
    view = transfer.ask(teacher, split, [1, 3])
    with torch.inference_mode():
        states = teacher.hidden_states(split.windows)
        logits = teacher(split.windows)
    assert (view.logits - logits).abs().max() < 0.1  # the teacher is asked in bf16
    for row in (0, 1, 19):
        real = split.windows[row] != 0
        kept = view.states[1][int(view.starts[row]) : int(view.starts[row + 1])].float()
        assert kept.shape == (int(real.sum()), 32)
        assert (kept - states[4][row][real]).abs().mean() < 0.05


def test_a_distilled_student_comes_closer_to_its_teacher(teacher: BertClassifier) -> None:
    split = toy()
    view = transfer.ask(teacher, split, [1, 3])
    student = transfer.cut(teacher, [1, 3])
    assert len(student.layers) == 2 and len(teacher.layers) == 4

    def distance() -> float:
        with torch.inference_mode():
            return float((student(split.windows).softmax(1) - view.logits.softmax(1)).abs().mean())

    before = distance()
    options = transfer.TransferOptions(epochs=6, learning_rate=1e-3, batch_texts=16)
    fit(student, split, options, transfer.transfer_loss(view, options))
    assert distance() < before / 2
    assert right(student, toy(seed=1)) > 0.85


def test_relations_are_compared_over_the_real_tokens_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    ours = torch.randn(2, 5, 3 * 8, generator=generator)
    theirs = torch.randn(2, 5, 3 * 12, generator=generator)  # another width, as many heads
    real = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    found = transfer.relation_loss(ours, theirs, real, heads=2)

    terms = []
    for row, count in ((0, 5), (1, 3)):
        for part in range(3):
            for head in range(2):

                def relations(
                    packed: torch.Tensor, row: int = row, part: int = part, head: int = head,
                    count: int = count,
                ) -> torch.Tensor:  # fmt: skip
                    size = packed.shape[2] // 6
                    start = (2 * part + head) * size
                    values = packed[row, :count, start : start + size]
                    return (values @ values.T / size**0.5).softmax(1)

                said, wanted = relations(ours), relations(theirs)
                terms += (wanted * (wanted / said).log()).sum(1).tolist()
    assert float(found) == pytest.approx(sum(terms) / len(terms), rel=1e-4)
    ours[1, 3:] = 100.0
    assert float(transfer.relation_loss(ours, theirs, real, 2)) == pytest.approx(float(found))
    assert float(transfer.relation_loss(theirs, theirs, real, 2)) == pytest.approx(0, abs=1e-6)


def test_attention_is_learned_by_a_student_with_fewer_heads(teacher: BertClassifier) -> None:
    split = toy()
    view = transfer.ask(teacher, split, [1, 3], attention=True)
    real = split.windows != 0
    wanted = torch.zeros(*real.shape, 96)
    assert view.packed is not None
    wanted[real] = view.packed.float()

    def apart(attention: float) -> float:
        student = transfer.cut(teacher, [1, 3])
        importance = transformer.Importance([torch.arange(4.0)] * 2, [torch.arange(64.0)] * 2)
        transformer.prune(transformer.blocks(student), importance, heads=2, neurons=64)
        options = transfer.TransferOptions(
            epochs=4, learning_rate=1e-3, batch_texts=16, hidden=0, attention=attention
        )
        fit(student, split, options, transfer.transfer_loss(view, options))
        with torch.inference_mode():
            packed = transfer._packed(student, student.hidden_states(split.windows))
            return float(transfer.relation_loss(packed, wanted, real, 2))

    assert apart(10.0) < 0.7 * apart(0.0)


# Calibration and metrics.


def error(logits: torch.Tensor, targets: torch.Tensor) -> float:
    """The expected calibration error."""
    return calibration.reliability(*calibration.confidence(logits, targets))["ece"]


def test_temperature_undoes_overconfidence() -> None:
    torch.manual_seed(0)
    honest = torch.randn(20000, 2) * 1.5
    targets = torch.distributions.Categorical(logits=honest).sample()
    assert fit_temperature(honest * 3, targets) == pytest.approx(3.0, rel=0.1)
    before = error(honest * 3, targets)
    after = error(honest, targets)
    assert after < 0.02 < 0.08 < before


def test_calibration_error_of_a_known_case() -> None:
    """Ten answers at 90% of which half are right: the error is 0.4."""
    sure = math.log(9.0)
    logits = torch.tensor([[sure, 0.0]] * 10)
    targets = torch.tensor([0, 1] * 5)
    assert error(logits, targets) == pytest.approx(0.4)


def test_metrics_of_a_known_case() -> None:
    answers = torch.tensor([[1, 0], [1, 0], [0, 1], [0, 1]]).bool()
    truth = torch.tensor([[1, 0], [0, 1], [0, 1], [0, 1]]).bool()
    assert text_metrics.macro_f1(answers, truth) == pytest.approx((2 / 3 + 4 / 5) / 2)
    assert text_metrics.accuracy(answers, truth)["accuracy"] == pytest.approx(0.75)
    scores = torch.tensor([[0.9], [0.8], [0.7], [0.6], [0.6]])
    wanted = torch.tensor([[1], [0], [1], [0], [1]]).bool()
    # Pairs won: 2 of 2, 1 of 2, and one tie of 2 with one loss: (2 + 1 + 0.5) / 6.
    assert text_metrics.auroc(scores, wanted) == pytest.approx(3.5 / 6)


# Vocabulary.


def test_rare_tokens_share_their_neighbours_row(teacher: BertClassifier) -> None:
    counts = torch.ones(300, dtype=torch.long)
    counts[:280] = 100
    model = transfer.cut(teacher, [0, 1, 2, 3])
    with torch.no_grad():
        model.embeddings.word.weight[290] = model.embeddings.word.weight[17] * 0.9
    small, covered = vocabulary.shrink(model, counts, [0, 1, 2], VocabularyOptions(rows=280))
    shared = small.embeddings.word
    assert isinstance(shared, SharedEmbedding) and shared.table.num_embeddings == 280
    with torch.inference_mode():
        ids = torch.tensor([[17, 290, 5]])
        rows = shared(ids)
        assert torch.equal(rows[0, 0], rows[0, 1])
        kept = torch.tensor([[1, 2, 100, 279]])
        assert torch.equal(small(kept), model(kept))
    assert covered == pytest.approx(279 * 100 / (279 * 100 + 20), abs=1e-6)


# int8.


def quantized(model: BertClassifier, shared: bool) -> tuple[BertClassifier, Lowered]:
    if shared:
        counts = torch.ones(300, dtype=torch.long)
        model, _ = vocabulary.shrink(model, counts, [0], VocabularyOptions(rows=256))
    windows = toy(64).windows
    return model, quantize(model.eval(), windows.split(16), 24)


@pytest.mark.parametrize("shared", [False, True])
def test_int8_stays_close_and_travels_whole(
    teacher: BertClassifier, shared: bool, tmp_path: object
) -> None:
    from pathlib import Path

    model, small = quantized(teacher, shared)
    ids: Tensor = toy(40, seed=2).windows
    with torch.inference_mode():
        expected, found = model(ids), small(ids)
    assert (found - expected).norm() / expected.norm() < 0.08
    assert (found.argmax(1) == expected.argmax(1)).float().mean() > 0.95
    file = Path(str(tmp_path)) / "state.pt"
    pickles.save(small, file)
    with torch.inference_mode():
        assert torch.equal(pickles.load(file)(ids), found)
    scripted = torchscript.script(small, ids[:1])
    with torch.inference_mode():
        for piece in (ids[:1], ids[:7], ids[:3, :8]):
            torch.testing.assert_close(scripted(piece), small(piece))


def test_int8_answers_do_not_depend_on_batch_mates(teacher: BertClassifier) -> None:
    _, small = quantized(teacher, True)
    ids = toy(16, seed=3).windows
    with torch.inference_mode():
        together = small(ids)
        for row in range(16):
            torch.testing.assert_close(
                small(ids[row : row + 1])[0], together[row], atol=1e-5, rtol=0
            )


@pytest.mark.parametrize("shared", [False, True])
def test_the_table_is_stored_in_bytes(shared: bool) -> None:
    torch.manual_seed(0)
    model = BertClassifier(dataclasses.replace(SHAPE, vocab_size=9000), 2).eval()
    if shared:
        counts = torch.ones(9000, dtype=torch.long)
        model, _ = vocabulary.shrink(model, counts, [0], VocabularyOptions(rows=8500))
    rows = 8500 if shared else 9000
    small = quantize(model, toy(64).windows.split(16), 24)
    buffers = list(small.buffers())
    assert [b.dtype for b in buffers if b.numel() == rows * 32] == [torch.int8]
    assert not any(t.numel() > rows * 32 for t in [*buffers, *small.parameters()])


def test_the_temperature_divides_the_logits(teacher: BertClassifier) -> None:
    windows = toy(64).windows
    ids = toy(8, seed=4).windows
    with torch.inference_mode():
        plain = quantize(teacher.eval(), windows.split(16), 24)(ids)
        cooler = quantize(teacher.eval(), windows.split(16), 24, temperature=2.0)(ids)
    torch.testing.assert_close(cooler, plain / 2)


def test_ids_of_either_width_are_taken(teacher: BertClassifier) -> None:
    _, small = quantized(teacher, False)
    ids = toy(8, seed=5).windows
    assert ids.dtype == torch.int32
    with torch.inference_mode():
        assert torch.equal(small(ids), small(ids.long()))


def test_kernels_are_measured_on_real_windows(
    teacher: BertClassifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(environment.VARIABLE)
    monkeypatch.setattr(kernels, "ROUNDS", 1)
    monkeypatch.setattr(kernels, "LIMIT", math.inf)
    found = measured(teacher.eval(), toy(64).windows.split(16), 24, 4)
    assert found is not None
    names = {"fbgemm", "onednn", "onednn, fp32 attention"}
    assert str(found.kernels) in found.milliseconds and set(found.milliseconds) == names
    assert all(set(by_load) == {"batch1", "batch4"} for by_load in found.milliseconds.values())
