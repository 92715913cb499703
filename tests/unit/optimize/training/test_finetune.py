"""Fine-tuning takes what all training takes: resuming, patience, average, precision, processes."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optimize.errors import DataError
from optimize.training import finetune
from optimize.training.checkpoints import Progress
from optimize.training.finetune import FineTuneOptions, fit
from optimize.training.trainer import History
from tests.unit.optimize.training import texts
from tests.unit.optimize.training.texts import fresh, toy

OPTIONS = FineTuneOptions(2.5, learning_rate=2e-3, batch_texts=16)


def equal(one: nn.Module, other: nn.Module) -> bool:
    weights = other.state_dict()
    return all(torch.equal(value, weights[name]) for name, value in one.state_dict().items())


@pytest.mark.parametrize(("average", "patience"), [(0.0, 0), (0.9, 0), (0.9, 5)])
def test_interrupted_training_ends_as_uninterrupted(
    tmp_path: Path, average: float, patience: int
) -> None:
    options = FineTuneOptions(
        2.5, learning_rate=2e-3, batch_texts=16, average=average, patience=patience
    )
    validation = toy(80, seed=1)
    whole, halves = History(), History()
    reference = fit(fresh(), toy(), options, seed=5, validation=validation, history=whole)
    progress = Progress(tmp_path / "fit.pt", "a digest", seconds=0.0)

    def interrupt(step: int, steps: int, model: nn.Module) -> None:
        if step == 25:  # in the second pass, before its checkpoint
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(
            fresh(), toy(), options, seed=5,
            validation=validation, progress=progress, watch=interrupt,
        )  # fmt: skip
    torch.manual_seed(77)  # a new process has another generator
    steps: list[int] = []
    resumed = fit(
        fresh(), toy(), options, seed=5, validation=validation, progress=progress,
        history=halves, watch=lambda step, *_: steps.append(step),
    )  # fmt: skip
    assert steps == list(range(25, 39))
    assert equal(reference, resumed)
    assert halves == whole
    assert [epoch for epoch, _ in whole.validation] == ([1, 2, 3] if patience else [])


def test_early_stopping_keeps_the_best_epoch() -> None:
    options = FineTuneOptions(40, learning_rate=2e-2, batch_texts=16, patience=2)
    validation, history = toy(80, seed=1), History()
    model = fit(fresh(), toy(64), options, validation=validation, history=history)
    assert history.stopped is not None and history.stopped < 40
    assert [epoch for epoch, _ in history.validation] == list(range(1, history.stopped + 1))
    best = max(accuracy for _, accuracy in history.validation)
    with torch.inference_mode():
        right = model(validation.windows).argmax(1) == validation.targets
    assert float(right.float().mean()) == pytest.approx(best)
    assert history.validation[-1][1] <= best


def test_early_stopping_needs_something_to_decide_by() -> None:
    with pytest.raises(DataError, match="patience: 0"):
        fit(fresh(), toy(40), FineTuneOptions(patience=1))


def test_the_moving_average_is_kept() -> None:
    """It lags behind: nearer to the start than the last weights are."""
    averaged = FineTuneOptions(1, learning_rate=2e-3, batch_texts=16, average=0.95)
    last = fit(fresh(), toy(), FineTuneOptions(1, learning_rate=2e-3, batch_texts=16))
    mean = fit(fresh(), toy(), averaged)
    start = fresh().head.weight
    assert 0 < (mean.head.weight - start).norm() < (last.head.weight - start).norm()  # type: ignore[union-attr,operator]


@pytest.mark.parametrize(
    ("precision", "dtype"), [("bf16", torch.bfloat16), ("fp32", torch.float32)]
)
def test_precision_is_what_was_asked_for(precision: Any, dtype: torch.dtype) -> None:
    seen: list[torch.dtype] = []

    def loss(model: nn.Module, ids: Tensor, position: Tensor, targets: Tensor) -> Tensor:
        logits = model(ids)
        seen.append(logits.dtype)
        return finetune.against_labels(logits.float(), targets)

    fit(fresh(), toy(32), FineTuneOptions(1, precision=precision), loss)
    assert set(seen) == {dtype}


@pytest.mark.parametrize("wrong", [{"epochs": 0}, {"average": 1.0}, {"warmup": 1.0}])
def test_options_that_cannot_work_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        FineTuneOptions(**wrong)  # type: ignore[arg-type]


def test_two_processes_train_and_distil_as_one(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run"]
    ran = subprocess.run(
        [*command, "--nproc-per-node", "2", "-m", texts.__name__, str(tmp_path / "two.pt")],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    two, one = torch.load(tmp_path / "two.pt", weights_only=True), texts.run()
    for ours, theirs in zip(one["losses"], two["losses"], strict=True):
        assert len(ours) == 8 and ours == pytest.approx(theirs, rel=1e-3)
    for before, after in zip(one["weights"], two["weights"], strict=True):
        for name, value in before.items():
            assert (after[name] - value).norm() <= 1e-2 * value.norm() + 1e-3, name
