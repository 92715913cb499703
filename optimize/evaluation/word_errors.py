"""Word error rate and its uncertainty, with one text normaliser for all systems."""

import re
from dataclasses import dataclass

import jiwer
import numpy as np

_ONES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
_ONES += ["eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen"]
_ONES += ["eighteen", "nineteen"]
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_CONTRACTIONS = (
    (r"\bwon't\b", "will not"),
    (r"\bcan't\b", "can not"),
    (r"\bcannot\b", "can not"),
    (r"n't\b", " not"),
    (r"'re\b", " are"),
    (r"'ll\b", " will"),
    (r"'ve\b", " have"),
    (r"'m\b", " am"),
    (r"\b(it|that|there|here|what|who|he|she)'s\b", r"\1 is"),
)


def spell(number: str) -> str:
    """A number in words up to 999; longer ones digit by digit."""
    value = int(number)
    if len(number) > 3 or number != str(value):
        return " ".join(_ONES[int(digit)] for digit in number)
    if value < 20:
        return _ONES[value]
    if value < 100:
        ten, one = divmod(value, 10)
        return _TENS[ten - 2] + (f" {_ONES[one]}" if one else "")
    hundred, rest = divmod(value, 100)
    return f"{_ONES[hundred]} hundred" + (f" {spell(str(rest))}" if rest else "")


def normalise(text: str) -> str:
    """Lower case, no punctuation, numbers in words, contractions written out."""
    text = text.lower().replace("\u2019", "'")
    for pattern, words in _CONTRACTIONS:
        text = re.sub(pattern, words, text)
    text = re.sub(r"'", "", text)
    text = re.sub(r"[^a-z0-9]+", " ", text)
    text = re.sub(r"[0-9]+", lambda match: f" {spell(match[0])} ", text)
    return " ".join(text.split())


@dataclass(frozen=True)
class WordErrors:
    """Word error rate over `utterances`, with a 95% interval from resampling them."""

    rate: float
    utterances: int
    words: int
    ci95: tuple[float, float]
    errors: list[int]
    lengths: list[int]


def measure(references: list[str], hypotheses: list[str], *, resamples: int = 2000) -> WordErrors:
    """Word error rate of hypotheses against references; both are normalised first.

    The interval is the percentile bootstrap over utterances (Bisani and Ney 2004).

    Raises:
        ValueError: lengths differ, or a reference has no words.
    """
    errors, lengths = [], []
    for reference, hypothesis in zip(references, hypotheses, strict=True):
        target, words = normalise(reference), normalise(hypothesis)
        if not target:
            raise ValueError(f"the reference {reference!r} has no words")
        length = len(target.split())
        lengths.append(length)
        if not words:
            errors.append(length)
            continue
        counts = jiwer.process_words(target, words)
        errors.append(counts.substitutions + counts.deletions + counts.insertions)
    low, high = interval(np.array(errors), np.array(lengths), resamples)
    total = sum(lengths)
    return WordErrors(sum(errors) / total, len(errors), total, (low, high), errors, lengths)


def interval(errors: np.ndarray, lengths: np.ndarray, resamples: int = 2000) -> tuple[float, float]:
    """95% bootstrap interval of sum(errors) / sum(lengths) over utterances."""
    picks = np.random.default_rng(0).integers(0, len(errors), (resamples, len(errors)))
    rates = errors[picks].sum(1) / lengths[picks].sum(1)
    low, high = np.percentile(rates, [2.5, 97.5])
    return float(low), float(high)


def difference(
    references: list[str], before: list[str], after: list[str], *, resamples: int = 2000
) -> tuple[float, float, float]:
    """Word error rate of `after` minus that of `before`, with its paired 95% interval."""
    first, second = measure(references, before), measure(references, after)
    delta = np.array(second.errors) - np.array(first.errors)
    low, high = interval(delta, np.array(first.lengths), resamples)
    return second.rate - first.rate, low, high
