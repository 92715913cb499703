import copy

import pytest
import torch
from torch import nn

from optimize import evaluate
from optimize.data import Dataset
from optimize.distill import DistillOptions, distill, distillation_loss, teacher_logits
from optimize.models import convnet
from optimize.train import TrainOptions, batches, fit, mirror


def fresh() -> nn.Module:
    torch.manual_seed(1)
    return convnet.build(10, widths=(32, 64), strides=(2, 2))


def test_training_learns(trained: nn.Module, dataset: Dataset) -> None:
    assert dataset.validation is not None
    assert evaluate.evaluate(trained, dataset.validation).value > 0.7


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
    stream = batches(12, 5)
    first = torch.cat([next(stream), next(stream)])
    assert len(set(first.tolist())) == 10
    assert len(next(batches(3, 128))) == 3


def test_mirror_flips_the_chosen_only() -> None:
    images = torch.arange(8, dtype=torch.uint8).reshape(2, 1, 2, 2)
    flipped = mirror(images, torch.tensor([False, True]))
    assert torch.equal(flipped[0], images[0])
    assert flipped[1].flatten().tolist() == [5, 4, 7, 6]


def test_teacher_logits_cover_both_views(trained: nn.Module, dataset: Dataset) -> None:
    split = dataset.test
    views = teacher_logits(trained, split, flip=True)
    assert views.shape == (2, len(split), 10)
    assert torch.allclose(views[1], evaluate.predict(trained, split.inputs.flip(3)))
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


def test_a_student_comes_to_agree_with_its_teacher(trained: nn.Module, dataset: Dataset) -> None:
    assert dataset.train is not None
    student = fresh()
    reference = evaluate.predict(trained, dataset.test.inputs)
    before = evaluate.agreement(evaluate.predict(student, dataset.test.inputs), reference)
    options = DistillOptions(epochs=4, batch_size=32, learning_rate=0.05)
    teacher = copy.deepcopy(trained)
    distill(student, teacher, dataset.train, options)
    after = evaluate.agreement(evaluate.predict(student, dataset.test.inputs), reference)
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
