"""What a student of embeddings learns: its teacher's vectors, relations and pairs."""

import dataclasses

import pytest
import torch
from torch.nn import functional as F

from optimize.data.corpus import TextSplit
from optimize.models.architectures.bert import BertEmbedder, BertShape
from optimize.training import embedding, transfer
from optimize.training.embedding import EmbeddingTransferOptions, Partners
from optimize.training.finetune import fit

SHAPE = BertShape(80, 32, 2, 4, 64, max_position_embeddings=16)


def texts(count: int = 120) -> TextSplit:
    windows = torch.zeros(count, 12, dtype=torch.int32)
    generator = torch.Generator().manual_seed(0)
    for row in windows:
        size = int(torch.randint(4, 12, (), generator=generator))
        row[:size] = torch.randint(1, 80, (size,), generator=generator)
    return TextSplit(
        windows, torch.zeros(count), windows=windows, owner=torch.arange(count),
        sources=("texts",) * count,
    )  # fmt: skip


@pytest.fixture(scope="module")
def view() -> tuple[BertEmbedder, TextSplit]:
    torch.manual_seed(0)
    teacher = BertEmbedder(SHAPE).eval()
    with torch.no_grad():  # layers that change what goes through them
        for parameter in teacher.layers.parameters():
            if parameter.dim() == 2:
                parameter *= 10
    return teacher, embedding.ask(teacher, texts(), 0)


def test_the_teacher_is_asked_text_by_text(view: tuple[BertEmbedder, TextSplit]) -> None:
    teacher, split = view
    with torch.inference_mode():
        alone = torch.cat([teacher(row[row != 0][None]) for row in split.windows])
    torch.testing.assert_close(split.targets, alone, atol=1e-5, rtol=1e-4)
    assert split.targets.norm(dim=1).allclose(torch.ones(len(split)))


def test_a_student_comes_nearer(view: tuple[BertEmbedder, TextSplit]) -> None:
    teacher, split = view
    student = transfer.cut(teacher, [1])
    before = similarity(student, split)
    options = EmbeddingTransferOptions(
        epochs=12, learning_rate=0.002, batch_texts=24, relations=0.5, bank=32, precision="fp32"
    )
    loss = embedding.transfer_loss(split, options, torch.zeros(0, 2, dtype=torch.int64))
    fit(student, split, options, loss, seed=0)
    assert similarity(student, split) > before + 0.3 * (1 - before)


def similarity(model: BertEmbedder, split: TextSplit) -> float:
    with torch.inference_mode():
        return float((model.eval()(split.windows) * split.targets).sum(1).mean())


def test_the_teacher_itself_has_nothing_to_lose(view: tuple[BertEmbedder, TextSplit]) -> None:
    teacher, split = view
    options = EmbeddingTransferOptions(bank=16)
    loss = embedding.transfer_loss(split, options, torch.zeros(0, 2, dtype=torch.int64))
    rows = torch.arange(8)
    value = loss(teacher, split.windows[rows], rows, split.targets[rows])
    assert float(value.detach()) == pytest.approx(0, abs=1e-4)


def test_pairs_are_a_cross_entropy(view: tuple[BertEmbedder, TextSplit]) -> None:
    teacher, split = view
    options = EmbeddingTransferOptions(cosine=0, relations=0, pairs=2.0, bank=4, temperature=0.5)
    rows = torch.tensor([3, 5])  # only 3 has a partner
    torch.manual_seed(7)
    loss = embedding.transfer_loss(split, options, torch.tensor([[3, 9]]))
    value = loss(teacher, split.windows[rows], rows, split.targets[rows])
    torch.manual_seed(7)
    bank = split.targets[torch.randint(len(split.targets), (4,))]
    ours = split.targets[3]
    logits = torch.cat([(ours @ split.targets[9])[None], bank @ ours]) / 0.5
    expected = 2 * F.cross_entropy(logits[None], torch.tensor([0]))
    assert float(value.detach()) == pytest.approx(float(expected), abs=1e-4)


def test_partners_are_drawn_from_both_sides() -> None:
    partners = Partners(torch.tensor([[0, 2], [0, 3], [4, 2]]), 6)
    seen: dict[int, set[int]] = {}
    for _ in range(60):
        has, others = partners.draw(torch.tensor([0, 1, 2, 5]))
        assert has.tolist() == [True, False, True, False]
        for text, other in zip((0, 2), others.tolist(), strict=True):
            seen.setdefault(text, set()).add(other)
    assert seen == {0: {2, 3}, 2: {0, 4}}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"cosine": 0, "relations": 0}, "nor all 0"),
        ({"temperature": 0}, "above 0"),
        ({"patience": 2}, "need labels"),
        ({"balance": True}, "need labels"),
    ],
)
def test_options_that_mean_nothing_are_refused(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(EmbeddingTransferOptions(), **wrong)
