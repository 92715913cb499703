"""Queries and the documents that answer them: a user's own table, split for retrieval.

Held-out queries are asked against documents of which those that answer them are held out too: no
such text stands in the training split.
"""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from optimize.data.corpus import Corpus, TextSplit, encode, load_tokenizer
from optimize.data.tables import read_rows
from optimize.errors import DataError, OptionError
from optimize.models.sources.bert import find_folder

Pair = tuple[str, str]
# Documents of a retrieval beside those that answer its queries.
DISTRACTORS = 5000


@dataclass(frozen=True)
class Retrieval:
    """Queries, documents, and which of them answer which.

    Attributes:
        queries, documents: the texts.
        asked, offered: their windows.
        relevant: int64 `[P, 2]`, (query, document), by query; every query is there.
    """

    queries: list[str]
    documents: list[str]
    asked: TextSplit
    offered: TextSplit
    relevant: Tensor

    def __len__(self) -> int:
        return len(self.queries)


@dataclass(frozen=True)
class PairDataset:
    """Pairs of texts, split; `encoder` is the folder their tokenizer comes from.

    `train` holds texts, and `pairs`, int64 `[P, 2]`, the positions of queries and documents of
    which both are among them. `targets` of all splits' texts mean nothing.
    """

    name: str
    source: str
    train: TextSplit
    pairs: Tensor
    validation: Retrieval
    test: Retrieval
    encoder: Path
    max_length: int
    vocabulary: int
    notes: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    agreement_split: str = "test"

    def count(self, split: str) -> int:
        """Queries of `test` and `validation`, texts of `train`; 0 for another name."""
        part = getattr(self, split, None)
        return len(part) if isinstance(part, TextSplit | Retrieval) else 0

    def fingerprint(self) -> str:
        """SHA-256 over all windows and pairs."""
        digest = hashlib.sha256(json.dumps([self.max_length, self.vocabulary]).encode())
        held = [
            tensor
            for part in (self.validation, self.test)
            for tensor in (part.asked.windows, part.offered.windows, part.relevant)
        ]
        for tensor in (self.train.windows, self.pairs, *held):
            digest.update(f"{tuple(tensor.shape)}".encode())
            digest.update(tensor.contiguous().view(torch.uint8).numpy().data)
        return digest.hexdigest()


def encoded(texts: list[str], tokenizer: Tokenizer, max_length: int) -> TextSplit:
    """Texts without labels in windows; see `corpus.encode`."""
    corpus = Corpus(texts, [(0,)] * len(texts), ["text"], ["texts"] * len(texts))
    return encode(corpus, tokenizer, max_length)


def _key(text: str) -> str:
    return " ".join(text.casefold().split())


def _held_out(
    groups: dict[str, list[str]], chosen: list[str], others: list[str], random: np.random.Generator
) -> tuple[list[str], list[str], list[list[int]]]:
    """The chosen queries, their documents among others, and (query, document) pairs."""
    own = list(dict.fromkeys(document for query in chosen for document in groups[query]))
    taken = {_key(document) for document in own}
    free = [document for document in others if _key(document) not in taken]
    drawn = random.permutation(len(free))[:DISTRACTORS].tolist()
    documents = own + [free[i] for i in sorted(drawn)]
    place = {document: position for position, document in enumerate(documents)}
    pairs = [[i, place[d]] for i, query in enumerate(chosen) for d in groups[query]]
    return chosen, documents, pairs


def _grouped(pairs: list[Pair]) -> dict[str, list[str]]:
    """The documents of every query; texts that differ in case or spaces alone are one."""
    spelling: dict[str, str] = {}
    groups: dict[str, dict[str, None]] = {}
    for query, document in pairs:
        first = spelling.setdefault(_key(query), query)
        groups.setdefault(first, {})[spelling.setdefault(_key(document), document)] = None
    return {query: list(documents) for query, documents in groups.items()}


