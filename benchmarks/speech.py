"""Speech: our compressed Whisper against the original and faster-whisper, same weights.

    python -m benchmarks.speech [--threads 1 2] [--folder DIR [--piece NAME]]

Every utterance is transcribed by every contestant in turn, so that a noisy machine slows all
alike, each in a process of its own; memory is measured in further ones. Besides the
product's packages this needs `transformers` and `faster-whisper` (`make bench-speech`). Writes
benchmarks/results/speech.json. On a shared machine the pieces can run one by one: --folder
stores their measurements, --piece runs one, and a last call without it writes the result.
"""

import argparse
import gc
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import torch

from benchmarks.contestant import MALLOC, ROOT
from benchmarks.memory import resident
from benchmarks.speech_contestants import (
    NAMES,
    load_contestant,
    load_ours,
    save,
)
from benchmarks.speech_race import race
from optimize.data import speech
from optimize.evaluation import environment, word_errors
from optimize.models.whisper import find

warnings.filterwarnings("ignore")
SHARES = 6  # a race on one thread takes minutes
SECOND = 57  # utterances on every other thread count
PEERS = ("transformers", "faster-whisper", "ctranslate2", "jiwer", "soundfile", "soxr")


def _memory(name: str, folder: Path, utterances: list[speech.Utterance]) -> dict[str, float]:
    """Resident memory of a fresh process after it transcribed ten utterances.

    Ours is the whole handler as TorchServe's worker runs it, with the voice detector; the
    others are the bare library.
    """
    if name.startswith("ours"):
        return _in_handler(folder / name, *[str(u.path.resolve()) for u in utterances[:10]])
    return _fresh_process(["benchmarks.speech", "--memory", name], dict(os.environ))


def _in_handler(folder: Path, *arguments: str) -> dict[str, float]:
    """What `speech_memory` prints; the handler sets malloc by itself."""
    environment = {k: v for k, v in os.environ.items() if k not in MALLOC}
    return _fresh_process(
        ["benchmarks.speech_memory", str(folder.resolve()), *arguments], environment
    )


def _fresh_process(module: list[str], environment: dict[str, str]) -> dict[str, float]:
    """Run a module with its arguments, on one thread, and read the JSON on its last line."""
    finished = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", *module],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env={**environment, "OMP_NUM_THREADS": "1"},
    )
    return json.loads(finished.stdout.strip().splitlines()[-1])


def _memory_child(name: str) -> None:
    whisper = find.find()
    transcribe = load_contestant(name, whisper, 1, Path())
    del whisper
    gc.collect()
    for utterance in speech.load().test[:10]:
        transcribe(utterance.samples())
    print(json.dumps(resident()))


