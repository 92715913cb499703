"""Models and data of a user, as recipes of the tests name them: each learns in a second."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def _noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def table() -> tuple[Tensor, Tensor]:
    """Eight numbers to a weighted sum of two of them and a product."""
    x = _noise(600, 8)
    return x, x[:, 0] * 2 - x[:, 1] + 0.5 * x[:, 2] * x[:, 3]


def build_mlp(shapes: dict[str, tuple[int, ...]]) -> nn.Module:
    width = shapes["input"][0]
    return nn.Sequential(
        nn.Linear(width, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1)
    )


def series() -> dict[str, dict[str, Tensor]]:
    """Twelve steps of three numbers; the class is the sign of the sum of the first."""
    x = _noise(400, 12, 3)
    label = (x[:, :, 0].sum(1) > 0).long()
    return {
        "train": {"series": x[:300], "trend": label[:300]},
        "test": {"series": x[300:], "trend": label[300:]},
    }


class Recurrent(nn.Module):
    """A GRU over any number of steps, then two logits."""

    def __init__(self) -> None:
        super().__init__()
        self.gru, self.head = nn.GRU(3, 24, batch_first=True), nn.Linear(24, 2)

    def forward(self, series: Tensor) -> Tensor:
        states, _ = self.gru(series)
        logits: Tensor = self.head(states.mean(1))
        return logits


def spots() -> tuple[Tensor, Tensor]:
    """uint8 pictures with a bright spot, and where it is, 0..1 across and down."""
    generator = torch.Generator().manual_seed(0)
    place = torch.randint(2, 14, (500, 2), generator=generator)
    pictures = torch.randint(0, 40, (500, 1, 16, 16), generator=generator, dtype=torch.uint8)
    for picture, (x, y) in zip(pictures, place.tolist(), strict=True):
        picture[0, y - 1 : y + 2, x - 1 : x + 2] = 255
    return pictures, place.float() / 16


class Spotter(nn.Module):
    """uint8 `[N, 1, 16, 16]` to two numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 16, 3, 2, 1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, 2, 1),
            nn.ReLU(),
            nn.Flatten(),
        )
        self.head = nn.Linear(512, 2)

    def forward(self, pixels: Tensor) -> Tensor:
        place: Tensor = self.head(self.body(pixels.float() / 255))
        return place


def masks() -> tuple[Tensor, Tensor]:
    """Noisy pictures `[N, 1, 16, 16]` and the mask of their bright square."""
    generator = torch.Generator().manual_seed(0)
    mask = torch.zeros(160, 16, 16, dtype=torch.int64)
    corners = torch.randint(0, 9, (160, 2), generator=generator).tolist()
    for rows, (x, y) in zip(mask, corners, strict=True):
        rows[y : y + 7, x : x + 7] = 1
    return mask[:, None].float() + 0.3 * _noise(160, 1, 16, 16), mask


class UNet(nn.Module):
    """One level down and up again, joined (Ronneberger et al. 2015)."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 16, 3, padding=1)
        self.down = nn.Conv2d(16, 32, 3, 2, 1)
        self.up = nn.ConvTranspose2d(32, 16, 2, 2)
        self.joined = nn.Conv2d(32, 16, 3, padding=1)
        self.head = nn.Conv2d(16, 2, 1)

    def forward(self, image: Tensor) -> Tensor:
        first = F.relu(self.first(image))
        up = F.relu(self.up(F.relu(self.down(first))))
        logits: Tensor = self.head(F.relu(self.joined(torch.cat([first, up], 1))))
        return logits


def pairs() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Two inputs of different dtypes; labels of any number."""
    values, kind = _noise(600, 6), torch.arange(600) % 4
    labels = torch.stack([values[:, 0] > 0, values[:, 1] + (kind == 2) > 0.5, kind > 1], 1)
    return {"values": values, "kind": kind}, {"labels": labels.float()}


class TwoInputs(nn.Module):
    """Numbers and a kind to three logits."""

    def __init__(self) -> None:
        super().__init__()
        self.kinds, self.hidden = nn.Embedding(4, 8), nn.Linear(14, 64)
        self.head = nn.Linear(64, 3)

    def forward(self, values: Tensor, kind: Tensor) -> Tensor:
        x = torch.cat([values, self.kinds(kind)], 1)
        logits: Tensor = self.head(F.relu(self.hidden(x)))
        return logits


class Named(nn.Module):
    """A mapping of tensors to a mapping and a tuple of tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.mean, self.spread = nn.Linear(8, 48), nn.Linear(48, 1), nn.Linear(48, 1)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, object]:
        x = F.relu(self.hidden(torch.cat([batch["left"], batch["right"]], 1)))
        mean, spread = self.mean(x).squeeze(1), F.softplus(self.spread(x)).squeeze(1)
        return {
            "mean": mean,
            "details": {"spread": spread, "bounds": (mean - spread, mean + spread)},
        }


def halves() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The table in two halves, and its sum under the name of an output."""
    x, y = table()
    return {"left": x[:, :4], "right": x[:, 4:]}, {"mean": y}


def largest_error(answers: Tensor, targets: Tensor) -> Tensor:
    """A metric of a user: 0 is best."""
    return (answers.squeeze(1) - targets).abs()
