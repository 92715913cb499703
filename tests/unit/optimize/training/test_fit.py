import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from optimize.data.dataset import Dataset
from optimize.errors import DataError, ModelError
from optimize.evaluation import accuracy
from optimize.models.architectures import convnet
from optimize.training.checkpoints import Progress
from optimize.training.distillation import (
    DistillOptions,
    distill,
    distillation_loss,
    teacher_logits,
)
from optimize.training.fit import Batches, TrainOptions, cross_entropy, fit, mirror
from optimize.training.trainer import History


def fresh() -> nn.Module:
    torch.manual_seed(1)
    return convnet.build(10, widths=(32, 64), strides=(2, 2))


def test_training_learns(trained: nn.Module, dataset: Dataset) -> None:
    assert dataset.validation is not None
    assert accuracy.evaluate(trained, dataset.validation).value > 0.7


def test_the_same_seed_gives_the_same_weights(dataset: Dataset) -> None:
    assert dataset.train is not None
    options = TrainOptions(epochs=0.5, batch_size=64, learning_rate=0.05)
    first = fit(fresh(), dataset.train, options, seed=5).state_dict()
    second = fit(fresh(), dataset.train, options, seed=5).state_dict()
    other = fit(fresh(), dataset.train, options, seed=6).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_the_moving_average_is_kept(dataset: Dataset) -> None:
    assert dataset.train is not None
    options = TrainOptions(epochs=0.5, batch_size=64, learning_rate=0.05)
    last = fit(fresh(), dataset.train, options, seed=5).state_dict()
    averaged = TrainOptions(epochs=0.5, batch_size=64, learning_rate=0.05, average=0.9)
    kept = fit(fresh(), dataset.train, averaged, seed=5).state_dict()
    assert any(not torch.equal(last[name], kept[name]) for name in last)
    assert all(torch.isfinite(value.float()).all() for value in kept.values())


def test_batches_visit_everything_once_a_pass() -> None:
    stream = Batches(12, 5)
    first = torch.cat([next(stream), next(stream)])
    assert len(set(first.tolist())) == 10
    assert len(next(Batches(3, 128))) == 3


def test_mirror_flips_the_chosen_only() -> None:
    images = torch.arange(8, dtype=torch.uint8).reshape(2, 1, 2, 2)
    flipped = mirror(images, torch.tensor([False, True]))
    assert torch.equal(flipped[0], images[0])
    assert flipped[1].flatten().tolist() == [5, 4, 7, 6]


def test_teacher_logits_cover_both_views(trained: nn.Module, dataset: Dataset) -> None:
    split = dataset.test
    views = teacher_logits(trained, split, flip=True)
    assert views.shape == (2, len(split), 10)
    assert torch.allclose(views[1], accuracy.predict(trained, split.inputs.flip(3)))
    assert teacher_logits(trained, split, flip=False).shape == (1, len(split), 10)


def test_the_loss_is_hintons() -> None:
    options = DistillOptions(temperature=2.0, alpha=0.75)
    teacher = torch.tensor([[[1.0, 3.0]], [[3.0, 1.0]]])
    loss = distillation_loss(teacher, options)
    student, index, targets = torch.tensor([[0.5, 0.0]]), torch.tensor([0]), torch.tensor([1])
    value = loss(student, index, torch.tensor([True]), targets)
    soft, log_q = torch.softmax(teacher[1] / 2, 1), torch.log_softmax(student / 2, 1)
    kl = (soft * (soft.log() - log_q)).sum() * 4
    hard = -torch.log_softmax(student, 1)[0, 1]
    assert value.item() == pytest.approx((0.75 * kl + 0.25 * hard).item(), rel=1e-5)


@pytest.mark.slow
def test_a_student_comes_to_agree_with_its_teacher(trained: nn.Module, dataset: Dataset) -> None:
    assert dataset.train is not None
    student = fresh()
    reference = accuracy.predict(trained, dataset.test.inputs)
    before = accuracy.agreement(accuracy.predict(student, dataset.test.inputs), reference)
    options = DistillOptions(epochs=4, batch_size=32, learning_rate=0.05)
    teacher = copy.deepcopy(trained)
    distill(student, teacher, dataset.train, options)
    after = accuracy.agreement(accuracy.predict(student, dataset.test.inputs), reference)
    assert after > max(0.6, before + 0.3)
    changed = [
        not torch.equal(a, b)
        for a, b in zip(teacher.parameters(), trained.parameters(), strict=True)
    ]
    assert not any(changed)


