"""Small models and data of a user's own, that a first recipe is written for."""

import csv
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from tests.unit.optimize.models.sources.test_bert import hugging_face

NET = """\
import torch
from torch import nn


class Brightness(nn.Module):
    \"\"\"float32 [N, 3, H, W] in 0..1 to logits of three levels, the nearest one's largest.\"\"\"

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3)
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        return self.head(self.conv(x).mean((2, 3)))


def helper():
    return 1
"""
TABLE_NET = """\
import torch
from torch import nn


def build(shapes):
    width = shapes["features"][0]
    return nn.Sequential(nn.Linear(width, 16), nn.ReLU(), nn.Linear(16, 1), nn.Flatten(0))
"""
LEVELS = {"bright": 0.8, "dark": 0.2, "medium": 0.5}


def pictures(folder: Path, each: int = 20, side: int = 16) -> Path:
    """Grey levels by class, as colour pictures with noise."""
    random = np.random.default_rng(0)
    for label, level in LEVELS.items():
        (folder / label).mkdir(parents=True)
        for number in range(each):
            noisy = 255 * level + random.normal(0, 12, (side, side, 3))
            image = Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
            image.save(folder / label / f"{number}.png")
    return folder


def network(folder: Path) -> tuple[Path, Path]:
    """`net.py`, and weights that are right: 2 c m - c^2 is -(m - c)^2 but for m^2."""
    folder.mkdir(exist_ok=True)
    (folder / "net.py").write_text(NET)
    state = {
        "conv.weight": torch.full((16, 3, 3, 3), 1 / 27),
        "conv.bias": torch.zeros(16),
        "head.weight": torch.tensor([[2 * c / 16] * 16 for c in LEVELS.values()]),
        "head.bias": torch.tensor([-c * c for c in LEVELS.values()]),
    }
    torch.save({"epoch": 3, "model": state}, folder / "net.pt")
    return folder / "net.py", folder / "net.pt"


def table(path: Path, rows: int = 200) -> Path:
    """Numbers of four columns, and `price`, a sum of them."""
    random = np.random.default_rng(0)
    values = random.normal(size=(rows, 4))
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["width", "depth", "age", "weight", "price"])
        for row in values:
            writer.writerow([*(f"{v:.4f}" for v in row), f"{row.sum():.4f}"])
    return path


def reviews(path: Path, each: int = 30) -> Path:
    """Texts of two labels, no two alike."""
    good = [f"a good film number {n} and a fine one, seen {n + 3} times" for n in range(each)]
    bad = [f"poor picture {n * 7}, dull from minute {n} on and too long" for n in range(each)]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["review", "sentiment"])
        writer.writerows([(text, "pos") for text in good] + [(text, "neg") for text in bad])
    return path


def bert(folder: Path) -> Path:
    """A Hugging Face folder of a small BERT, random weights and no head, with a tokenizer."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    words = "a good film number and fine one seen times poor picture dull from minute on too long"
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words.split(), ",", *"0123456789"]
    tokens += [f"##{digit}" for digit in "0123456789"]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    made = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    folder.mkdir()
    made.save(str(folder / "tokenizer.json"))
    return hugging_face(folder)
