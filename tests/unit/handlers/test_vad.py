"""Cutting long recordings at silences."""

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from handlers.audio import SAMPLE_RATE
from handlers.vad import LEAD, WINDOW, Rules, has_speech, segments, speech_share, windows


def loudness(window: torch.Tensor) -> float:
    """Speech is what is loud: the rules are under test, not the detector."""
    return 1.0 if float(window.abs().mean()) > 0.05 else 0.0


def sound(*parts: tuple[float, float]) -> np.ndarray:
    """(seconds, amplitude) one after the other."""
    return np.concatenate(
        [np.full(int(seconds * SAMPLE_RATE), amplitude, np.float32) for seconds, amplitude in parts]
    )


def blocks(samples: np.ndarray, size: int = 12_345) -> Iterator[np.ndarray]:
    for start in range(0, len(samples), size):
        yield samples[start : start + size]


@pytest.mark.parametrize("size", [1, 511, 512, 513, 5000])
def test_windows_do_not_depend_on_the_blocks(size: int) -> None:
    samples = np.arange(2000, dtype=np.float32)
    found = np.concatenate(list(windows(blocks(samples, size))))
    assert len(found) % WINDOW == 0
    assert np.array_equal(found[:2000], samples) and not found[2000:].any()


def test_silence_gives_no_segment() -> None:
    assert list(segments(blocks(sound((40, 0.0))), loudness)) == []


def test_clicks_are_not_speech() -> None:
    assert list(segments(blocks(sound((5, 0.0), (0.03, 0.9), (5, 0.0))), loudness)) == []


def test_a_pause_ends_a_segment_and_silence_is_left_out() -> None:
    samples = sound((3, 0.0), (10, 0.5), (4, 0.0), (9, 0.5), (3, 0.0))
    found = list(segments(blocks(samples), loudness))
    assert [(round(s.start), round(s.end)) for s in found] == [(3, 13), (17, 26)]
    for segment in found:
        assert len(segment.samples) == pytest.approx((segment.end - segment.start) * SAMPLE_RATE)
        start = round(segment.start * SAMPLE_RATE)
        assert np.array_equal(segment.samples, samples[start : start + len(segment.samples)])


def test_a_short_pause_does_not_end_a_young_segment() -> None:
    samples = sound((2, 0.5), (1, 0.0), (2, 0.5), (1, 0.0))
    assert len(list(segments(blocks(samples), loudness))) == 1


@pytest.mark.parametrize("seconds", [29.5, 61.0, 200.0])
def test_speech_without_a_pause_is_cut_and_nothing_is_lost(seconds: float) -> None:
    samples = sound((seconds, 0.5))
    found = list(segments(blocks(samples), loudness))
    assert all(len(s.samples) <= 30 * SAMPLE_RATE for s in found)
    assert sum(len(s.samples) for s in found) >= len(samples)
    for before, after in itertools.pairwise(found):
        assert after.start == pytest.approx(before.end)


def test_a_long_stretch_is_cut_where_it_is_quietest() -> None:
    samples = sound((24, 0.5), (0.4, 0.0), (20, 0.5))
    first = next(iter(segments(blocks(samples), loudness, Rules(pause=1.0))))
    assert 23.9 < first.end < 24.5


def test_looking_for_speech_stops_at_the_first_words() -> None:
    asked = []

    def detect(window: torch.Tensor) -> float:
        asked.append(1)
        return loudness(window)

    assert has_speech(sound((0.5, 0.0), (20, 0.5)), detect)
    assert len(asked) < 25
    assert not has_speech(sound((3, 0.0)), loudness)


def cold(window: torch.Tensor, heard: list[int]) -> float:
    """Deaf to its first windows, like a detector whose state is empty."""
    heard.append(1)
    return loudness(window) if len(heard) > LEAD else 0.0


def test_a_detector_hears_silence_before_the_first_word() -> None:
    word = sound((0.1, 0.5))
    heard: list[int] = []
    assert has_speech(word, lambda window: cold(window, heard))
    late: list[int] = []
    (segment,) = segments([sound((0.1, 0.5), (33, 0.0))], lambda window: cold(window, late))
    assert segment.start == 0.0


def test_speech_is_what_is_loud_and_music_is_as_loud_where_it_sounds_like_a_voice() -> None:
    word = sound((5, 0.01), (0.5, 0.5), (5, 0.01))
    assert speech_share(word, loudness) > 0.9

    def half(window: torch.Tensor) -> float:  # a voice is heard for 0.5 s of a steady tone
        half.count += 1  # type: ignore[attr-defined]
        return 1.0 if 100 <= half.count < 116 else 0.0  # type: ignore[attr-defined]

    half.count = 0  # type: ignore[attr-defined]
    assert speech_share(sound((10, 0.5)), half) < 0.5
    assert speech_share(sound((3, 0.0)), loudness) == 0.0
