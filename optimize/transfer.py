"""Transfer from a teacher transformer to a shallower student.

The student starts as the teacher with fewer layers (DistilBERT, Sanh et al. 2019), and learns
the teacher's logits and the hidden states of the layers it was cut from (TinyBERT, Jiao et al.
2020). The teacher is asked once, before training.
"""

import copy
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from optimize.models.bert import PADDING, BertClassifier
from optimize.text.corpus import TextSplit, lengths
from optimize.text.training import FineTuneOptions, StepLoss, against_labels, draw
from optimize.train import autocast


@dataclass(frozen=True)
class TransferOptions(FineTuneOptions):
    """How to distil.

    Attributes:
        temperature: softens both distributions; the KL term is scaled by its square.
        alpha: weight of the teacher's logits; 1 - alpha is the weight of the labels.
        hidden: weight of the squared difference of the hidden states, 0 for none.
    """

    temperature: float = 2.0
    alpha: float = 0.8
    hidden: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.temperature > 0 or not 0 <= self.alpha <= 1 or self.hidden < 0:
            raise ValueError("temperature must be above 0, alpha a share, hidden not negative")


@dataclass(frozen=True)
class TeacherView:
    """What the teacher says of one window of every training text.

    Attributes:
        split: those windows, one a text.
        logits: float32 `[N, classes]`.
        states: for each layer the student learns from, bfloat16 `[tokens, width]`: the real
            tokens of all windows one after another.
        starts: int64 `[N + 1]`, where each window's tokens begin in `states`.
    """

    split: TextSplit
    logits: Tensor
    states: list[Tensor]
    starts: Tensor


def spread(layers: int, of: int) -> list[int]:
    """`layers` positions out of `of`, evenly spaced, the last one among them.

    >>> spread(3, 6)
    [1, 3, 5]
    """
    if not 1 <= layers <= of:
        raise ValueError(f"a student of {layers} layers cannot be cut from {of}")
    return [round((i + 1) * of / layers) - 1 for i in range(layers)]


def cut(teacher: BertClassifier, keep: list[int]) -> BertClassifier:
    """A copy of the teacher with the layers `keep` alone."""
    student = copy.deepcopy(teacher)
    student.layers = nn.ModuleList(student.layers[i] for i in keep)
    return student


def one_window_each(split: TextSplit, seed: int) -> TextSplit:
    """The split with a single window of every text, drawn at random."""
    chosen = torch.tensor(draw(split, False, np.random.default_rng(seed))).sort().values
    windows = split.windows[chosen]
    return TextSplit(
        windows,
        split.targets,
        windows=windows,
        owner=torch.arange(len(split)),
        sources=split.sources,
    )


def ask(
    teacher: BertClassifier,
    split: TextSplit,
    layers: list[int],
    *,
    batch_tokens: int = 8192,
    title: str = "teacher",
) -> TeacherView:
    """The teacher's logits and the outputs of its `layers` for a split of one window a text."""
    sizes = lengths(split.windows)
    starts = torch.cat([torch.zeros(1, dtype=torch.int64), sizes.cumsum(0)])
    total = int(starts[-1])
    width = teacher.head.in_features
    states = [torch.empty(total, width, dtype=torch.bfloat16) for _ in layers]
    logits = torch.empty(len(split), teacher.head.out_features)
    order = sizes.argsort(stable=True)
    teacher.eval()
    start = 0
    with (
        torch.inference_mode(),
        autocast(),
        tqdm(total=len(order), desc=title, unit="text", leave=False, ncols=78) as bar,
    ):
        while start < len(order):
            longest = int(sizes[order[min(start + 63, len(order) - 1)]])
            chosen = order[start : start + max(1, batch_tokens // longest)]
            ids = split.windows[chosen, : int(sizes[chosen[-1]])]
            found = teacher.hidden_states(ids)
            logits[chosen] = teacher.head(teacher.pool(found[-1], ids)).float()
            for kept, layer in zip(states, layers, strict=True):
                hidden = found[layer + 1].to(torch.bfloat16)
                for row, position in enumerate(chosen.tolist()):
                    size = int(sizes[position])
                    kept[int(starts[position]) : int(starts[position]) + size] = hidden[row, :size]
            bar.update(len(chosen))
            start += len(chosen)
    return TeacherView(split, logits.clone(), states, starts)


def transfer_loss(view: TeacherView, options: TransferOptions) -> StepLoss:
    """KL to the teacher's logits, squared difference of the hidden states, and the labels.

    The student's last layers learn the states in `view`, one each, in order.
    """

    def loss(model: nn.Module, ids: Tensor, position: Tensor, targets: Tensor) -> Tensor:
        assert isinstance(model, BertClassifier)
        found = model.hidden_states(ids)
        logits = model.head(model.dropout(model.pool(found[-1], ids))).float()
        soft = teacher_term(logits, view.logits[position], targets, options.temperature)
        hard = against_labels(logits, targets, options.label_smoothing)
        value = options.alpha * soft + (1 - options.alpha) * hard
        if options.hidden and view.states:
            real = ids != PADDING
            spans = [(int(view.starts[p]), int(view.starts[p + 1])) for p in position.tolist()]
            for ours, theirs in zip(found[-len(view.states) :], view.states, strict=True):
                wanted = torch.cat([theirs[a:b] for a, b in spans]).float()
                value = value + options.hidden * F.mse_loss(ours[real].float(), wanted)
        return value

    return loss


def teacher_term(logits: Tensor, teacher: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Temperature-scaled KL; in multi-label data the cross entropy of every label."""
    if targets.is_floating_point():
        return F.binary_cross_entropy_with_logits(logits, teacher.sigmoid())
    soft = F.softmax(teacher / temperature, dim=1)
    student = F.log_softmax(logits / temperature, dim=1)
    return F.kl_div(student, soft, reduction="batchmean") * temperature**2
