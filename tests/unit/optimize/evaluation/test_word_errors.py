"""Word error rate: the normaliser, the count, the interval."""

import pytest

from optimize.evaluation import word_errors


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Press 1 now.", "press one now"),
        ("You're muted -- it's OK!", "you are muted it is ok"),
        ("I can't; won't; cannot.", "i can not will not can not"),
        ("Waldo\u2019s de-activated", "waldos de activated"),
        ("15, 42, 300, 512", "fifteen forty two three hundred five hundred twelve"),
        ("Call 1234 or 007", "call one two three four or zero zero seven"),
        ("...", ""),
    ],
)
def test_texts_that_mean_the_same_become_the_same(text: str, words: str) -> None:
    assert word_errors.normalise(text) == words
    assert word_errors.normalise(words) == words


def test_errors_are_counted_over_all_words() -> None:
    found = word_errors.measure(["a b c d", "e f"], ["a x c", "e f g"])
    assert (found.rate, found.utterances, found.words) == (3 / 6, 2, 6)
    assert found.errors == [2, 1]
    assert found.ci95[0] <= found.rate <= found.ci95[1]


def test_an_empty_answer_misses_every_word() -> None:
    assert word_errors.measure(["a b c"], ["?!"]).rate == 1.0


def test_the_paired_interval_is_tighter_than_the_difference_of_two() -> None:
    references = [f"one two three four {i}" for i in range(100)]
    before = [r if i % 3 else "nothing at all" for i, r in enumerate(references)]
    after = list(before)
    after[1] = "one two three"
    change, low, high = word_errors.difference(references, before, after)
    assert change > 0 and low >= 0
    assert high - low < 0.02


def test_references_must_say_something_and_lists_must_match() -> None:
    with pytest.raises(ValueError, match="no words"):
        word_errors.measure(["!"], ["a"])
    with pytest.raises(ValueError):
        word_errors.measure(["a"], [])
