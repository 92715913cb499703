"""Labelled texts: deduplicated, split once, and cut into windows of token ids."""

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from handlers.errors import ModelError
from handlers.texts import read_tokenizer, special_tokens
from handlers.windows import windows
from optimize.data.dataset import Dataset, Split
from optimize.data.deduplicate import first_of_each
from optimize.data.tables import SPLITS
from optimize.errors import DataError


@dataclass(frozen=True)
class Corpus:
    """Texts with label positions (a tuple of several in multi-label data) and their sources.

    `split` names each text's split if the data come split, and is empty otherwise.
    """

    texts: list[str]
    targets: list[tuple[int, ...]]
    labels: list[str]
    sources: list[str]
    split: list[str] = field(default_factory=list)
    multi_label: bool = False

    def __getitem__(self, index: list[int]) -> "Corpus":
        return Corpus(
            [self.texts[i] for i in index],
            [self.targets[i] for i in index],
            self.labels,
            [self.sources[i] for i in index],
            [self.split[i] for i in index] if self.split else [],
            self.multi_label,
        )


@dataclass(frozen=True)
class TextSplit(Split):
    """Texts in windows.

    `inputs` int32 `[N, L]` is the first window of every text, `windows` int32 `[M, L]` holds
    all windows, padded with 0, `owner` int64 `[M]` the text of each window, ascending. `targets`
    is int64 `[N]`, or in multi-label data float32 `[N, classes]`.
    """

    windows: Tensor = field(default_factory=lambda: torch.zeros(0, 0, dtype=torch.int32))
    owner: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    sources: tuple[str, ...] = ()


@dataclass(frozen=True)
class TextDataset(Dataset):
    """A data set of texts; `encoder` is the folder its tokenizer comes from."""

    encoder: Path = Path()
    max_length: int = 128
    multi_label: bool = False
    metric: str = "accuracy"
    vocabulary: int = 0


def deduplicate(corpus: Corpus) -> tuple[Corpus, int]:
    """The corpus without the later ones of near duplicates, and how many were left out."""
    index = first_of_each(corpus.texts)
    return corpus[index], len(corpus.texts) - len(index)


def divide(corpus: Corpus, test: float, validation: float, seed: int) -> dict[str, list[int]]:
    """Positions of each split: the data's own split, or drawn within every source and label.

    Raises:
        DataError: a split would be empty.
    """
    positions: dict[str, list[int]] = {name: [] for name in SPLITS}
    if corpus.split:
        for position, name in enumerate(corpus.split):
            positions[name].append(position)
    strata: dict[tuple[str, tuple[int, ...]], list[int]] = defaultdict(list)
    random = np.random.default_rng(seed)
    for position, key in enumerate(zip(corpus.sources, corpus.targets, strict=True)):
        if not corpus.split or (corpus.split[position] == "train" and not positions["validation"]):
            strata[key].append(position)
    if strata:
        if corpus.split:
            test = 0.0
        positions["train"] = []
        drawn: dict[str, list[int]] = {name: [] for name in SPLITS}
        for key in sorted(strata):
            order = random.permutation(strata[key]).tolist()
            test_count, validation_count = round(len(order) * test), round(len(order) * validation)
            drawn["test"] += order[:test_count]
            drawn["validation"] += order[test_count : test_count + validation_count]
            drawn["train"] += order[test_count + validation_count :]
        for name in SPLITS:
            positions[name] += random.permutation(drawn[name]).tolist() if drawn[name] else []
    for name in SPLITS:
        if not positions[name]:
            raise DataError(f"{len(corpus.texts)} texts leave the {name} split empty: bring more")
    return positions


def load_tokenizer(folder: Path) -> Tokenizer:
    """`tokenizer.json` of a Hugging Face folder, without truncation and padding.

    Raises:
        DataError: missing or unreadable.
    """
    path = folder / "tokenizer.json"
    try:
        tokenizer = read_tokenizer(path)
    except Exception as error:  # tokenizers raises bare Exception
        raise DataError(
            f"{path} cannot be read ({error}): save it with tokenizer.save_pretrained"
        ) from error
    try:
        special_tokens(tokenizer, path)
    except ModelError as error:
        raise DataError(f"{error}: only tokenizers of encoders are supported") from error
    return tokenizer


def encode(corpus: Corpus, tokenizer: Tokenizer, max_length: int) -> TextSplit:
    """Texts to windows of token ids."""
    first, last = special_tokens(tokenizer, Path("tokenizer.json"))
    rows: list[list[int]] = []
    owner: list[int] = []
    starts: list[int] = []
    for position, encoding in enumerate(
        tokenizer.encode_batch(corpus.texts, add_special_tokens=False)
    ):
        text_windows = windows(encoding.ids, first, last, max_length)
        starts.append(len(rows))
        rows += text_windows
        owner += [position] * len(text_windows)
    padded = torch.zeros(len(rows), max_length, dtype=torch.int32)
    for row, ids in zip(padded, rows, strict=True):
        row[: len(ids)] = torch.tensor(ids, dtype=torch.int32)
    if corpus.multi_label:
        targets = torch.zeros(len(corpus.texts), len(corpus.labels))
        for position, chosen in enumerate(corpus.targets):
            targets[position, list(chosen)] = 1.0
    else:
        targets = torch.tensor([chosen[0] for chosen in corpus.targets])
    return TextSplit(
        padded[starts],
        targets,
        windows=padded,
        owner=torch.tensor(owner),
        sources=tuple(corpus.sources),
    )


def lengths(windows: Tensor) -> Tensor:
    """Number of tokens other than padding in each window, int64 `[M]`."""
    return (windows != 0).sum(1)
