"""The checks no exported file ships without: parity on real inputs, then the metric.

Exporters exit 0 with a wrong file; only the answers of the file itself, for batch sizes and
padding other than the traced ones, tell.
"""

from typing import Any

import torch
from torch import Tensor

from optimize.errors import ExportRefused
from optimize.evaluation import timer
from optimize.evaluation.metrics import Metric
from optimize.export.formats.base import Limits
from optimize.export.runner import Runner
from optimize.export.subject import Exportable, Inputs, Subject

ROUNDS = 7


def worst_row(found: Tensor, wanted: Tensor, usual: float) -> float:
    """The largest norm of a row's difference, in units of `usual`; infinite if not finite.

    One wrong row of a batch does not hide among the others. Rounding is as large in an answer
    near zero (a text between two classes) as in any other, so a row is not measured by its own
    norm.

    Args:
        found, wanted: `[rows, ...]`.
        usual: see `usual_norm`.
    """
    if not torch.isfinite(found).all():
        return float("inf")
    rows = (found.double() - wanted.double()).flatten(1).norm(dim=1)
    return float(rows.max() / max(usual, 1e-12))


def usual_norm(answers: list[Tensor]) -> float:
    """Root mean square of the norms of all rows."""
    rows = torch.cat([answer.double().flatten(1).norm(dim=1) for answer in answers])
    return float(rows.square().mean().sqrt())


def parity(subject: Subject, run: Any, limits: Limits) -> dict[str, float]:
    """Compare a file's answers with the module's on every piece of real input.

    Args:
        subject: whose `module` is the truth.
        run: the file, torch in and out.
        limits: what it may differ by.

    Returns:
        The largest error for every combination of sizes: `{"batch 3": 1e-6, ...}`.

    Raises:
        ExportRefused: it does not run, or answers otherwise; says at which sizes.
    """
    errors: dict[str, float] = {}
    truth = [subject.meant(subject(*piece)) for piece in subject.pieces]
    usual = [usual_norm(list(answers)) for answers in zip(*truth, strict=True)]
    for piece, wanted in zip(subject.pieces, truth, strict=True):
        title = describe(subject, piece)
        try:
            answers = run(*piece)
        except ExportRefused as refused:
            raise ExportRefused(f"at {title}: {refused}") from refused
        if len(answers) != len(wanted):
            raise ExportRefused(f"{len(answers)} outputs, the module has {len(wanted)}")
        meant = subject.meant(answers)
        for name, a, b, norm in zip(subject.outputs, meant, wanted, usual, strict=True):
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
    """Sizes of a piece for people: `batch 3, tokens 64`."""
    return ", ".join(f"{axis} {size}" for axis, size in subject.sizes(piece).items()) or "one size"


def quantized(run: Runner, limits: Limits) -> int:
    """How many quantized operators or weights the file holds.

    Raises:
        ExportRefused: none, where there should be.
    """
    count = run.operators().get("quantized", 0)
    if limits.quantized and not count:
        raise ExportRefused("the file holds nothing quantized: its int8 was dropped silently")
    return count


def quality(found: dict[str, Any], wanted: dict[str, Any], metric: Metric, limits: Limits) -> None:
    """Compare the file's metric and agreement with the module's.

    Raises:
        ExportRefused: it lost more than `limits` allow.
    """
    name = metric.name
    if metric.lost(wanted[name], found[name]) > limits.drop + metric.tolerance(found["samples"]):
        raise ExportRefused(
            f"{name} {found[name]:.4f}, the module's is {wanted[name]:.4f}: at most "
            f"{limits.drop:.3f} may be lost"
        )
    if found["agreement"] < limits.agreement:
        raise ExportRefused(
            f"agrees with the module on {found['agreement']:.3f} of "
            f"{found['agreement_samples']} samples; {limits.agreement:.3f} is asked"
        )


def latency_ratios(
    exportable: Exportable, files: dict[str, Runner], others: dict[str, dict[str, Runner]]
) -> dict[str, dict[str, float]]:
    """Median time of the files over that of each other contestant, by turns, one thread.

    Args:
        exportable: for its real inputs.
        files: a runner per subject.
        others: by name, a runner per subject each.

    Returns:
        `{"eager": {"batch 1": 0.4, ...}, ...}`, below 1 where the files are faster; the times
        of several subjects are added up.
    """
    pieces = {subject.name: _timed(subject) for subject in exportable}
    titles = {title for found in pieces.values() for title in found}
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
    """Pieces of batch 1 and 8, or all there are of another kind."""
    wanted = [p for p in subject.pieces if subject.sizes(p).get("batch", 1) in (1, 8)]
    found: dict[str, Inputs] = {}
    for piece in wanted or subject.pieces[:1]:
        found.setdefault(f"batch {subject.sizes(piece).get('batch', 1)}", piece)
    return found
