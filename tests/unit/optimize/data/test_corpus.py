"""Corpora: near duplicates, splits that never cross, windows, users' own files."""

import json
from pathlib import Path

import pytest
import torch

from handlers.windows import pool, spans, windows
from optimize.data import corpus, deduplicate, movie_reviews, tables, text_files
from optimize.data.corpus import Corpus
from optimize.errors import DataError
from tests.unit.handlers.text_artifact import encoder_folder

SENTENCE = "the film is a long and slow story of two brothers who never speak to each other again"


def some(count: int = 200) -> Corpus:
    words = [f"w{i}" for i in range(5000)]
    texts = [" ".join(words[i * 20 : i * 20 + 20]) for i in range(count)]
    return Corpus(
        texts,
        [(i % 2,) for i in range(count)],
        ["no", "yes"],
        ["long" if i % 4 else "short" for i in range(count)],
    )


def test_near_duplicates_are_found_and_others_kept() -> None:
    texts = [
        SENTENCE,
        SENTENCE.upper() + " !!!",  # equal once normalised
        SENTENCE.replace("long", "very long"),  # most shingles shared
        "the film is short",
        "<b>" + SENTENCE + "</b>",
        "an entirely different text about cooking rice and beans in a small kitchen",
        "",
        "",
    ]
    assert deduplicate.first_of_each(texts) == [0, 3, 5, 6, 7]


def test_real_reviews_hold_few_near_duplicates() -> None:
    found, _ = movie_reviews.read(["rotten_tomatoes"])
    kept = deduplicate.first_of_each(found.texts[:400])
    assert 390 <= len(kept) <= 400


def test_splits_are_stratified_and_never_cross() -> None:
    given = some()
    parts = corpus.divide(given, 0.2, 0.1, seed=3)
    everything = [i for name in corpus.SPLITS for i in parts[name]]
    assert sorted(everything) == list(range(200))
    for name, share in (("test", 0.2), ("validation", 0.1)):
        chosen = parts[name]
        assert len(chosen) == pytest.approx(200 * share, abs=4)
        yes = sum(given.targets[i] == (1,) for i in chosen) / len(chosen)
        short = sum(given.sources[i] == "short" for i in chosen) / len(chosen)
        assert yes == pytest.approx(0.5, abs=0.06)
        assert short == pytest.approx(0.25, abs=0.06)
    assert corpus.divide(given, 0.2, 0.1, seed=3) == parts
    assert corpus.divide(given, 0.2, 0.1, seed=4) != parts


def test_given_splits_are_kept_and_validation_comes_from_training() -> None:
    plain = some(40)
    named = Corpus(
        plain.texts, plain.targets, plain.labels, plain.sources, ["train"] * 30 + ["test"] * 10
    )
    parts = corpus.divide(named, 0.5, 0.2, seed=0)
    assert sorted(parts["test"]) == list(range(30, 40))
    assert sorted(parts["train"] + parts["validation"]) == list(range(30))
    assert parts["validation"]


def test_an_empty_split_is_refused() -> None:
    with pytest.raises(DataError, match="split empty"):
        corpus.divide(some(4), 0.1, 0.05, seed=0)


