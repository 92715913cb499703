"""Checks that every exported file must pass: parity on real inputs, then the metric.

Exporters can succeed and still write a wrong file. Only the file's own answers show that, for
batch sizes and padding other than the traced ones.
"""

from typing import Any

import torch
from torch import Tensor

from optimize.errors import ExportRefused
from optimize.evaluation import timer
from optimize.evaluation.metrics import Metric
from optimize.export.formats.interface import Limits
from optimize.export.runner import Runner
from optimize.export.subject import Exportable, Inputs, Subject

ROUNDS = 7


def worst_row(answers: Tensor, reference: Tensor, usual: float) -> float:
    """The largest norm of a row's difference, over `usual`; infinite if an answer is not finite.

    Taking the largest shows a single wrong row of a batch. Rounding is as large in an answer near
    zero (a text between two classes) as in any other, so the norm is not relative to the row's.

    Args:
        answers, reference: `[rows, ...]`.
        usual: see `usual_norm`.
    """
    if not torch.isfinite(answers).all():
        return float("inf")
    rows = _rows(answers.double() - reference.double()).norm(dim=1)
    return float(rows.max() / max(usual, 1e-12))


def usual_norm(answers: list[Tensor]) -> float:
    """Root mean square of the norms of all rows."""
    rows = torch.cat([_rows(answer.double()).norm(dim=1) for answer in answers])
    return float(rows.square().mean().sqrt())


def _rows(answers: Tensor) -> Tensor:
    """`[rows, ...]` as `[rows, numbers]`; a row may be one number."""
    return answers.reshape(len(answers), -1)


def parity(subject: Subject, run: Any, limits: Limits) -> dict[str, float]:
    """Compare a file's answers with the module's on all real inputs.

    Args:
        subject: its `module` is the reference.
        run: the file, from tensors to tensors.
        limits: largest accepted differences.

    Returns:
        The largest error for every combination of sizes: `{"batch 3": 1e-6, ...}`.

    Raises:
        ExportRefused: it does not run, or its answers differ; names the sizes.
    """
    errors: dict[str, float] = {}
    references = [subject.comparable(subject(*piece)) for piece in subject.pieces]
    usual = [usual_norm(list(answers)) for answers in zip(*references, strict=True)]
    for piece, reference in zip(subject.pieces, references, strict=True):
        title = describe(subject, piece)
        try:
            answers = run(*piece)
        except ExportRefused as refused:
            raise ExportRefused(f"at {title}: {refused}") from refused
        if len(answers) != len(reference):
            raise ExportRefused(f"{len(answers)} outputs, the module has {len(reference)}")
        answers = subject.comparable(answers)
        for name, a, b, norm in zip(subject.outputs, answers, reference, usual, strict=True):
            if a.shape != b.shape:
                raise ExportRefused(
                    f"at {title}: {name} has shape {list(a.shape)}, the module's {list(b.shape)}"
                )
            error = worst_row(a, b, norm)
            if not error <= limits.error:
                raise ExportRefused(
                    f"at {title}: {name} differs from the module by {error:.2g}, at most "
                    f"{limits.error:.2g} is accepted"
                )
            errors[title] = max(errors.get(title, 0.0), error)
    return errors


def describe(subject: Subject, piece: Inputs) -> str:
    """Sizes of a piece as printed: `batch 3, tokens 64`."""
    return ", ".join(f"{axis} {size}" for axis, size in subject.sizes(piece).items()) or "one size"


def quantized(run: Runner, limits: Limits) -> int:
    """The number of quantized operators or weights in the file.

    Raises:
        ExportRefused: there are none, but `limits` ask for some.
    """
    count = run.operators().get("quantized", 0)
    if limits.quantized and not count:
        raise ExportRefused("the file holds nothing quantized: its int8 was dropped silently")
    return count


def quality(
    measured: dict[str, Any], reference: dict[str, Any], metric: Metric, limits: Limits
) -> None:
    """Compare the file's metric and agreement with the module's.

    Raises:
        ExportRefused: it lost more than `limits` allow.
    """
    name = metric.name
    limit = limits.drop + metric.tolerance(measured["samples"])
    if metric.lost(reference[name], measured[name]) > limit:
        raise ExportRefused(
            f"{name} {measured[name]:.4f}, the module's is {reference[name]:.4f}: at most "
            f"{limits.drop:.3f} may be lost"
        )
    if measured["agreement"] < limits.agreement:
        raise ExportRefused(
            f"agrees with the module on {measured['agreement']:.3f} of "
            f"{measured['agreement_samples']} samples; {limits.agreement:.3f} is asked"
        )


def latency_ratios(
    exportable: Exportable, files: dict[str, Runner], others: dict[str, dict[str, Runner]]
) -> dict[str, dict[str, float]]:
    """Median time of the files over that of each other contestant, interleaved, on one thread.

    Args:
        exportable: for its real inputs.
        files: a runner per subject.
        others: the other contestants by name, each a runner per subject.

    Returns:
        `{"eager": {"batch 1": 0.4, ...}, ...}`, below 1 if the files are faster; times of several
        subjects are summed.
    """
    pieces = {subject.name: _timed(subject) for subject in exportable}
    titles = {title for by_title in pieces.values() for title in by_title}
    contestants = {"": files, **others}
    ratios: dict[str, dict[str, float]] = {name: {} for name in others}
    for title in sorted(titles):
        totals = dict.fromkeys(contestants, 0.0)
        for subject in exportable:
            piece = pieces[subject.name].get(title, subject.pieces[0])
            turns = {name: runs[subject.name].time(*piece) for name, runs in contestants.items()}
            for name, values in timer.by_turns(turns, ROUNDS).items():
                totals[name] += timer.percentiles(values)["p50"]
        for name in others:
            ratios[name][title] = round(totals[""] / totals[name], 3)
    return ratios


def _timed(subject: Subject) -> dict[str, Inputs]:
    """The first pieces with batches of 1 and 8 by title; the first piece if there are none."""
    timed = [p for p in subject.pieces if subject.sizes(p).get("batch", 1) in (1, 8)]
    by_title: dict[str, Inputs] = {}
    for piece in timed or subject.pieces[:1]:
        by_title.setdefault(f"batch {subject.sizes(piece).get('batch', 1)}", piece)
    return by_title
