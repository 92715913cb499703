"""Log-mel features against a direct computation from the definition."""

import math

import numpy as np
import pytest
import torch

from optimize.models.whisper.frontend import HOP, WINDOW, LogMel, mel_filters


def direct(samples: np.ndarray, filters: np.ndarray) -> np.ndarray:
    """Features `[3000, mels]` of the clip padded to 30 s, window by window in float64."""
    padded = np.zeros(480_000)
    padded[: len(samples)] = samples
    padded = np.pad(padded, WINDOW // 2, mode="reflect")
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)
    starts = np.arange(3000) * HOP
    frames = padded[starts[:, None] + np.arange(WINDOW)] * window
    power = np.abs(np.fft.rfft(frames)) ** 2
    decades = np.log10(np.maximum(power @ filters.T, 1e-10))
    return (np.maximum(decades, decades.max() - 8) + 4) / 4


@pytest.fixture(scope="module")
def frontend() -> torch.jit.ScriptModule:
    return torch.jit.script(LogMel(80))


@pytest.mark.parametrize("count", [1, 160, 5000, 47_999, 479_999, 480_000])
def test_features_of_any_length(frontend: torch.jit.ScriptModule, count: int) -> None:
    samples = np.random.default_rng(count).normal(0, 0.1, count).astype(np.float32)
    wanted = direct(samples, mel_filters(80).double().numpy())
    features, silence = frontend(torch.from_numpy(samples), 3000)
    assert features.shape == (3000, 80)
    assert np.abs(features.numpy() - wanted).max() < 1e-3
    # Fewer frames are the first ones of the same features.
    frames = min(3000, math.ceil(count / HOP) + 40)
    some, same = frontend(torch.from_numpy(samples), frames)
    assert torch.equal(some, features[:frames]) or (some - features[:frames]).abs().max() < 1e-5
    assert same == silence
    if count < 470_000:
        assert abs(silence - wanted[-1, 0]) < 1e-3


def test_digital_silence_has_the_lowest_level(frontend: torch.jit.ScriptModule) -> None:
    features, silence = frontend(torch.zeros(16_000), 200)
    assert silence == -1.5
    assert torch.equal(features, torch.full((200, 80), -1.5))


def test_filters_are_slaney_triangles_of_equal_area() -> None:
    filters = mel_filters(80)
    assert filters.shape == (80, 201)
    assert (filters >= 0).all()
    # The bank that Whisper ships starts so; area normalisation makes each sum to about 1/40 Hz.
    assert filters[0, :3].tolist() == pytest.approx([0.0, 0.0248626, 0.0], abs=1e-6)
    assert (filters.sum(1)[40:] * 40).tolist() == pytest.approx([1.0] * 40, abs=0.08)