def _batches(path: Path, clips: list[np.ndarray], rounds: int = 3) -> dict[str, float]:
    """Utterances per second of our file, one by one and eight at a time, by turns, one thread."""
    torch.set_num_threads(1)
    model = load_ours(path)
    clips = clips[: len(clips) // 8 * 8]

    def run(size: int) -> float:
        start = time.perf_counter()
        for first in range(0, len(clips), size):
            rows = clips[first : first + size]
            batch = torch.zeros(len(rows), max(map(len, rows)))
            for i, row in enumerate(rows):
                batch[i, : len(row)] = torch.from_numpy(row)
            with torch.inference_mode():
                model(batch, torch.tensor([len(row) for row in rows]))
        return time.perf_counter() - start

    run(8), run(1)
    ones, eights = [], []
    for _ in range(rounds):
        ones.append(run(1))
        eights.append(run(8))
    count = len(clips)
    return {
        "utterances_per_second_batch1": round(count / min(ones), 2),
        "utterances_per_second_batch8": round(count / min(eights), 2),
        "batch8_over_batch1": round(
            float(np.median([one / eight for one, eight in zip(ones, eights, strict=True)])), 2
        ),
    }


def _ratio(slow: list[float], fast: list[float]) -> tuple[float, float, float]:
    """Ratio of total times with a 95% bootstrap interval over utterances."""
    a, b = np.array(slow), np.array(fast)
    picks = np.random.default_rng(0).integers(0, len(a), (2000, len(a)))
    ratios = a[picks].sum(1) / b[picks].sum(1)
    low, high = np.percentile(ratios, [2.5, 97.5])
    return round(float(a.sum() / b.sum()), 2), round(float(low), 2), round(float(high), 2)


def _accuracy(
    name: str, utterances: list[speech.Utterance], texts: dict[str, list[str]]
) -> dict[str, Any]:
    """Word error rate of one contestant, alone and against the original."""
    references = [u.text for u in utterances]
    measured = word_errors.measure(references, texts[name])
    against = word_errors.difference(references, texts["original"], texts[name])
    same = [
        word_errors.normalise(a) == word_errors.normalise(b)
        for a, b in zip(texts["original"], texts[name], strict=True)
    ]
    collections: dict[str, tuple[list[str], list[str]]] = {}
    for utterance, text in zip(utterances, texts[name], strict=True):
        said, heard = collections.setdefault(utterance.collection, ([], []))
        said.append(utterance.text)
        heard.append(text)
    return {
        "wer": round(measured.rate, 4),
        "ci95": [round(v, 4) for v in measured.ci95],
        "utterances": measured.utterances,
        "words": measured.words,
        "wer_minus_original": round(against[0], 4),
        "wer_minus_original_ci95": [round(against[1], 4), round(against[2], 4)],
        "same_words_as_original": round(float(np.mean(same)), 4),
        "by_collection": {
            key: round(word_errors.measure(*rows).rate, 4)
            for key, rows in sorted(collections.items())
        },
    }


class Benchmark:
    """The pieces of the benchmark, each measured once and cached in `folder`."""

    def __init__(self, folder: Path, threads: list[int]) -> None:
        self.folder, self.threads = folder, threads
        self.data, self.whisper = speech.load(), find.find()
        folder.mkdir(parents=True, exist_ok=True)

    def pieces(self) -> list[str]:
        """Names, in order."""
        first, *others = self.threads
        races = [f"race{first}-{share + 1}of{SHARES}" for share in range(SHARES)]
        return ["models", *races, *(f"race{t}" for t in others), "memory", "batches", "hour"]

    def get(self, piece: str) -> Any:
        """The measurements of a piece, which is measured first if need be."""
        path = self.folder / f"{piece}.json"
        if not path.is_file():
            print(f"measuring {piece}", file=sys.stderr)
            path.write_text(json.dumps(self._measure(piece)))
        return json.loads(path.read_text())

    def _measure(self, piece: str) -> Any:
        test, folder = self.data.test, self.folder
        if piece == "models":
            return save(self.whisper, self.data, folder)
        self.get("models")
        if piece == "memory":
            return {name: _memory(name, folder, test) for name in NAMES}
        if piece == "batches":
            return _batches(folder / "ours/model.pt", [u.samples() for u in test[:64]])
        if piece == "hour":
            return _in_handler(folder / "ours", "--hour")
        count, _, share = piece.removeprefix("race").partition("-")
        if share:
            return race(range(int(share[0]) - 1, len(test), SHARES), int(count), folder)
        return race(range(0, len(test), len(test) // SECOND), int(count), folder)

    def results(self) -> dict[str, Any]:
        """All results, as speech.json holds them."""
        results: dict[str, Any] = {name: {} for name in NAMES}
        ratios: dict[str, Any] = {}
        by_name = {u.name: u for u in self.data.test}
        for count in self.threads:
            races = [self.get(p) for p in self.pieces() if p.partition("-")[0] == f"race{count}"]
            utterances = [by_name[name] for race in races for name in race["names"]]
            # On one thread processor time is what an otherwise idle machine would take.
            clock = "processor" if count == 1 else "times"
            times = {name: [t for race in races for t in race[clock][name]] for name in NAMES}
            waited = {name: [t for race in races for t in race["times"][name]] for name in NAMES}
            texts = {name: [t for race in races for t in race["texts"][name]] for name in NAMES}
            for name in NAMES:
                seconds = round(float(np.mean(times[name])), 4)
                results[name][f"seconds_per_utterance_threads{count}"] = seconds
                results[name][f"median_wall_seconds_threads{count}"] = round(
                    float(np.median(waited[name])), 4
                )
                if count == self.threads[0]:
                    results[name]["seconds_per_utterance"] = seconds
                    results[name].update(_accuracy(name, utterances, texts))
            ratios[f"threads{count}"] = {
                f"{fast}_over_{slow}": _ratio(times[slow], times[fast])
                for fast in ("ours_padded", "ours")
                for slow in ("original", "faster_whisper_int8")
            }
            ratios[f"threads{count}"]["utterances"] = len(utterances)
        for name, memory in self.get("memory").items():
            results[name].update(memory)
        for name, size in self.get("models").items():
            results[name]["bytes"] = size
        versions = environment.versions()
        versions.update({package: importlib.metadata.version(package) for package in PEERS})
        return {
            **results,
            "speedup": ratios,
            "batching": self.get("batches"),
            "hour": self.get("hour"),
            "data": {"source": self.data.source, "fingerprint": self.data.fingerprint()},
            "weights": self.whisper.source,
            "machine": environment.describe(),
            "versions": versions,
        }


def table(results: dict[str, Any], threads: list[int]) -> list[str]:
    """The results as lines for a terminal."""
    lines = [
        f"{'':<22}{'WER':>7}{'95% interval':>16}"
        + "".join(f"{f's, {t} thr':>9}" for t in threads)
        + f"{'RSS MB':>8}"
    ]
    for name in NAMES:
        row = results[name]
        interval = f"{row['ci95'][0]:.3f}-{row['ci95'][1]:.3f}"
        seconds = "".join(f"{row[f'seconds_per_utterance_threads{t}']:>9.3f}" for t in threads)
        lines.append(f"{name:<22}{row['wer']:>7.4f}{interval:>16}{seconds}{row['rss_mb']:>8.0f}")
    for count in threads:
        for name, value in results["speedup"][f"threads{count}"].items():
            if name != "utterances":
                lines.append(
                    f"{count} thread(s) {name:<36}{value[0]:>7.2f}x ({value[1]}-{value[2]})"
                )
    lines.append(f"batch 8 over batch 1: {results['batching']['batch8_over_batch1']}x")
    hour = results["hour"]
    lines.append(
        f"one hour: {hour['seconds']} s, {hour['rss_mb']:.0f} MB ({hour['minute_rss_mb']:.0f} MB "
        "after a minute)"
    )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--folder", type=Path, help="keep models and measurements here")
    parser.add_argument("--piece", help="measure this one only, into --folder")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/speech.json")
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory:
        _memory_child(arguments.memory)
        return
    if any(os.environ.get(key) != value for key, value in MALLOC.items()):
        command = [sys.executable, "-m", "benchmarks.speech", *sys.argv[1:]]
        os.execve(sys.executable, command, {**os.environ, **MALLOC})
    with tempfile.TemporaryDirectory() as scratch:
        benchmark = Benchmark(arguments.folder or Path(scratch), arguments.threads)
        if arguments.piece:
            if arguments.piece not in benchmark.pieces() or not arguments.folder:
                parser.error(f"--piece takes {', '.join(benchmark.pieces())}, with --folder")
            benchmark.get(arguments.piece)
            return
        results = benchmark.results()
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(results, indent=2) + "\n")
    print("\n".join(table(results, arguments.threads)))


if __name__ == "__main__":
    main()
