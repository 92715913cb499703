"""The race of the speech benchmark: contestants in processes of their own, by turns.

Two OpenMP runtimes with more threads than there are cores stop spinning between parallel
regions, and then the one with the shorter regions is twice as slow as it is alone: so no
contestant lives in another's process.

    python benchmarks/speech_race.py NAME THREADS FOLDER     one contestant, for `race`
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.speech_contestants import NAMES, contestant  # noqa: E402
from optimize.data import speech  # noqa: E402
from optimize.models.whisper import find  # noqa: E402


class _Racer:
    """One contestant, waiting for the number of an utterance of the test split."""

    def __init__(self, name: str, threads: int, folder: Path) -> None:
        command = [sys.executable, "-W", "ignore", __file__, name, str(threads), str(folder)]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        )

    def transcribe(self, number: int) -> tuple[float, float, str]:
        """Seconds by the clock and of the processor, and the text."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(f"{number}\n")
        self.process.stdin.flush()
        waited, used, text = json.loads(self.process.stdout.readline())
        return waited, used, text

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def race(numbers: Sequence[int], threads: int, folder: Path) -> dict[str, Any]:
    """Seconds and texts of every contestant on every utterance, in turns.

    Args:
        numbers: of utterances of the test split.
        threads: of each contestant.
        folder: where our models are.
    """
    utterances = speech.load().test
    racers = {name: _Racer(name, threads, folder) for name in NAMES}
    times: dict[str, list[float]] = {name: [] for name in racers}
    processor: dict[str, list[float]] = {name: [] for name in racers}
    texts: dict[str, list[str]] = {name: [] for name in racers}
    try:
        for racer in racers.values():
            for number in numbers[:2]:  # warms up
                racer.transcribe(number)
        for turn, number in enumerate(numbers):
            first = turn % len(NAMES)
            for name in NAMES[first:] + NAMES[:first]:
                waited, used, text = racers[name].transcribe(number)
                times[name].append(waited)
                processor[name].append(used)
                texts[name].append(text)
            if turn % 20 == 19:
                print(f"  {threads} threads: {turn + 1}/{len(numbers)}", file=sys.stderr)
    finally:
        for racer in racers.values():
            racer.close()
    names = [utterances[number].name for number in numbers]
    return {"names": names, "times": times, "processor": processor, "texts": texts}


def main() -> None:
    name, threads, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints
    transcribe = contestant(name, find.find(), threads, folder)
    utterances = speech.load().test
    for line in sys.stdin:
        samples = utterances[int(line)].samples()
        start, used = time.perf_counter(), time.process_time()
        text = transcribe(samples)
        spent = time.perf_counter() - start, time.process_time() - used
        answers.write(json.dumps([*spent, text]) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
