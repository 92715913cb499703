"""What each kind of data shows of the samples on which two models differ most."""

import difflib
from collections.abc import Sequence

import torch
from torch import Tensor

from optimize.data.corpus import TextDataset, load_tokenizer
from optimize.data.dataset import Dataset
from optimize.data.speech import Utterance
from optimize.data.text_pairs import PairDataset
from optimize.evaluation import examples, retrieval, word_errors
from optimize.evaluation.examples import Answered, Example
from optimize.evaluation.retrieval import Embedded
from optimize.tasks.tensors_data import Answers


def of_pictures(before: Tensor, after: Tensor, data: Dataset, most: int) -> list[Example]:
    """Test pictures as thumbnails; answers are logits `[N, classes]`."""
    order = str(data.card_input.get("color_order", "RGB"))
    return [
        one.shown("picture", examples.thumbnail(data.test.inputs[one.position], order))
        for one in examples.classified(before, after, data.test.targets, data.labels, most)
    ]


def of_texts(before: Tensor, after: Tensor, data: TextDataset, most: int) -> list[Example]:
    """The beginnings of test texts, as their tokens say them; answers are logits
    `[N, classes]`."""
    found = examples.classified(before, after, data.test.targets, data.labels, most)
    if not found:
        return []
    tokenizer = load_tokenizer(data.encoder)

    def text(position: int) -> str:
        ids = [token for token in data.test.inputs[position].tolist() if token]
        return examples.short(tokenizer.decode(ids, skip_special_tokens=True))

    return [one.shown("text", text(one.position)) for one in found]


def of_queries(before: Embedded, after: Embedded, data: PairDataset, most: int) -> list[Example]:
    """Test queries whose vectors turned most, each with the document that is nearest to it."""
    test = data.test
    cosine = (before.queries.double() * after.queries.double()).sum(1)
    chosen = examples.largest(1 - cosine, most)
    nearest = [retrieval.nearest(side, 1)[:, 0] for side in (before, after)]
    places = [retrieval.ranks(side, test.relevant) for side in (before, after)]

    def document(position: int) -> str:
        return examples.short(test.documents[position], 120)

    found = []
    for at in chosen:
        right = int(test.relevant[test.relevant[:, 0] == at, 1][0])
        then, now = (int(side[at]) for side in places)
        change = (
            f"first right document at place {then} before, {now} after; "
            f"cosine of the two vectors {float(cosine[at]):.3f}"
        )
        first, second = (document(int(side[at])) for side in nearest)
        query = examples.short(test.queries[at])
        found.append(Answered(at, document(right), first, second, change).shown("text", query))
    return found


def of_recordings(
    before: Sequence[str], after: Sequence[str], recordings: Sequence[Utterance], most: int
) -> list[Example]:
    """Recordings as small waveforms; answers are transcripts, and words what they differ in."""
    differ = torch.tensor([_differing(*texts) for texts in zip(before, after, strict=True)])
    return [
        Answered(
            at,
            examples.short(recordings[at].text),
            examples.short(before[at]),
            examples.short(after[at]),
            f"{int(differ[at])} word{'s' * (int(differ[at]) != 1)} differ"
            f"{'s' * (int(differ[at]) == 1)} between the two transcripts",
        ).shown("recording", examples.peaks(recordings[at].samples()))
        for at in examples.largest(differ, most)
    ]


def _differing(one: str, other: str) -> int:
    """Words that only one of two transcripts has at its place, the longer side's count."""
    a, b = (word_errors.normalise(text).split() for text in (one, other))
    matched = sum(block.size for block in difflib.SequenceMatcher(None, a, b).get_matching_blocks())
    return max(len(a), len(b)) - matched


def of_rows(before: Answers, after: Answers, most: int) -> list[Example]:
    """Test rows in words: of classes by the right one's probability, else by how far the answer
    went in standard deviations of the original's."""
    problem = after.problem
    rows = problem.data.split("test")
    old, new = before.classes(), after.classes()

    def row(position: int) -> str:
        named = zip(problem.data.inputs, rows.inputs, strict=True)
        return examples.short(", ".join(f"{k} = {examples.values(t[position])}" for k, t in named))

    if old is not None and new is not None:
        found = examples.classified(old[0], new[0], old[1], problem.labels, most)
        return [one.shown("row", row(one.position)) for one in found]
    judged = [problem.judged(answers.outputs) for answers in (before, after)]
    far = examples.distance(*judged)
    shown = []
    for at in examples.largest(far, most):
        right = examples.values(rows.targets[0][at]) if rows.targets else ""
        then, now = (examples.short(examples.values(side[0][at])) for side in judged)
        change = f"{float(far[at]):.3g} standard deviations apart"
        shown.append(Answered(at, right, then, now, change).shown("row", row(at)))
    return shown
