"""Zero points between convolutions live in biases, exactly."""

import pytest
import torch
from torch import Tensor, nn

from optimize.lowering import Lowered, int8, lower_int8
from optimize.lowering.passes.zero_points import Offsets


class Inverted(nn.Module):
    """A linear bottleneck, added to its input: MobileNetV2's block."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.wide = nn.Conv2d(channels, 64, 1, bias=False)
        self.depthwise = nn.Conv2d(64, 64, 3, padding=1, groups=64)
        self.narrow = nn.Conv2d(64, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.depthwise(torch.relu(self.wide(x))))
        return x + self.narrow(y)


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first, self.second = nn.Conv2d(3, 16, 3, 2, 1), Inverted(16), Inverted(16)
        self.padded, self.head = nn.Conv2d(16, 32, 3, padding=1), nn.Conv2d(32, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.padded(self.second(self.first(self.stem(x)))))


def lowered(x: Tensor, hot_batch: int | None) -> Lowered:
    torch.manual_seed(0)
    return lower_int8(Network().eval(), [x], engine="onednn", hot_batch=hot_batch)


def zero_points(model: Lowered) -> dict[str, int]:
    named = {name: getattr(m, "zero_point", None) for name, m in model.body.named_modules()}
    return {name: int(zero) for name, zero in named.items() if zero is not None}


@pytest.mark.parametrize("hot_batch", [None, 4])
def test_offsets_change_no_answer(hot_batch: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1)) + 0.5
    folded = lowered(x, hot_batch)
    monkeypatch.setattr(int8, "fold_offsets", lambda plan, qparams: Offsets())
    plain = lowered(x, hot_batch)
    shifted = {n for n, zero in zero_points(plain).items() if zero != zero_points(folded)[n]}
    # The second block's sum is read with padding, so zero must stay where it is.
    assert shifted == {"stem", "first_narrow", "padded"}
    assert all(zero_points(folded)[name] == 0 for name in shifted)
    with torch.no_grad():
        same = (folded(x) - plain(x)).abs() < 1e-6
    assert same.float().mean() > 0.99  # a tie of rounding may fall the other way


def test_images_in_either_layout_give_the_same_answers() -> None:
    x = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    model = lowered(x, 4)
    with torch.no_grad():
        assert torch.equal(model(x), model(x.contiguous(memory_format=torch.channels_last)))
        assert torch.equal(model(x)[1:2], model(x[1:2]))
