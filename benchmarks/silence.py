"""Speech: what is said about recordings in which nobody speaks, and under music and noise.

    python -m benchmarks.silence [ARTIFACT]

Tunes and noises are made here, by seed; each goes through the handler as a wav. Then the test
recordings, alone and with a tune or a noise 10 dB below them. Writes
benchmarks/results/silence.json.
"""

import argparse
import io
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import numpy.typing as npt
import soundfile

from benchmarks.contestant import ROOT
from handlers.speech_recognizer import SpeechRecognizer
from optimize.data import speech
from optimize.evaluation import word_errors

Samples = npt.NDArray[np.float32]
RATE = 16_000
EACH = 35  # of every kind
BELOW = 10.0  # dB
MINOR = np.array([0, 2, 3, 5, 7, 8, 10, 12, 15])


def _voice(
    g: np.random.Generator,
    hertz: float,
    seconds: float,
    harmonics: int = 20,
    vibrato: float = 0.006,
) -> npt.NDArray[np.float64]:
    """One note: harmonics that fall off, vibrato, a soft start and end."""
    t = np.arange(int(seconds * RATE)) / RATE
    phase = np.cumsum(1 + vibrato * np.sin(2 * np.pi * 5.5 * t)) / RATE
    fall = g.choice([0.7, 1.0, 2.0])
    limit = min(harmonics, int(RATE / 2 / hertz))
    tone = sum(np.sin(2 * np.pi * hertz * k * phase) / k**fall for k in range(1, limit + 1))
    return np.asarray(tone * np.minimum(1, 12 * t) * np.minimum(1, 12 * (seconds - t)))


def _place(into: npt.NDArray[np.float64], at: int, sound: npt.NDArray[np.float64]) -> None:
    part = into[at : at + len(sound)]
    part += sound[: len(part)]


def melody(g: np.random.Generator, n: int) -> npt.NDArray[np.float64]:
    tune, beat = np.zeros(n), int(RATE * g.choice([0.18, 0.25, 0.4]))
    root = g.choice([98.0, 130.8, 220.0, 440.0])
    for at in range(0, n - beat, beat):
        note = root * 2 ** (g.choice(MINOR) / 12)
        _place(tune, at, _voice(g, note, beat / RATE * g.choice([0.5, 1, 1.8])))
    return tune


def chords(g: np.random.Generator, n: int) -> npt.NDArray[np.float64]:
    tune, bar = np.zeros(n), RATE
    for at in range(0, n - bar, bar):
        root = 110.0 * 2 ** (g.choice(MINOR) / 12)
        for step in (0, g.choice([3, 4]), 7):
            _place(tune, at, _voice(g, root * 2 ** (step / 12), 1.1, vibrato=0.002))
    return tune