def build(
    pairs: list[Pair],
    *,
    name: str,
    source: str,
    limit: int = 0,
    test: float = 0.1,
    validation: float = 0.05,
    max_length: int = 128,
    encoder: str | None = None,
    seed: int = 0,
) -> PairDataset:
    """Group by query, split by query, keep what is held out from the training texts, tokenize.

    Args:
        pairs: (query, document).
        name, source: of the data set.
        limit: number of queries to keep, drawn at random; 0 keeps all.
        test, validation: shares of the queries in these splits.
        max_length: tokens of a window.
        encoder: Hugging Face folder of the model, whose tokenizer is used.
        seed: of the splits.

    Raises:
        DataError: a share is out of range, or a split would be empty.
        OptionError: so is `max_length`.
        ModelError: no encoder folder.
    """
    if not 8 <= max_length <= 512:
        raise OptionError(f"max_length is {max_length}: from 8 to 512 tokens are possible")
    if not (0 < test < 1 and 0 < validation < 1 and test + validation < 1):
        raise DataError("test and validation are shares: 0.1 is a tenth, and some must be left")
    groups = _grouped(pairs)
    random = np.random.default_rng(seed)
    queries = list(groups)
    order = [queries[i] for i in random.permutation(len(queries))]
    order = order[:limit] if limit else order
    tested, validated = round(len(order) * test), round(len(order) * validation)
    chosen = {
        "test": order[:tested],
        "validation": order[tested : tested + validated],
        "train": order[tested + validated :],
    }
    for split, part in chosen.items():
        if not part:
            raise DataError(f"{len(order)} queries leave the {split} split empty: bring more")
    everything = list(dict.fromkeys(document for query in order for document in groups[query]))
    folder = find_folder(encoder)
    tokenizer = load_tokenizer(folder)
    held: dict[str, Retrieval] = {}
    seen: set[str] = set()
    for split in ("test", "validation"):
        asked, documents, relevant = _held_out(groups, chosen[split], everything, random)
        seen.update(_key(text) for query in asked for text in (query, *groups[query]))
        held[split] = Retrieval(
            asked,
            documents,
            encoded(asked, tokenizer, max_length),
            encoded(documents, tokenizer, max_length),
            torch.tensor(relevant),
        )
    learned = [text for query in chosen["train"] for text in (query, *groups[query])]
    texts = [text for text in dict.fromkeys(learned) if _key(text) not in seen]
    if not texts:
        raise DataError("every text is held out: bring more pairs")
    place = {text: position for position, text in enumerate(texts)}
    kept = [(query, document) for query in chosen["train"] for document in groups[query]]
    found = [[place[q], place[d]] for q, d in kept if q in place and d in place]
    return PairDataset(
        name=name,
        source=source,
        train=encoded(texts, tokenizer, max_length),
        pairs=torch.tensor(found, dtype=torch.int64).reshape(-1, 2),
        validation=held["validation"],
        test=held["test"],
        encoder=folder,
        max_length=max_length,
        vocabulary=tokenizer.get_vocab_size(),
        notes=[f"{len(held['test'].documents)} documents stand against the test queries"],
    )


def load(
    path: str,
    query: str = "query",
    document: str = "document",
    limit: int = 0,
    test: float = 0.1,
    validation: float = 0.05,
    max_length: int = 128,
    encoder: str | None = None,
    seed: int = 0,
) -> PairDataset:
    """A user's pairs: a table that `optimize.data.tables` reads, a pair a row.

    A query with several right documents has several rows.

    Args:
        path: a CSV, TSV, JSON-lines or Parquet file, or a folder of them.
        query, document: names of columns.
        limit, test, validation, max_length, encoder, seed: see `build`.

    Raises:
        DataError: names the first row that is wrong.
    """
    place = Path(path).expanduser()
    pairs = []
    for row in read_rows(place, None):
        texts = []
        for column in (query, document):
            if column not in row.fields:
                columns = ", ".join(str(name) for name in row.fields)
                raise DataError(f"{row.where}: no column {column!r}; there are {columns}")
            content = row.fields[column]
            if not isinstance(content, str) or not content.strip():
                raise DataError(f"{row.where}: {column} holds no text; leave the row out")
            texts.append(content)
        pairs.append((texts[0], texts[1]))
    return build(
        pairs,
        name=place.stem,
        source=str(place),
        limit=limit,
        test=test,
        validation=validation,
        max_length=max_length,
        encoder=encoder,
        seed=seed,
    )