def test_logits_of_other_data_are_refused(dataset: Dataset) -> None:
    assert dataset.train is not None
    with pytest.raises(ValueError, match="teacher logits"):
        distill(fresh(), torch.zeros(1, 7, 10), dataset.train)


@pytest.mark.parametrize("wrong", [{"epochs": 0}, {"batch_size": 0}, {"average": 1.0}])
def test_options_that_cannot_work_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        TrainOptions(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("average", [0.0, 0.9])
def test_interrupted_training_ends_as_uninterrupted(
    dataset: Dataset, tmp_path: Path, average: float
) -> None:
    assert dataset.train is not None
    options = TrainOptions(0.8, batch_size=64, learning_rate=0.05, average=average)
    whole = History()
    wanted = fit(fresh(), dataset.train, options, seed=5, history=whole).state_dict()
    progress = Progress(tmp_path / "fit.pt", "a digest", seconds=0.0)
    plain, calls = cross_entropy(options.label_smoothing), 0

    def interrupt(*given: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 12:
            raise KeyboardInterrupt
        return plain(*given)

    with pytest.raises(KeyboardInterrupt):
        fit(fresh(), dataset.train, options, interrupt, seed=5, progress=progress)
    calls, halves = 100, History()
    torch.manual_seed(77)  # a new process has another generator
    found = fit(
        fresh(), dataset.train, options, interrupt, seed=5, progress=progress, history=halves
    )
    assert calls == 100 + round(0.8 * len(dataset.train) / 64) - 11
    assert all(torch.equal(wanted[name], value) for name, value in found.state_dict().items())
    assert halves == whole


def test_a_checkpoint_of_other_work_or_a_damaged_one_is_not_used(
    dataset: Dataset, tmp_path: Path
) -> None:
    assert dataset.train is not None
    options = TrainOptions(0.2, batch_size=64, learning_rate=0.05)
    progress = Progress(tmp_path / "fit.pt", "one", seconds=0.0)
    fit(fresh(), dataset.train, options, progress=progress)
    assert progress.load() is not None
    assert Progress(tmp_path / "fit.pt", "another").load() is None
    (tmp_path / "fit.pt").write_bytes((tmp_path / "fit.pt").read_bytes()[:1000])
    assert progress.load() is None


def test_early_stopping_keeps_the_best_epoch(dataset: Dataset) -> None:
    assert dataset.train is not None and dataset.validation is not None
    options = TrainOptions(30, batch_size=32, learning_rate=0.3, patience=1)
    history = History()
    model = fit(
        fresh(), dataset.train[:600], options, validation=dataset.validation, history=history
    )
    assert history.stopped is not None and history.stopped < 30
    assert [epoch for epoch, _ in history.validation] == list(range(1, history.stopped + 1))
    best = max(accuracy for _, accuracy in history.validation)
    assert accuracy.evaluate(model, dataset.validation).value == pytest.approx(best)
    assert history.validation[-1][1] <= best


def test_early_stopping_needs_something_to_decide_by(dataset: Dataset) -> None:
    assert dataset.train is not None
    with pytest.raises(DataError, match="patience: 0"):
        fit(fresh(), dataset.train, TrainOptions(patience=1))


def test_a_training_that_diverges_says_so(dataset: Dataset) -> None:
    assert dataset.train is not None
    with pytest.raises(ModelError, match=r"training diverged: .*learning_rate \(now 1e\+20\)"):
        fit(fresh(), dataset.train, TrainOptions(1, learning_rate=1e20))


def test_other_answers_while_training_are_refused(dataset: Dataset) -> None:
    class Auxiliary(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = fresh()

        def forward(self, x: torch.Tensor) -> object:
            logits = self.body(x)
            return (logits, logits) if self.training else logits

    assert dataset.train is not None
    with pytest.raises(ModelError, match=r"training mode the model returns tuple.*auxiliary heads"):
        fit(Auxiliary(), dataset.train, TrainOptions(1))


def test_frozen_statistics_stay(dataset: Dataset) -> None:
    assert dataset.train is not None
    model = fresh()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    fit(model, dataset.train[:200], TrainOptions(1, batch_size=50), freeze_norm=True)
    after = model.state_dict()
    assert all(torch.equal(after[k], v) for k, v in before.items() if "running" in k)
    assert not torch.equal(after["body.0.weight"], before["body.0.weight"])
