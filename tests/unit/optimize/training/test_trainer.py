"""What all training shares, whatever is trained."""

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from optimize.pruning.vocabulary import SharedEmbedding
from optimize.training.finetune import FineTuneOptions
from optimize.training.fit import TrainOptions
from optimize.training.trainer import Trainer, TrainerOptions, autocast
from optimize.training.transfer import TransferOptions


@pytest.mark.parametrize("kind", [TrainOptions, FineTuneOptions, TransferOptions])
def test_images_and_texts_take_the_same_options(kind: type[TrainerOptions]) -> None:
    shared = {field.name: field.type for field in dataclasses.fields(TrainerOptions)}
    own = {field.name: field.type for field in dataclasses.fields(kind)}
    assert shared.items() <= own.items()
    for name in ("average", "patience", "precision", "checkpoint_seconds"):
        assert getattr(kind(), name) == getattr(TrainerOptions(), name)


@pytest.mark.parametrize("kind", [TrainOptions, FineTuneOptions, TransferOptions])
def test_only_epochs_go_without_a_name(kind: type[TrainerOptions]) -> None:
    assert kind(7).epochs == 7
    with pytest.raises(TypeError, match="positional"):
        kind(7, 64)  # type: ignore[misc]


def test_precision_is_what_was_asked_for() -> None:
    layer, x = nn.Linear(8, 8), torch.ones(2, 8)
    with autocast("bf16"):
        assert layer(x).dtype == torch.bfloat16
    with autocast("fp32"):
        assert layer(x).dtype == torch.float32


class _Rows:
    """Three batches of one row."""

    steps, epoch_steps = 3, 1

    def draw(self) -> tuple[Tensor, ...]:
        return (torch.tensor([1]),)

    def epoch(self, step: int) -> int:
        return step

    def ends_epoch(self, step: int) -> bool:
        return True

    def state(self) -> dict[str, object]:
        return {}

    def restore(self, state: dict[str, object]) -> None:
        raise AssertionError("nothing is restored here")


def test_tables_of_positions_are_not_averaged() -> None:
    """A vocabulary's table is of whole numbers: 0.9 * 5 + 0.1 * 5 may be cut off to 4."""
    place = torch.arange(300)
    model = SharedEmbedding(place, torch.randn(300, 4))
    trained = [*model.parameters()]
    optimizer = torch.optim.SGD(trained, lr=1.0)
    schedule = torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)
    options = TrainerOptions(average=0.9)
    start = model.table.weight.detach().clone()
    trainer = Trainer(model, options, _Rows(), optimizer, schedule)
    trainer.train(lambda model, index: model(index[None]).sum())
    assert torch.equal(model.place.long(), place)
    # After one, two and three steps of -1 the average is -1, -1.1 and -1.29.
    assert torch.allclose(model.table.weight[1] - start[1], torch.tensor(-1.29), atol=1e-4)
