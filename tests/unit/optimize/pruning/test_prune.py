import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from optimize.data.dataset import Dataset
from optimize.errors import ModelError, OptionError
from optimize.evaluation import accuracy
from optimize.evaluation.cost import macs, parameters
from optimize.models.architectures import convnet, resnet
from optimize.models.normalized import Normalized
from optimize.pruning.dead import remove_dead
from optimize.pruning.prune import PruneOptions, prune, widths
from optimize.pruning.sensitivity import accuracy_on, pruning_table
from optimize.pruning.weights import zeros, zeros_held
from optimize.training.fit import TrainOptions, fit
from optimize.utils import torchscript

EXAMPLE = torch.zeros(1, 1, 28, 28, dtype=torch.uint8)


@pytest.mark.parametrize("importance", ["magnitude", "bn_scale"])
@pytest.mark.parametrize("scope", ["layer", "global"])
def test_tensors_really_shrink(importance: str, scope: str) -> None:
    torch.manual_seed(0)
    model = convnet.build(10, widths=(32, 64, 64), strides=(2, 2, 2))
    for module in model.modules():  # untrained gains are all alike
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.1, 1.0)
    options = PruneOptions(0.5, importance, scope, round_to=16)  # type: ignore[arg-type]
    pruned = prune(model, EXAMPLE, options)
    before, after = widths(model), widths(pruned)
    assert all(after[name] <= before[name] for name in before)
    assert all(after[name] % 16 == 0 for name in list(after)[:-1])
    assert parameters(pruned) < parameters(model)
    assert macs(pruned, EXAMPLE) < macs(model, EXAMPLE)
    assert list(after.values())[-1] == 10
    assert pruned(EXAMPLE.repeat(3, 1, 1, 1)).shape == (3, 10)


def test_half_of_every_layer_goes() -> None:
    model = convnet.build(10, widths=(32, 64), strides=(2, 2))
    assert list(widths(prune(model, EXAMPLE, PruneOptions(0.5))).values()) == [16, 32, 10]


def test_shortcuts_keep_fitting() -> None:
    model = resnet.build(10, width=32, blocks=1)
    pruned = prune(model, EXAMPLE, PruneOptions(0.5, round_to=8))
    assert pruned(EXAMPLE).shape == (1, 10)
    assert parameters(pruned) < 0.5 * parameters(model)


def test_the_given_model_is_left_alone(trained: nn.Module, dataset: Dataset) -> None:
    before = copy.deepcopy(trained.state_dict())
    prune(trained, dataset.test.inputs[:1], PruneOptions(0.5))
    assert all(torch.equal(before[name], value) for name, value in trained.state_dict().items())


def test_the_least_important_channels_go() -> None:
    model = convnet.build(10, widths=(32, 32), strides=(2, 2))
    first = next(m for m in model.modules() if isinstance(m, nn.Conv2d))
    with torch.no_grad():
        first.weight[::2] = 0.0
    pruned = prune(model, EXAMPLE, PruneOptions(0.5))
    kept = next(m for m in pruned.modules() if isinstance(m, nn.Conv2d))
    assert torch.equal(kept.weight, first.weight[1::2])


def test_a_ratio_that_removes_nothing_is_refused() -> None:
    model = convnet.build(10, widths=(16, 16), strides=(2, 2))
    with pytest.raises(ModelError, match="removes no channel"):
        prune(model, EXAMPLE, PruneOptions(0.2, round_to=16))


