"""Answers of our handlers and of TorchServe's own, in the parts that are drawn."""

import math
import sys
from typing import Any

import pytest

from deploy.console import answer
from deploy.console.answer import Box, Label, Segment


def test_labels_of_ours_and_of_torchserves() -> None:
    ours = {"predictions": [{"label": "cat", "index": 3, "probability": 0.75}]}
    assert answer.read(ours).labels == [Label("cat", 0.75)]
    assert answer.read({"cat": 0.75, "dog": 0.25}).labels == [
        Label("cat", 0.75),
        Label("dog", 0.25),
    ]
    many = {"predictions": [{"label": str(i), "probability": 0.01} for i in range(50)]}
    assert len(answer.read(many).labels) == answer.MOST_LABELS


def test_boxes_of_a_detector() -> None:
    one = {"cat": [10, 20, 30, 60.5], "score": 0.9}
    wanted = [Box("cat", 0.9, 10, 20, 20, 40.5)]
    assert answer.read([one]).boxes == answer.read([[one]]).boxes == wanted
    assert answer.read([{"cat": [1, 2, 3, 4]}]).boxes == [Box("cat", None, 1, 2, 2, 2)]


def test_segments_and_how_long_a_recording_is() -> None:
    parts = [{"start": 0.5, "end": 2, "text": "hello"}, {"start": 2, "end": 3.5, "text": "you"}]
    found = answer.read({"text": "hello you", "segments": parts, "duration": 4.25})
    assert found.segments == [Segment(0.5, 2, "hello"), Segment(2, 3.5, "you")]
    assert (found.text, found.duration) == ("hello you", 4.25)
    assert answer.read({"text": "", "segments": parts}).duration == 3.5


@pytest.mark.parametrize(
    "value",
    [
        None,
        7,
        "text",
        [],
        [[]],
        [1, [2]],
        {},
        {"predictions": "none"},
        {"predictions": [1, {"label": "x"}, {"label": "x", "probability": "0.5"}]},
        {"predictions": [{"label": "x", "probability": math.nan}]},
        {"cat": 17},
        {"cat": True},
        [{"cat": ["a", 1, 2, 3]}, {"cat": [1, 2, 3]}],
        {"segments": [1, {"start": 3, "end": 1}, {"start": None, "end": 2}], "text": None},
        {"embedding": [1, "x"]},
        {"embedding": "AAAA"},
    ],
)
def test_other_forms_are_shown_as_they_came(value: object) -> None:
    found = answer.read(value)
    parts = (found.labels, found.boxes, found.segments, found.vector)
    assert not any(parts) and found.text is None
    assert found.raw


def test_long_answers_are_cut() -> None:
    raw = answer.read("x" * 100_000).raw
    assert len(raw) < answer.MOST_JSON + 50 and raw.endswith("(100,000 characters)")


def explained(text: str, *words: tuple[int, int, float]) -> answer.Answer:
    found = answer.read({})
    told = [{"start": a, "end": b, "attribution": v, "text": text[a:b]} for a, b, v in words]
    answer.explain(found, {"explanation": {"label": "good", "words": told}}, text)
    return found


def test_words_keep_the_whole_text_and_are_graded_by_the_largest() -> None:
    text = "A <b>dull</b> film, no"
    found = explained(text, (2, 13, -0.5), (14, 18, 0.25), (20, 22, 0.01))
    assert "".join(word.text for word in found.words) == text
    graded = [(word.text, word.level) for word in found.words if word.value is not None]
    assert graded == [("<b>dull</b>", -5), ("film", 2), ("no", 0)]
    assert found.explained == "good"


def test_words_that_do_not_fit_the_text_are_left_out() -> None:
    found = explained("short", (0, 5, 1.0), (3, 4, 1.0), (5, 90, 1.0))
    assert [word.text for word in found.words] == ["short"]
    assert explained("short", (-3, 2, 1.0)).words == []


@pytest.mark.parametrize(
    ("one", "other", "said"),
    [
        ({"a": 0.75, "b": 0.25}, {"a": 0.5, "b": 0.5}, "Both say a; their probabilities are 25.0"),
        ({"a": 0.75}, {"b": 0.75}, "They differ: a, and b."),
        ({"embedding": [3, 4]}, {"embedding": [6, 8]}, "Cosine similarity of the two: 1.0000."),
        ({"embedding": [1, 0]}, {"embedding": [0, 1]}, "Cosine similarity of the two: 0.0000."),
        ({"embedding": [0, 0]}, {"embedding": [0, 1]}, "Cosine similarity of the two: 0.0000."),
        ({"text": "yes"}, {"text": "yes"}, "Both say the same."),
        ({"text": "yes"}, {"text": "no"}, "They differ."),
        ([1], [1], "Both answers are the same."),
        ([1], [2], "The answers differ."),
    ],
)
def test_two_answers_in_a_line(one: object, other: object, said: str) -> None:
    assert answer.compared(answer.read(one), answer.read(other)).startswith(said)


def test_numbers_and_depths_beyond_what_a_page_can_hold() -> None:
    assert answer.read({"a": 10**400}).labels == []
    deep: list[Any] = []
    for _ in range(5 * sys.getrecursionlimit()):
        deep = [deep]
    assert answer.read(deep).raw == "(nested too deeply to be shown)"


@pytest.mark.parametrize("place", [None, "x", math.nan, 1.5, {}])
def test_an_explanation_without_places_colours_nothing(place: Any) -> None:
    found = answer.read({"predictions": []})
    words = [{"attribution": 1, "start": place, "end": 2}]
    answer.explain(found, {"explanation": {"words": words}}, "hello")
    assert found.words == []
