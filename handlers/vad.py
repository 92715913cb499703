"""Where speech is: long recordings cut at silences into clips a model can take.

The detector is silero-vad's own TorchScript file: 512 samples of 16 kHz in, the probability
of speech out, its state inside.
"""

from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from handlers.audio import SAMPLE_RATE

Samples = npt.NDArray[np.float32]
Detector = Callable[[torch.Tensor], float]

WINDOW = 512
SPEECH, NOT_SPEECH = 0.5, 0.35
MIN_SPEECH_WINDOWS = 3  # 96 ms: shorter bursts are clicks
LEAD = 4  # windows of silence that a detector hears first: it starts cold, and misses words


LOUD = 0.5  # of the usual level of speech: 6 dB below it
LAG = 3  # windows by which a detector is late, or ends early
CONTEXT = 62  # windows before and after speech that it is compared with: 2 s


@dataclass(frozen=True)
class Rules:
    """When a segment ends, in seconds.

    Attributes:
        longest: a segment is cut here at the latest, at its quietest place.
        settled: from here on a pause of `pause` ends a segment; before it, only `long_pause`.
        padding: silence that a segment includes before and after its speech.
    """

    longest: float = 29.0
    settled: float = 8.0
    pause: float = 0.5
    long_pause: float = 2.0
    padding: float = 0.3


@dataclass(frozen=True)
class Segment:
    """Samples of one stretch of speech, and where it starts and ends, in seconds.

    Attributes:
        share: how much of what is loud from 2 s before the first word to 2 s after the last is
            speech: near 1 for speech, also in noise 10 dB below it; less for music and hum, whose
            stretches that sound like a voice are no louder than what is around them. None where
            nobody has looked.
    """

    start: float
    end: float
    samples: Samples
    share: float | None = None


def windows(blocks: Iterable[Samples]) -> Iterator[Samples]:
    """Regroup blocks into windows of WINDOW samples; the last is filled up with zeros."""
    rest = np.zeros(0, np.float32)
    for block in blocks:
        joined = np.concatenate([rest, block]) if len(rest) else block
        whole = len(joined) // WINDOW * WINDOW
        for start in range(0, whole, WINDOW):
            yield joined[start : start + WINDOW]
        rest = joined[whole:]
    if len(rest):
        yield np.pad(rest, (0, WINDOW - len(rest)))


def chances(blocks: Iterable[Samples], detect: Detector) -> Iterator[tuple[Samples, float]]:
    """Every window and the probability that somebody speaks in it.

    Args:
        blocks: mono float32 at 16 kHz.
        detect: a detector that has heard nothing yet; it keeps its own state.
    """
    for _ in range(LEAD):
        detect(torch.zeros(WINDOW))
    for window in windows(blocks):
        yield window, detect(torch.from_numpy(window))


def has_speech(samples: Samples, detect: Detector) -> bool:
    """Whether anything is said; stops at the first words."""
    run = 0
    for _, chance in chances([samples], detect):
        run = run + 1 if chance >= SPEECH else 0
        if run == MIN_SPEECH_WINDOWS:
            return True
    return False


def speech_share(samples: Samples, detect: Detector) -> float:
    """How much of what is loud around the words is speech, see `Segment.share`."""
    found = list(chances([samples], detect))
    levels = np.array([_level(window) for window, _ in found])
    return _share(levels, np.array([chance for _, chance in found]), 0, len(found))


def _level(window: Samples) -> float:
    return float(np.sqrt(np.square(window).mean()))


def _share(
    levels: npt.NDArray[np.float64], heard: npt.NDArray[np.float64], first: int, last: int
) -> float:
    """See `Segment.share`; levels and probabilities of windows, of which first to last count."""
    speaking = heard >= SPEECH
    places = speaking[first:last].nonzero()[0] + first
    if not len(places):
        return 0.0
    near = slice(max(0, places[0] - CONTEXT), places[-1] + 1 + CONTEXT)
    wider = np.convolve(speaking, np.ones(2 * LAG + 1))[LAG : LAG + len(speaking)] > 0
    loud = levels[near] >= LOUD * np.median(levels[places])
    return float((loud & wider[near]).sum() / max(1, loud.sum()))


class _Cutter:
    """Collects windows into segments."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.padding = self._count(rules.padding)
        self.first = 0  # number of the first window held
        self.held: list[Samples] = []
        self.chances: list[float] = []
        self.spoken = 0  # windows of speech held
        self.silent = 0  # windows since the last of speech

    def _count(self, seconds: float) -> int:
        return round(seconds * SAMPLE_RATE / WINDOW)

    def add(self, window: Samples, chance: float) -> Segment | None:
        """Take one window; the segment that it ends, if any."""
        self.held.append(window)
        self.chances.append(chance)
        speaking = chance >= (NOT_SPEECH if self.spoken and not self.silent else SPEECH)
        if speaking:
            self.spoken, self.silent = self.spoken + 1, 0
        else:
            self.silent += 1
        if not self.spoken:
            self._drop(len(self.held) - self.padding)
            return None
        settled = len(self.held) >= self._count(self.rules.settled)
        pause = self.rules.pause if settled else self.rules.long_pause
        if self.silent >= self._count(pause):
            return self.end()
        if len(self.held) >= self._count(self.rules.longest):
            return self._cut()
        return None

    def end(self) -> Segment | None:
        """What is held, without the silence at its end beyond the padding."""
        spoken, count = self.spoken, len(self.held) - max(0, self.silent - self.padding)
        segment = self._take(count) if spoken >= MIN_SPEECH_WINDOWS else None
        if segment is None:
            self._drop(len(self.held) - self.padding)
        self.spoken, self.silent = 0, 0
        return segment

    def _cut(self) -> Segment:
        """Cut a long stretch at the quietest half second of its last third."""
        width = self._count(0.5)
        start = len(self.chances) * 2 // 3
        sums = np.convolve(self.chances[start:], np.ones(width), "valid")
        place = start + int(sums.argmin()) + width // 2
        segment = self._take(place)
        self.spoken = sum(chance >= NOT_SPEECH for chance in self.chances)
        self.silent = 0
        return segment

    def _take(self, count: int) -> Segment:
        samples = np.concatenate(self.held[:count])
        start = self.first * WINDOW / SAMPLE_RATE
        self._drop(count)
        return Segment(start, start + len(samples) / SAMPLE_RATE, samples)

    def _drop(self, count: int) -> None:
        if count > 0:
            del self.held[:count], self.chances[:count]
            self.first += count


def segments(
    blocks: Iterable[Samples], detect: Detector, rules: Rules | None = None
) -> Iterator[Segment]:
    """Stretches of speech in order, each at most `longest`; silence between them is left out.

    Holds one segment at a time (and two numbers a window), whatever the recording's length.

    Args:
        blocks: mono float32 at 16 kHz.
        detect: see `chances`.
        rules: see `Rules`.
    """
    cutter = _Cutter(rules or Rules())
    levels, heard = array("d"), array("d")

    def judged(segment: Segment) -> Segment:
        first = round(segment.start * SAMPLE_RATE / WINDOW)
        last = first + len(segment.samples) // WINDOW
        start = max(0, first - CONTEXT)
        known = np.array(levels[start:]), np.array(heard[start:])
        return replace(segment, share=_share(*known, first - start, last - start))

    for window, chance in chances(blocks, detect):
        levels.append(_level(window))
        heard.append(chance)
        segment = cutter.add(window, chance)
        if segment is not None:
            yield judged(segment)
    segment = cutter.end() if cutter.spoken else None
    if segment is not None:
        yield judged(segment)
