"""What a model answered, in the parts that the page draws: labels, boxes, words, segments."""

import json
import math
import operator
from dataclasses import dataclass, field
from typing import Any

MOST_JSON = 20_000  # characters of an answer that are shown as they came
MOST_LABELS, MOST_BOXES, MOST_WORDS, MOST_SEGMENTS = 10, 200, 2000, 2000
LEVELS = 5  # shades of a word's colour


@dataclass(frozen=True)
class Label:
    """A label and its probability, 0 to 1."""

    text: str
    probability: float


@dataclass(frozen=True)
class Box:
    """A rectangle in the picture's pixels, its label, and its score, 0 to 1, if it has one."""

    text: str
    score: float | None
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Word:
    """A piece of the text; `level` is -LEVELS (against the label) to LEVELS (for it)."""

    text: str
    level: int
    value: float | None


@dataclass(frozen=True)
class Segment:
    """A piece of a recording, in seconds, and what was said in it."""

    start: float
    end: float
    text: str


@dataclass
class Answer:
    """An answer's parts; those that it does not have are empty.

    `raw` is the answer's JSON as text, of at most MOST_JSON characters; `duration` in seconds.
    """

    raw: str
    labels: list[Label] = field(default_factory=list)
    boxes: list[Box] = field(default_factory=list)
    words: list[Word] = field(default_factory=list)
    segments: list[Segment] = field(default_factory=list)
    text: str | None = None
    duration: float = 0.0
    explained: str = ""
    vector: list[float] = field(default_factory=list)


def read(value: Any) -> Answer:
    """The parts of an answer, decoded JSON or text; of what has another form, only `raw`."""
    raw = value if isinstance(value, str) else _as_text(value)
    if len(raw) > MOST_JSON:
        raw = f"{raw[:MOST_JSON]}... ({len(raw):,} characters)"
    answer = Answer(raw)
    answer.boxes = _boxes(value)
    if isinstance(value, dict):
        answer.labels = _labels(value)
        if isinstance(value.get("text"), str):
            answer.text = value["text"]
        answer.segments = _segments(value.get("segments"))
        last = max((segment.end for segment in answer.segments), default=0.0)
        answer.duration = max(_number(value.get("duration")) or 0.0, last)
        answer.vector = _vector(value.get("embedding"))
    return answer


def explain(answer: Answer, value: Any, text: str) -> None:
    """Add the words of `text` to an answer, coloured by an explanation of it."""
    told = value.get("explanation") if isinstance(value, dict) else None
    if not isinstance(told, dict) or not isinstance(told.get("words"), list):
        return
    pieces: list[tuple[int, int, float]] = []
    at = 0
    for word in told["words"][:MOST_WORDS]:
        value = _number(word.get("attribution")) if isinstance(word, dict) else None
        if value is None:
            continue
        start, end = word.get("start"), word.get("end")
        if not (isinstance(start, int) and isinstance(end, int)):
            continue
        if at <= start < end <= len(text):
            pieces.append((start, end, value))
            at = end
    largest = max((abs(value) for _, _, value in pieces), default=0.0) or 1.0
    at = 0
    for start, end, value in pieces:
        if start > at:
            answer.words.append(Word(text[at:start], 0, None))
        answer.words.append(Word(text[start:end], round(LEVELS * value / largest), value))
        at = end
    if pieces and at < len(text):
        answer.words.append(Word(text[at:], 0, None))
    answer.explained = str(told.get("label", ""))


def compared(one: Answer, other: Answer) -> str:
    """One line: whether two versions say the same."""
    if one.labels and other.labels:
        first, second = one.labels[0], other.labels[0]
        if first.text != second.text:
            return f"They differ: {first.text}, and {second.text}."
        gap = 100 * abs(first.probability - second.probability)
        return f"Both say {first.text}; their probabilities are {gap:.1f} points apart."
    if one.vector and len(one.vector) == len(other.vector):
        return f"Cosine similarity of the two: {_cosine(one.vector, other.vector):.4f}."
    if one.text is not None and other.text is not None:
        return "Both say the same." if one.text == other.text else "They differ."
    return "Both answers are the same." if one.raw == other.raw else "The answers differ."


def _labels(value: dict[str, Any]) -> list[Label]:
    """Of our classifiers, and of TorchServe's own, which answer `{label: probability}`."""
    listed = value.get("predictions")
    pairs: list[tuple[Any, Any]] = []
    if isinstance(listed, list):
        pairs = [(p.get("label"), p.get("probability")) for p in listed if isinstance(p, dict)]
    elif value and all(isinstance(number, float | int) for number in value.values()):
        pairs = list(value.items())
    found = [(str(text), _number(number)) for text, number in pairs[:MOST_LABELS]]
    return [
        Label(text, number) for text, number in found if number is not None and 0 <= number <= 1
    ]


def _boxes(value: Any) -> list[Box]:
    """Of TorchServe's object detector: `[{label: [x1, y1, x2, y2], "score": s}]`."""
    listed = value
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], list):
        listed = value[0]
    found = []
    for entry in listed[:MOST_BOXES] if isinstance(listed, list) else ():
        if not isinstance(entry, dict):
            continue
        for name, corners in entry.items():
            if isinstance(corners, list) and len(corners) == 4:
                numbers = [n for n in map(_number, corners) if n is not None]
                if len(numbers) == 4:
                    left, top, right, bottom = numbers
                    width, height = max(0.0, right - left), max(0.0, bottom - top)
                    score = _number(entry.get("score"))
                    found.append(Box(str(name), score, left, top, width, height))
    return found


def _segments(value: Any) -> list[Segment]:
    found = []
    for entry in value[:MOST_SEGMENTS] if isinstance(value, list) else ():
        if isinstance(entry, dict):
            start, end = _number(entry.get("start")), _number(entry.get("end"))
            if start is not None and end is not None and 0 <= start <= end:
                found.append(Segment(start, end, str(entry.get("text", ""))))
    return found


def _vector(value: Any) -> list[float]:
    numbers = [_number(entry) for entry in value] if isinstance(value, list) else []
    return [n for n in numbers if n is not None] if None not in numbers else []


def _number(value: Any) -> float | None:
    """A finite number, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:  # JSON's whole numbers have no bounds
        return None
    return number if math.isfinite(number) else None


def _as_text(value: Any) -> str:
    try:
        return json.dumps(value, indent=1, ensure_ascii=False)
    except RecursionError:
        return "(nested too deeply to be shown)"


def _cosine(one: list[float], other: list[float]) -> float:
    length = math.hypot(*one) * math.hypot(*other)
    return sum(map(operator.mul, one, other)) / length if length else 0.0
