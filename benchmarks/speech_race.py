"""The race of the speech benchmark: contestants in processes of their own, by turns.

Two OpenMP runtimes with more threads than there are cores stop spinning between parallel
regions, and then the one with the shorter regions is twice as slow as it is alone: so no
contestant lives in another's process.

    python -m benchmarks.speech_race NAME THREADS FOLDER     one contestant, for `race`
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.contestant import Contestant, answer_questions
from benchmarks.speech_contestants import NAMES, load_contestant
from optimize.data import speech
from optimize.models.whisper import find


def _start(name: str, threads: int, folder: Path) -> Contestant:
    """A contestant that answers numbers of utterances of the test split; see `serve`."""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.speech_race"]
    return Contestant(
        [*command, name, str(threads), str(folder.resolve())],
        {**os.environ, "OMP_NUM_THREADS": str(threads)},
        subprocess.DEVNULL,
    )


def race(numbers: Sequence[int], threads: int, folder: Path) -> dict[str, Any]:
    """Seconds and texts of every contestant on every utterance, in turns.

    Args:
        numbers: of utterances of the test split.
        threads: of each contestant.
        folder: where our models are.
    """
    utterances = speech.load().test
    times: dict[str, list[float]] = {name: [] for name in NAMES}
    processor: dict[str, list[float]] = {name: [] for name in NAMES}
    texts: dict[str, list[str]] = {name: [] for name in NAMES}
    contestants: dict[str, Contestant] = {}
    try:
        for name in NAMES:
            contestants[name] = _start(name, threads, folder)
        for contestant in contestants.values():
            for number in numbers[:2]:  # warm-up
                contestant.ask(number)
        for turn, number in enumerate(numbers):
            first = turn % len(NAMES)
            for name in NAMES[first:] + NAMES[:first]:
                waited, used, text = contestants[name].ask(number)
                times[name].append(waited)
                processor[name].append(used)
                texts[name].append(text)
            if turn % 20 == 19:
                print(f"  {threads} threads: {turn + 1}/{len(numbers)}", file=sys.stderr)
    finally:
        for contestant in contestants.values():
            contestant.close()
    names = [utterances[number].name for number in numbers]
    return {"names": names, "times": times, "processor": processor, "texts": texts}


def serve(name: str, threads: int, folder: Path) -> None:
    """Answer numbers of utterances with seconds of the clock and the processor, and the text."""

    def load() -> Callable[[int], tuple[float, float, str]]:
        transcribe = load_contestant(name, find.find(), threads, folder)
        utterances = speech.load().test

        def timed(number: int) -> tuple[float, float, str]:
            samples = utterances[number].samples()
            start, used = time.perf_counter(), time.process_time()
            text = transcribe(samples)
            return time.perf_counter() - start, time.process_time() - used, text

        return timed

    answer_questions(load)


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
