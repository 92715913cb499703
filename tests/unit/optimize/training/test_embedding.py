"""What a student of embeddings learns: its teacher's vectors, relations and pairs."""

import dataclasses

import pytest
import torch
from torch.nn import functional as F

from optimize.data.corpus import TextSplit
from optimize.evaluation import retrieval
from optimize.evaluation.retrieval import Embedded
from optimize.models.architectures.bert import BertEmbedder, BertShape
from optimize.training import embedding, transfer
from optimize.training.embedding import EmbeddingTransferOptions, Pairs
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
    made = embedding.lesson(split, options, torch.zeros(0, 2, dtype=torch.int64))
    fit(student, made.split, options, made.loss, seed=0)
    assert similarity(student, split) > before + 0.3 * (1 - before)


def similarity(model: BertEmbedder, split: TextSplit) -> float:
    with torch.inference_mode():
        return float((model.eval()(split.windows) * split.targets).sum(1).mean())


def test_the_teacher_itself_has_nothing_to_lose(view: tuple[BertEmbedder, TextSplit]) -> None:
    teacher, split = view
    options = EmbeddingTransferOptions(bank=16)
    loss = embedding.lesson(split, options, torch.zeros(0, 2, dtype=torch.int64)).loss
    rows = torch.arange(8)
    value = loss(teacher, split.windows[rows], rows, split.targets[rows])
    assert float(value.detach()) == pytest.approx(0, abs=1e-4)


def test_pairs_are_a_cross_entropy(view: tuple[BertEmbedder, TextSplit]) -> None:
    """Both ways over the batch, without what is right for others."""
    teacher, split = view
    options = EmbeddingTransferOptions(cosine=0, relations=0, pairs=2.0, temperature=0.5)
    # 3 and 5 share document 9, which is no wrong answer to the other one.
    pairs = torch.tensor([[3, 9], [5, 9], [8, 12]])
    made = embedding.lesson(split, options, pairs)
    assert torch.equal(made.split.windows, split.windows[[3, 5, 8]])
    assert torch.equal(made.split.targets, split.targets[[3, 5, 8]])
    rows = torch.arange(3)
    value = made.loss(teacher, made.split.windows, rows, made.split.targets)
    logits = split.targets[[3, 5, 8]] @ split.targets[[9, 9, 12]].t() / 0.5
    logits[0, 1] = logits[1, 0] = -torch.inf
    expected = F.cross_entropy(logits, rows) + F.cross_entropy(logits.t(), rows)
    assert float(value.detach()) == pytest.approx(float(expected), abs=1e-4)


def test_pairs_teach_what_the_teacher_does_not_know(view: tuple[BertEmbedder, TextSplit]) -> None:
    teacher, split = view
    pairs = torch.arange(80).reshape(40, 2)
    options = EmbeddingTransferOptions(
        epochs=15, learning_rate=0.002, batch_texts=20, pairs=1, bank=64, precision="fp32"
    )
    made = embedding.lesson(split, options, pairs)
    student = fit(transfer.cut(teacher, [0, 1]), made.split, options, made.loss, seed=0)
    found = []
    for model in (teacher, student):
        with torch.inference_mode():
            rows = model(split.windows[:80])
        answers = Embedded(rows[0::2], rows[1::2])
        found.append(retrieval.score(answers, torch.arange(40)[:, None].expand(40, 2)))
    assert found[0]["recall_at_1"] < 0.3 < 0.6 < found[1]["recall_at_1"]


def test_documents_are_drawn_from_all_that_answer() -> None:
    known = Pairs(torch.tensor([[4, 2], [0, 3], [0, 2], [0, 3]]), 6)
    assert known.queries.tolist() == [0, 4]
    seen: dict[int, set[int]] = {}
    for _ in range(60):
        queries, documents = known.draw(torch.tensor([1, 0]))
        for query, document in zip(queries.tolist(), documents.tolist(), strict=True):
            seen.setdefault(query, set()).add(document)
    assert seen == {0: {2, 3}, 4: {2}}
    answers = known.answer(torch.tensor([0, 4, 5]), torch.tensor([2, 3, 5]))
    assert answers.tolist() == [[True, True, False], [True, False, False], [False] * 3]


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