def test_a_model_that_cannot_be_traced_is_refused() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 8, 3)
            self.head = nn.Linear(8, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            pooled = self.conv(x.float()).mean((2, 3))
            return self.head(pooled.reshape(-1, 8))  # its own width, written into the code

    with pytest.raises(ModelError):
        prune(Fixed(), EXAMPLE, PruneOptions(0.5, round_to=1))


def answers(model: nn.Module, dataset: Dataset) -> torch.Tensor:
    return accuracy.predict(model, dataset.test.inputs)


def kill(model: nn.Module) -> nn.Module:
    """A third of the second convolution writes nothing, some of the first is never read."""
    model = copy.deepcopy(model)
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    with torch.no_grad():
        convolutions[1].weight[:10] = 0.0
        norms[1].running_mean[:10] = 0.0  # what training leaves behind a zero convolution
        norms[1].bias[:10] = -norms[1].bias[:10].abs()
        convolutions[1].weight[:, 20:] = 0.0
        norms[2].weight[:5] = 0.0
        norms[2].bias[:5] = 0.0
    return model


def test_dead_channels_go_and_no_answer_changes(trained: nn.Module, dataset: Dataset) -> None:
    dying = kill(trained)
    pruned, removed = remove_dead(dying, EXAMPLE)
    assert list(removed.values()) == [12, 10, 5]
    assert list(widths(pruned).values()) == [20, 22, 59, 10]
    assert torch.allclose(answers(pruned, dataset), answers(dying, dataset), atol=1e-4)
    same, none = remove_dead(trained, EXAMPLE)
    assert none == {} and widths(same) == widths(trained)


def test_dead_channels_go_first_and_count_towards_the_ratio(
    trained: nn.Module, dataset: Dataset
) -> None:
    dying = kill(trained)
    only = prune(dying, EXAMPLE, PruneOptions(0.0, round_to=1))
    assert list(widths(only).values()) == [20, 22, 59, 10]
    assert torch.allclose(answers(only, dataset), answers(dying, dataset), atol=1e-4)
    rounded = prune(dying, EXAMPLE, PruneOptions(0.0, round_to=8))
    assert list(widths(rounded).values()) == [24, 24, 64, 10]
    half = prune(dying, EXAMPLE, PruneOptions(0.5, round_to=1))
    assert list(widths(half).values()) == [16, 16, 32, 10]


def test_what_a_zero_becomes_something_of_is_not_dead(dataset: Dataset) -> None:
    """A sigmoid makes one half of a zero: removing that channel would change the answer."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(784, 6), nn.Sigmoid(), nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 10)
    )

    class Pixels(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = model

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.body(x.float() / 255)

    with torch.no_grad():
        for layer in (model[1], model[3]):
            layer.weight[:2] = 0.0
            layer.bias[:2] = 0.0
    pruned, removed = remove_dead(Pixels(), EXAMPLE)
    assert removed == {"body.3": 2}
    assert list(widths(pruned).values()) == [6, 2, 10]


def test_taylor_follows_the_data(trained: nn.Module, dataset: Dataset) -> None:
    assert dataset.train is not None
    options = PruneOptions(0.5, "taylor", round_to=1, samples=256)
    kept = {}
    for name, pieces in (("all", dataset.train), ("one", dataset.train[:1])):
        pruned = prune(trained, EXAMPLE, options, split=pieces)
        assert list(widths(pruned).values()) == [16, 16, 32, 10]
        kept[name] = next(m for m in pruned.modules() if isinstance(m, nn.Conv2d)).weight
    magnitude = prune(trained, EXAMPLE, PruneOptions(0.5, round_to=1))
    kept["none"] = next(m for m in magnitude.modules() if isinstance(m, nn.Conv2d)).weight
    assert not torch.equal(kept["all"], kept["one"])
    assert not torch.equal(kept["all"], kept["none"])


def test_steps_with_recovery_reach_the_ratio(trained: nn.Module, dataset: Dataset) -> None:
    assert dataset.train is not None
    seen = []

    def recover(model: nn.Module, step: int) -> None:
        seen.append((step, next(iter(widths(model).values()))))
        fit(model, dataset.train, TrainOptions(0.5, batch_size=64, learning_rate=0.02))

    options = PruneOptions(0.5, "magnitude", round_to=1, iterations=2)
    pruned = prune(trained, EXAMPLE, options, recover=recover)
    assert seen == [(0, 24), (1, 16)]
    assert list(widths(pruned).values()) == [16, 16, 32, 10]
    once = prune(trained, EXAMPLE, PruneOptions(0.5, round_to=1))
    scores = [accuracy.evaluate(m, dataset.test).value for m in (pruned, once)]
    assert scores[0] > scores[1] + 0.05


def test_kept_layers_keep_their_width(trained: nn.Module) -> None:
    pruned = prune(trained, EXAMPLE, PruneOptions(0.5, keep=["body.3"]))
    assert list(widths(pruned).values()) == [16, 32, 32, 10]


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (PruneOptions(keep=["body.99"]), "body.99"),
        (PruneOptions(structure="weights", keep=["body.99"]), "body.99"),
        (PruneOptions(importance="bn_scale"), "batch normalisation"),
        (PruneOptions(importance="taylor"), "training data"),
    ],
)
@pytest.mark.filterwarnings("ignore:structure. weights")
def test_options_that_do_not_fit_are_refused(options: PruneOptions, word: str) -> None:
    plain = Normalized(
        nn.Sequential(nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32 * 676, 10)), 0, 1
    )
    with pytest.raises(OptionError, match=word) as caught:
        prune(plain, EXAMPLE, options)
    assert caught.value.exit_code == 2


def test_single_weights_shrink_the_compressed_file_and_are_said_to_buy_no_speed(
    trained: nn.Module, dataset: Dataset, tmp_path: Path
) -> None:
    assert dataset.train is not None
    with pytest.warns(UserWarning, match="no faster"):
        pruned = prune(trained, EXAMPLE, PruneOptions(0.7, structure="weights", scope="global"))
    shares = zeros(pruned)
    total = sum(share * widths_total for share, widths_total in _sizes(shares, pruned))
    assert total == pytest.approx(0.7, abs=0.01)
    with zeros_held(pruned):
        fit(pruned, dataset.train, TrainOptions(0.5, batch_size=64, learning_rate=0.02))
    assert zeros(pruned) == shares
    assert widths(pruned) == widths(trained)
    sizes = [
        torchscript.save(torchscript.script(model, EXAMPLE), tmp_path / "model.pt")
        for model in (trained, pruned)
    ]
    assert sizes[1] < 0.6 * sizes[0]
    before, after = (accuracy.evaluate(m, dataset.test).value for m in (trained, pruned))
    assert after > before - 0.05


def _sizes(shares: dict[str, float], model: nn.Module) -> list[tuple[float, float]]:
    modules = dict(model.named_modules())
    counts = {name: modules[name].weight.numel() for name in shares}
    return [(shares[n], counts[n] / sum(counts.values())) for n in shares]


def test_the_sensitivity_table_says_what_each_layer_costs_alone(
    trained: nn.Module, dataset: Dataset
) -> None:
    assert dataset.validation is not None
    accuracy = accuracy_on(dataset.validation, 300)
    rows = pruning_table(trained, EXAMPLE, [0.25, 0.75], accuracy)
    found = {(row["layer"], row["ratio"]): row["drop"] for row in rows}
    assert len(found) == 6 and {row["channels"] for row in rows} == {32, 64}
    alone = copy.deepcopy(trained)
    keep = [name for name in list(widths(alone))[:-1] if name != "body.0"]
    options = PruneOptions(0.75, round_to=1, keep=keep)
    by_hand = accuracy(trained) - accuracy(prune(alone, EXAMPLE, options))
    assert found["body.0", 0.75] == pytest.approx(by_hand)
    assert max(found.values()) == rows[0]["drop"] or rows[1]["drop"] == max(found.values())
    assert sum(found[k] for k in found if k[1] == 0.75) > sum(
        found[k] for k in found if k[1] == 0.25
    )


def test_the_package_offers_the_functions_and_not_their_modules() -> None:
    import optimize
    from optimize import DistillOptions, PruneOptions, QuantizeOptions, distill, prune, quantize

    assert {distill.__name__, prune.__name__, quantize.__name__} == {"distill", "prune", "quantize"}
    assert all(callable(f) for f in (distill, prune, quantize))
    assert all(isinstance(o, type) for o in (DistillOptions, PruneOptions, QuantizeOptions))
    with pytest.raises(AttributeError, match="no attribute 'shrink'"):
        _ = optimize.shrink
