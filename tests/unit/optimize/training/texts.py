"""Small text training that tests run in one process and in two.

`torchrun ... -m tests.unit.optimize.training.texts FILE` trains and distils, and saves to FILE.
"""

import sys
from pathlib import Path
from typing import Any

import torch

from optimize.data.corpus import TextSplit
from optimize.models.architectures.bert import BertClassifier, BertShape
from optimize.training import distributed, transfer
from optimize.training.finetune import FineTuneOptions, fit
from optimize.training.trainer import History

SHAPE = BertShape(300, 32, 4, 4, 64, max_position_embeddings=32)


def toy(texts: int = 240, seed: int = 0) -> TextSplit:
    """Texts of 8 or 12 tokens whose label is whether token 5 occurs: learnable in seconds."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(10, 300, (texts, 12), generator=generator, dtype=torch.int32)
    targets = torch.arange(texts) % 2
    place = torch.randint(0, 6, (texts,), generator=generator)
    ids[torch.arange(texts), place] = torch.where(targets == 1, 5, 6).int()
    ids[::3, 8:] = 0
    return TextSplit(ids, targets, windows=ids, owner=torch.arange(texts), sources=("a",) * texts)


def fresh(dropout: float = 0.1) -> BertClassifier:
    torch.manual_seed(0)
    return BertClassifier(SHAPE, 2, dropout)


def run() -> dict[str, Any]:
    """Train, with a last batch of one text, and distil: weights and losses of both.

    Without dropout, whose masks differ between processes.
    """
    torch.set_num_threads(1)
    options = FineTuneOptions(1, learning_rate=2e-3, batch_texts=17, precision="fp32", average=0.5)
    histories = [History(), History()]
    split = toy(120)
    teacher = fit(fresh(0.0), split, options, history=histories[0])
    learn = transfer.TransferOptions(
        1, learning_rate=1e-3, batch_texts=17, precision="fp32", attention=0.5
    )
    view = transfer.ask(teacher, split, [1, 3], attention=True)  # type: ignore[arg-type]
    student = transfer.cut(teacher, [1, 3])  # type: ignore[arg-type]
    loss = transfer.transfer_loss(view, learn)
    fit(student, view.split, learn, loss, history=histories[1])
    return {
        "weights": [teacher.state_dict(), student.state_dict()],
        "losses": [[value for _, value in history.loss] for history in histories],
    }


if __name__ == "__main__":
    with distributed.joined():
        result = run()
        if distributed.leads():
            torch.save(result, Path(sys.argv[1]))
