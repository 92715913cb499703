"""The stand-in for torchvision.transforms against torchvision's own, and against known values."""

import numpy as np
import pytest
import torch
from PIL import Image

from deploy.compat import names, transforms


def picture(width: int, height: int, mode: str = "RGB") -> Image.Image:
    rng = np.random.default_rng(width * height)
    array = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(array).convert(mode)


@pytest.fixture(scope="module")
def torchvision():
    names._torchvision()
    return pytest.importorskip("torchvision.transforms")


@pytest.mark.parametrize("size", [(320, 200), (200, 321), (256, 256), (31, 517), (1, 9)])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_as_torchvision(torchvision, size: tuple[int, int], mode: str) -> None:
    channels = 3 if mode == "RGB" else 1

    def chain(source):
        return source.Compose(
            [
                source.Resize(64),
                source.CenterCrop((56, 48)),
                source.ToTensor(),
                source.Normalize([0.4] * channels, [0.2] * channels),
            ]
        )

    image = picture(*size, mode)
    assert torch.equal(chain(transforms)(image), chain(torchvision)(image))


@pytest.mark.parametrize("size", [50, (40, 90)])
def test_other_sizes_and_filters(torchvision, size) -> None:
    image = picture(120, 80)
    ours = transforms.Resize(size, transforms.InterpolationMode.BICUBIC)(image)
    theirs = torchvision.Resize(size, torchvision.InterpolationMode.BICUBIC)(image)
    assert ours.tobytes() == theirs.tobytes()
    padded = transforms.CenterCrop(100)(image), torchvision.CenterCrop(100)(image)
    assert padded[0].tobytes() == padded[1].tobytes()
    grey = transforms.Grayscale(3)(image), torchvision.Grayscale(3)(image)
    assert grey[0].tobytes() == grey[1].tobytes()


def test_known_values() -> None:
    image = Image.new("RGB", (2, 1), (255, 0, 51))
    tensor = transforms.ToTensor()(image)
    assert tensor.shape == (3, 1, 2)
    assert tensor[:, 0, 0].tolist() == pytest.approx([1.0, 0.0, 0.2])
    normal = transforms.Normalize((0.5, 0.5, 0.2), (0.5, 0.25, 0.1))(tensor)
    assert normal[:, 0, 1].tolist() == pytest.approx([1.0, -2.0, 0.0], abs=1e-6)


def test_what_needs_torchvision_says_so() -> None:
    with pytest.raises(TypeError, match="needs torchvision installed"):
        transforms.Resize(8)(torch.zeros(3, 4, 4))
    with pytest.raises(ValueError, match="needs torchvision installed"):
        transforms.Resize(8, max_size=9)