def drums(g: np.random.Generator, n: int) -> npt.NDArray[np.float64]:
    beats, step = np.zeros(n), int(RATE * g.choice([0.12, 0.2, 0.3]))
    t = np.arange(RATE // 4) / RATE
    for at in range(0, n - step, step):
        kind = g.integers(0, 4)
        if kind == 0:
            _place(beats, at, np.sin(2 * np.pi * (50 + 60 * np.exp(-30 * t)) * t) * np.exp(-12 * t))
        elif kind == 1:
            _place(beats, at, g.normal(0, 0.5, len(t)) * np.exp(-25 * t))
        elif kind == 2:
            _place(beats, at, np.diff(g.normal(0, 0.3, len(t) + 1)) * np.exp(-80 * t))
    return beats


def noise(g: np.random.Generator, n: int) -> npt.NDArray[np.float64]:
    """White to brown, steady or in swells, as of wind, rain and traffic."""
    spectrum = np.fft.rfft(g.normal(0, 1, n))
    spectrum /= np.maximum(1, np.arange(len(spectrum))) ** g.choice([0.0, 0.5, 1.0])
    swell = 1 + g.choice([0.0, 0.9]) * np.sin(2 * np.pi * g.uniform(0.1, 3) * np.arange(n) / RATE)
    return np.asarray(np.fft.irfft(spectrum, n) * swell)


def hum(g: np.random.Generator, n: int) -> npt.NDArray[np.float64]:
    t, hertz = np.arange(n) / RATE, g.choice([50.0, 60.0, 120.0])
    tones = sum(g.uniform(0, 1) * np.sin(2 * np.pi * hertz * k * t) for k in range(1, 30))
    return np.asarray(tones + g.normal(0, 0.05, n))


def siren(g: np.random.Generator, n: int) -> npt.NDArray[np.float64]:
    t = np.arange(n) / RATE
    low, high, pace = g.uniform(300, 700), g.uniform(800, 1600), g.uniform(0.2, 4)
    swing = np.sin(2 * np.pi * pace * t)
    swing = np.sign(swing) if g.random() < 0.4 else swing
    phase = 2 * np.pi * np.cumsum(low + (high - low) * (swing + 1) / 2) / RATE
    return np.asarray(sum(np.sin(k * phase) / k for k in (1, 2, 3)))


def clicks(g: np.random.Generator, n: int) -> npt.NDArray[np.float64]:
    """Keys, taps and beeps of a telephone."""
    sounds, t = np.zeros(n), np.arange(RATE // 5) / RATE
    for at in g.integers(0, n, int(n / RATE * g.uniform(1, 8))):
        if g.random() < 0.3:
            first, second = g.choice([697, 770, 852, 941]), g.choice([1209, 1336, 1477])
            _place(sounds, at, np.sin(2 * np.pi * first * t) + np.sin(2 * np.pi * second * t))
        else:
            _place(sounds, at, g.normal(0, 1, 400) * np.exp(-np.arange(400) / g.uniform(5, 80)))
    return sounds


KINDS: dict[str, Callable[[np.random.Generator, int], npt.NDArray[np.float64]]] = {
    kind.__name__: kind for kind in (melody, chords, drums, noise, hum, siren, clicks)
}


def sound(kind: str, seed: int, seconds: float | None = None) -> Samples:
    """A tune or a noise, float32 at 16 kHz: of 2 to 25 s unless said."""
    g = np.random.default_rng([seed, list(KINDS).index(kind)])
    if seconds is None:
        seconds = float(g.choice([2.0, 5.0, 10.0, 25.0]))
    samples = KINDS[kind](g, int(seconds * RATE))
    return np.asarray(g.uniform(0.1, 0.8) * samples / np.abs(samples).max(), np.float32)


def sounds() -> Iterator[tuple[str, Samples]]:
    """Name and samples of every tune and noise."""
    for kind in KINDS:
        for seed in range(EACH):
            yield f"{kind}-{seed}", sound(kind, seed)


def under(samples: Samples, kind: str, seed: int) -> Samples:
    """`samples` with a sound BELOW dB weaker under them."""
    other = sound(kind, seed, len(samples) / RATE + 2)[: len(samples)]
    gain = math.sqrt(float((samples**2).mean() / max(1e-12, float((other**2).mean()))))
    mixed = samples + other * np.float32(gain * 10 ** (-BELOW / 20))
    return np.asarray(mixed / max(1.0, float(np.abs(mixed).max())), np.float32)


def listener(artifact: Path) -> Callable[[Samples], str]:
    """The handler over an artifact folder: from samples to text."""
    handler = SpeechRecognizer()
    handler.initialize(SimpleNamespace(system_properties={"model_dir": str(artifact)}))

    def listen(samples: Samples) -> str:
        wav = io.BytesIO()
        soundfile.write(wav, samples, RATE, format="WAV", subtype="FLOAT")
        (reply,) = handler.answer([{"body": wav.getvalue()}], [{"content-type": "audio/wav"}])
        return str(json.loads(reply.body)["text"])

    return listen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("artifact", type=Path, nargs="?", default=ROOT / "artifacts/speech")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/silence.json")
    arguments = parser.parse_args()
    listen = listener(arguments.artifact)
    said = {name: text for name, samples in sounds() if (text := listen(samples))}
    test = speech.load().test
    references = [u.text for u in test]
    alone = [listen(u.samples()) for u in test]
    kinds = list(KINDS)
    mixed = [listen(under(u.samples(), kinds[i % len(kinds)], i)) for i, u in enumerate(test)]
    results = {
        "sounds": len(KINDS) * EACH,
        "with_text": said,
        "share_with_text": round(len(said) / (len(KINDS) * EACH), 4),
        "recordings": len(test),
        "wer": round(word_errors.measure(references, alone).rate, 4),
        "unheard": sum(not text for text in alone),
        "wer_10_db": round(word_errors.measure(references, mixed).rate, 4),
        "unheard_10_db": sum(not text for text in mixed),
    }
    arguments.output.write_text(json.dumps(results, indent=2) + "\n")
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
