"""Pairs of texts: what is held out stays out of the training texts, and bad rows are named."""

from pathlib import Path

import pytest
import torch

from optimize.data import text_pairs, wordnet
from optimize.errors import DataError
from tests.unit.handlers.text_artifact import encoder_folder

NUMBERS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]


def pairs() -> list[tuple[str, str]]:
    """Sixty queries; each has two documents, of which one answers ten queries."""
    return [
        (f"what is {a} and {b}", answer)
        for a in NUMBERS[:6]
        for b in NUMBERS
        for answer in (f"{a} plus {b}", f"the sum with {b}")
    ]


@pytest.fixture(scope="module")
def built() -> text_pairs.PairDataset:
    encoder_folder()
    return text_pairs.build(
        pairs(), name="sums", source="here", test=0.1, validation=0.05, max_length=16, seed=1
    )


def decoded(data: text_pairs.PairDataset, windows: torch.Tensor) -> list[str]:
    tokenizer = text_pairs.load_tokenizer(data.encoder)
    return [tokenizer.decode(row[row != 0].tolist()[1:-1]) for row in windows]


def test_no_held_out_text_is_in_training(built: text_pairs.PairDataset) -> None:
    assert (built.count("test"), built.count("validation")) == (6, 3)
    training = set(decoded(built, built.train.windows))
    assert built.count("train") == len(training) > 30
    truth: dict[str, set[str]] = {}
    for query, document in pairs():
        truth.setdefault(query, set()).add(document)
    for part in (built.test, built.validation):
        for position, query in enumerate(part.queries):
            rows = part.relevant[part.relevant[:, 0] == position, 1].tolist()
            assert {part.documents[i] for i in rows} == truth[query]
            assert not training & {query, *truth[query]}
    assert decoded(built, built.test.asked.windows) == built.test.queries


def test_training_pairs_belong_together(built: text_pairs.PairDataset) -> None:
    texts = decoded(built, built.train.windows)
    found = {(texts[a], texts[b]) for a, b in built.pairs.tolist()}
    assert found and found <= set(pairs())


def test_the_fingerprint_follows_the_texts(built: text_pairs.PairDataset) -> None:
    again = text_pairs.build(
        pairs(), name="sums", source="here", test=0.1, validation=0.05, max_length=16, seed=1
    )
    other = text_pairs.build(
        pairs(), name="sums", source="here", test=0.1, validation=0.05, max_length=16, seed=2
    )
    assert again.fingerprint() == built.fingerprint() != other.fingerprint()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("query,text\na,b\n", r"pairs\.csv:2: no column 'document'; there are query, text"),
        ("query,document\na,b\nc, \n", r"pairs\.csv:3: document holds no text"),
        ("query,document\na,b\nc,d\n", "2 queries leave the test split empty"),
    ],
)
def test_bad_tables_are_named(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "pairs.csv").write_text(content)
    with pytest.raises(DataError, match=message):
        text_pairs.load(str(tmp_path / "pairs.csv"))


NOUN = """\
  1 This software and database is being provided to you, the LICENSEE, by
00001740 03 n 01 entity 0 003 ~ 00001930 n 0000 | that which is perceived; "an entity"; "two"
02084071 05 n 03 dog 0 domestic_dog 0 Canis_familiaris 0 001 @ 1 n 0000 | a pet; a canid
"""
ADJECTIVE = '00000001 00 a 01 galore(ip) 0 001 & 1 n 0000 | in great numbers; "daffodils galore"\n'


def wordnet_folder(folder: Path) -> Path:
    (folder / "data.noun").write_text(NOUN)
    (folder / "data.adj").write_text(ADJECTIVE)
    for part in ("verb", "adv"):
        (folder / f"data.{part}").write_text("")
    return folder


def test_wordnet_lines_become_definitions_and_lemmas(tmp_path: Path) -> None:
    assert wordnet.read(wordnet_folder(tmp_path)) == [
        ("that which is perceived", "entity"),
        ("a pet; a canid", "dog"),
        ("a pet; a canid", "domestic dog"),
        ("a pet; a canid", "Canis familiaris"),
        ("in great numbers", "galore"),
    ]


def test_wordnet_that_is_absent_or_broken_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="apt-get install wordnet-base"):
        wordnet.read(tmp_path)
    (wordnet_folder(tmp_path) / "data.verb").write_text("a line\n")
    with pytest.raises(DataError, match=r"data\.verb:1 is no line"):
        wordnet.read(tmp_path)
