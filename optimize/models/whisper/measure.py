"""What is measured of a saved transcriber: tokens, word errors, cost, parity, latency."""

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from optimize.data import speech
from optimize.errors import ParityError
from optimize.evaluation import word_errors
from optimize.evaluation.timer import percentiles
from optimize.models.whisper import cost
from optimize.models.whisper.checkpoint import Spec
from optimize.models.whisper.compress import ENGINE, CompressOptions
from optimize.utils import torchscript
from optimize.utils.bars import bar

Model = Callable[..., tuple[Tensor, Tensor]]


def batch(clips: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Samples `[batch, n]`, padded with zeros, and lengths `[batch]`."""
    rows = torch.zeros(len(clips), max(len(clip) for clip in clips))
    for row, clip in zip(rows, clips, strict=True):
        row[: len(clip)] = clip
    return rows, torch.tensor([len(clip) for clip in clips])


def transcribe(path: Path, utterances: list[speech.Utterance], title: str) -> list[list[int]]:
    """Token ids of every utterance, one by one."""
    model: Model = torchscript.load(path)
    found = []
    with torch.inference_mode():
        for utterance in bar(utterances, title=title, unit="clip"):
            samples = torch.from_numpy(utterance.samples())
            ids, counts = model(samples[None], torch.tensor([len(samples)]))
            found.append(ids[0, : int(counts[0])].tolist())
    return found


def score(
    spec: Spec,
    options: CompressOptions | None,
    utterances: list[speech.Utterance],
    tokens: list[list[int]],
    texts: list[str],
    reference: list[str],
) -> dict[str, Any]:
    """What the report says of one version, size and latency aside.

    Args:
        spec: of the checkpoint.
        options: how the version encodes; None for the original.
        utterances: what it heard.
        tokens, texts: what it said.
        reference: what the original said; agreement is with it.
    """
    measured = word_errors.measure([u.text for u in utterances], texts)
    same = [
        word_errors.normalise(a) == word_errors.normalise(b)
        for a, b in zip(texts, reference, strict=True)
    ]
    heard = [cost.positions(spec, len(u.samples()), options) for u in utterances]
    macs = [cost.macs(spec, n, len(row), options) for n, row in zip(heard, tokens, strict=True)]
    return {
        "wer": measured.rate,
        "samples": measured.utterances,
        "ci95": list(measured.ci95),
        "parameters": cost.parameters(spec),
        "macs": round(statistics.mean(macs)),
        "agreement": sum(same) / len(same),
        "agreement_samples": len(same),
    }


def check_parity(path: Path, clips: list[Tensor], batch_sizes: tuple[int, ...] = (1, 3, 8)) -> None:
    """Reload a file in a fresh process: it must give the same tokens as here, batched or not.

    Raises:
        ParityError: it does not load, or answers otherwise.
    """
    pieces = [batch(clips[:size]) for size in batch_sizes if size <= len(clips)]
    model: Model = torchscript.load(path)
    with torch.inference_mode():
        expected = [model(*piece) for piece in pieces]
    answers = torchscript.answers_afresh(path, pieces, ENGINE)
    for (ids, counts), (wanted, lengths), piece in zip(answers, expected, pieces, strict=True):
        if not torch.equal(counts, lengths) or not torch.equal(ids, wanted):
            raise ParityError(
                f"{path.name} gives other tokens in a fresh process at batch {len(piece[1])}"
            )


def latency(
    versions: dict[str, Path], clips: list[Tensor], rounds: int = 3
) -> dict[str, dict[str, dict[str, float]]]:
    """Milliseconds a call of each version, by turns, on one and two threads, batch 1 and 8."""
    models: dict[str, Model] = {name: torchscript.load(path) for name, path in versions.items()}
    found: dict[str, dict[str, dict[str, float]]] = {name: {} for name in models}
    kept = torch.get_num_threads()
    try:
        for threads, size in ((1, 1), (2, 1), (1, 8), (2, 8)):
            torch.set_num_threads(threads)
            pieces = [batch(clips[i : i + size]) for i in range(0, len(clips), size)]
            times: dict[str, list[float]] = {name: [] for name in models}
            with torch.inference_mode():
                for number in range(rounds + 1):
                    for piece in pieces:
                        for name, model in models.items():
                            start = time.perf_counter()
                            model(*piece)
                            if number:  # the first round warms up
                                times[name].append(time.perf_counter() - start)
            for name, values in times.items():
                found[name][f"batch{size}_threads{threads}"] = percentiles(values)
    finally:
        torch.set_num_threads(kept)
    return found