@pytest.mark.parametrize("tokens", [0, 1, 125, 126, 127, 252, 253, 1000])
def test_windows_hold_everything_and_are_even(tokens: int) -> None:
    made = windows(list(range(tokens)), -1, -2, 128)
    assert [t for w in made for t in w[1:-1]] == list(range(tokens))
    assert len(made) == max(1, -(-tokens // 126))
    sizes = [b - a for a, b in spans(tokens, 126)]
    assert max(sizes) <= 126 and max(sizes) - min(sizes) <= 1


def test_pooling_is_the_mean_of_a_texts_windows() -> None:
    logits = torch.tensor([[1.0, 0.0], [3.0, 4.0], [5.0, 5.0]])
    found = pool(logits, torch.tensor([1, 1, 0]), 2)
    assert found.tolist() == [[5.0, 5.0], [2.0, 2.0]]


def test_encoding_keeps_whole_texts() -> None:
    tokenizer = corpus.load_tokenizer(encoder_folder())
    long = " ".join(["good"] * 300)
    given = Corpus(["a film", long], [(0,), (1,)], ["no", "yes"], ["a", "a"])
    split = corpus.encode(given, tokenizer, 128)
    assert split.owner.tolist() == [0, 1, 1, 1]
    assert torch.equal(split.inputs, split.windows[[0, 1]])
    good = tokenizer.token_to_id("good")
    assert int((split.windows == good).sum()) == 300
    assert corpus.lengths(split.windows).tolist() == [4, 102, 102, 102]


# Users' own files.


def write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


ROWS = [(f"text number {i} about {'cats' if i % 2 else 'dogs'}", i % 2) for i in range(40)]


def test_csv_and_json_lines_mean_the_same(tmp_path: Path) -> None:
    encoder_folder()
    table = "body,kind\n" + "".join(f'"{t}",{k}\n' for t, k in ROWS)
    lines = "".join(json.dumps({"body": t, "kind": k}) + "\n" for t, k in ROWS)
    options = {"text": "body", "label": "kind", "labels": {"0": "dogs", "1": "cats"}}
    one = text_files.load(write(tmp_path / "a.csv", table), test=0.3, validation=0.2, **options)
    two = text_files.load(write(tmp_path / "a.jsonl", lines), test=0.3, validation=0.2, **options)
    assert one.labels == ["dogs", "cats"]
    assert one.fingerprint() == two.fingerprint()


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("text,label\ngood,1\nbad,\nworse,0\n", r"data\.csv:3: label is empty"),
        ("text,label\ngood,1\n,0\n", r"data\.csv:3: text holds no text"),
        ("text,label\n" + "good,1\n" * 5, r"data\.csv:2 to data\.csv:6: every row is labelled '1'"),
        ("text,label\n" + "good,1\n" * 9 + "bad,0\n", r"data\.csv:11: label '0' has 1 of 10 rows"),
        ("words,label\ngood,1\n", r"data\.csv:2: no column 'text'; there are words, label"),
        ("text,label\n", "holds no records"),
    ],
)
def test_what_cannot_be_learned_from_is_refused_with_its_row(
    tmp_path: Path, table: str, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        text_files.load(write(tmp_path / "data.csv", table))


def test_line_numbers_count_quoted_line_breaks(tmp_path: Path) -> None:
    table = 'text,label\n"two\nlines",1\nmore,\n'
    with pytest.raises(DataError, match=r"data\.csv:4: label is empty"):
        text_files.load(write(tmp_path / "data.csv", table))


def test_labels_outside_the_map_are_named(tmp_path: Path) -> None:
    file = write(tmp_path / "data.csv", "text,label\na,1\nb,0\nc,7\n")
    with pytest.raises(DataError, match=r"data\.csv:4: label '7' is not in the label map"):
        text_files.load(file, labels={"0": "no", "1": "yes"})


def test_not_utf8_and_not_json_say_where(tmp_path: Path) -> None:
    latin = tmp_path / "latin.csv"
    latin.write_bytes("text,label\ncafé,1\n".encode("latin-1"))
    with pytest.raises(DataError, match="not UTF-8"):
        text_files.load(str(latin))
    with pytest.raises(DataError, match=r"data\.jsonl:2: not JSON"):
        text_files.load(write(tmp_path / "data.jsonl", '{"text": "a", "label": 1}\n{oops\n'))


def test_a_folder_of_named_splits(tmp_path: Path) -> None:
    encoder_folder()
    for name, rows in (("train", ROWS[:24]), ("dev", ROWS[24:30]), ("test", ROWS[30:])):
        (tmp_path / f"{name}.csv").write_text(
            "text,label\n" + "".join(f"{t},{k}\n" for t, k in rows)
        )
    found = text_files.load(str(tmp_path))
    assert found.train is not None and found.validation is not None
    total = len(found.train) + len(found.validation) + len(found.test)
    assert len(found.test) <= 10 and total <= 40


def test_several_labels_a_text(tmp_path: Path) -> None:
    encoder_folder()
    kinds = ["", "funny", "sad", "funny;sad"]
    words = ["rain", "sun", "wind", "snow", "stone", "river", "cloud", "leaf"]
    table = "text,label\n" + "".join(
        f"{words[i % 8]} {words[i // 8]} {i} and {i * 7} things,{kinds[i % 4]}\n" for i in range(60)
    )
    found = text_files.load(
        write(tmp_path / "data.csv", table), multi_label=True, test=0.2, validation=0.2
    )
    assert found.labels == ["funny", "sad"] and found.multi_label
    assert found.test.targets.shape == (len(found.test), 2)


def test_hugging_face_datasets_folder(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    encoder_folder()
    folder = tmp_path / "saved" / "train"
    folder.mkdir(parents=True)
    features = {"label": {"names": ["dogs", "cats"], "_type": "ClassLabel"}}
    (folder / "dataset_info.json").write_text(json.dumps({"features": features}))
    (folder / "state.json").write_text("{}")
    table = pyarrow.table({"text": [t for t, _ in ROWS], "label": [k for _, k in ROWS]})
    file = str(folder / "data-00000-of-00001.arrow")
    with pyarrow.OSFile(file, "wb") as sink, pyarrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    rows = tables.read_rows(tmp_path / "saved", None)
    assert len(rows) == 40 and rows[0].split == "train"
    assert tables.class_names(tmp_path / "saved", "label") == ["dogs", "cats"]
