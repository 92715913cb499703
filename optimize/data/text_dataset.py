"""From a corpus to a data set: deduplicated, split, tokenized, with samples for the check."""

from pathlib import Path

import numpy as np

from optimize.data.corpus import Corpus, TextDataset, deduplicate, divide, encode, load_tokenizer
from optimize.data.dataset import Sample
from optimize.errors import DataError, OptionError
from optimize.models.sources.bert import find_folder

SAMPLES = 8
METRICS = ("accuracy", "macro_f1", "auroc")


def build(
    corpus: Corpus,
    *,
    name: str,
    source: str,
    limit: int = 0,
    test: float = 0.1,
    validation: float = 0.05,
    max_length: int = 128,
    encoder: str | None = None,
    metric: str = "accuracy",
    seed: int = 0,
) -> TextDataset:
    """Drop near duplicates, split by source and label, tokenize, cut into windows.

    Raises:
        DataError: a split would be empty, or an option is out of range.
        OptionError: so is `max_length`.
        ModelError: no encoder folder.
    """
    if not 8 <= max_length <= 512:
        raise OptionError(f"max_length is {max_length}: from 8 to 512 tokens are possible")
    if not (0 < test < 1 and 0 < validation < 1 and test + validation < 1):
        raise DataError("test and validation are shares: 0.1 is a tenth, and some must be left")
    if metric not in METRICS:
        raise DataError(f"no metric {metric!r}; there are {', '.join(METRICS)}")
    corpus, dropped = deduplicate(corpus)
    if 0 < limit < len(corpus.texts):
        drawn = np.random.default_rng(seed).permutation(len(corpus.texts))[:limit]
        corpus = corpus[sorted(drawn.tolist())]
    parts = divide(corpus, test, validation, seed)
    folder = find_folder(encoder)
    tokenizer = load_tokenizer(folder)
    splits = {key: encode(corpus[index], tokenizer, max_length) for key, index in parts.items()}
    return TextDataset(
        name=name,
        source=source,
        labels=corpus.labels,
        train=splits["train"],
        validation=splits["validation"],
        test=splits["test"],
        samples=_samples(corpus[parts["test"]]),
        card_input={"max_length": max_length},
        notes=[f"{dropped} near duplicates left out"] if dropped else [],
        encoder=Path(folder),
        max_length=max_length,
        multi_label=corpus.multi_label,
        metric=metric,
        vocabulary=tokenizer.get_vocab_size(),
    )


def _samples(corpus: Corpus) -> list[Sample]:
    """A few short test texts, as text files, for the check after deployment."""
    order = sorted(range(len(corpus.texts)), key=lambda i: abs(len(corpus.texts[i]) - 120))
    samples = []
    for number, position in enumerate(order[:SAMPLES]):
        label = corpus.labels[corpus.targets[position][0]] if corpus.targets[position] else ""
        samples.append(Sample(f"text_{number}.txt", corpus.texts[position].encode(), label))
    return samples
