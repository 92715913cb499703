"""Transfer from a teacher transformer to a shallower student.

The student starts as the teacher with fewer layers (DistilBERT, Sanh et al. 2019), and learns
the teacher's logits, the hidden states of the layers it was cut from (TinyBERT, Jiao et al.
2020) and what its last layer attends to (MiniLMv2, Wang et al. 2021). The teacher is asked once,
before training.
"""

import copy
import math
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from optimize.data.corpus import TextSplit, lengths
from optimize.models.architectures.bert import PADDING, BertClassifier, BertEncoder
from optimize.training import distributed
from optimize.training.finetune import FineTuneOptions, StepLoss, against_labels, draw
from optimize.training.trainer import autocast
from optimize.utils.bars import bar

E = TypeVar("E", bound=BertEncoder)


@dataclass(frozen=True, kw_only=True)
class TransferOptions(FineTuneOptions):
    """How to distil.

    Attributes:
        temperature: softens both distributions; the KL term is scaled by its square.
        alpha: weight of the teacher's logits; 1 - alpha is the weight of the labels.
        hidden: weight of the squared difference of the hidden states, 0 for none.
        attention: weight of the KL of the last layer's self-attention relations, 0 for none.
            Student and teacher may have different numbers of heads.
    """

    temperature: float = 2.0
    alpha: float = 0.8
    hidden: float = 1.0
    attention: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.temperature > 0 or not 0 <= self.alpha <= 1:
            raise ValueError("temperature must be above 0 and alpha a share")
        if self.hidden < 0 or self.attention < 0:
            raise ValueError("hidden and attention must not be negative")


@dataclass(frozen=True)
class TeacherView:
    """What the teacher says of one window of every training text.

    Attributes:
        split: those windows, one a text.
        logits: float32 `[N, classes]`.
        states: for each layer the student learns from, bfloat16 `[tokens, width]`: the real
            tokens of all windows one after another.
        starts: int64 `[N + 1]`, where each window's tokens begin in `states`.
        packed: bfloat16 `[tokens, 3 width]`, the last layer's queries, keys and values; None if
            nobody learns them.
    """

    split: TextSplit
    logits: Tensor
    states: list[Tensor]
    starts: Tensor
    packed: Tensor | None = None


def spread(layers: int, of: int) -> list[int]:
    """`layers` positions out of `of`, evenly spaced, the last one among them.

    >>> spread(3, 6)
    [1, 3, 5]
    """
    if not 1 <= layers <= of:
        raise ValueError(f"a student of {layers} layers cannot be cut from {of}")
    return [round((i + 1) * of / layers) - 1 for i in range(layers)]


def cut(teacher: E, keep: list[int]) -> E:
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
    attention: bool = False,
    batch_tokens: int = 8192,
    title: str = "teacher",
) -> TeacherView:
    """The teacher's logits and the outputs of its `layers` for a split of one window a text;
    with `attention`, its last layer's queries, keys and values. Processes share the batches."""
    sizes = lengths(split.windows)
    starts = torch.cat([torch.zeros(1, dtype=torch.int64), sizes.cumsum(0)])
    total = int(starts[-1])
    width = teacher.head.in_features
    states = [torch.zeros(total, width, dtype=torch.bfloat16) for _ in layers]
    logits = torch.zeros(len(split), teacher.head.out_features)
    packed = torch.zeros(total, 3 * width, dtype=torch.bfloat16) if attention else None
    device = distributed.device()
    teacher.eval().to(device)
    batches = _by_length(sizes, batch_tokens)
    with (
        torch.inference_mode(),
        autocast(device=device),
        bar(batches[distributed.rank() :: distributed.world()], title=title, unit="batch") as shown,
    ):
        for chosen in shown:
            ids = split.windows[chosen, : int(sizes[chosen[-1]])].to(device)
            hidden = teacher.hidden_states(ids)
            logits[chosen] = teacher.head(teacher.pool(hidden[-1], ids)).float().cpu()
            answers = [
                (rows, hidden[layer + 1]) for rows, layer in zip(states, layers, strict=True)
            ]
            if packed is not None:
                answers.append((packed, _packed(teacher, hidden)))
            for rows, answer in answers:
                values = answer.to("cpu", torch.bfloat16)
                for row, position in enumerate(chosen.tolist()):
                    start, size = int(starts[position]), int(sizes[position])
                    rows[start : start + size] = values[row, :size]
    teacher.to("cpu")
    distributed.merge([logits, *states, *([packed] if packed is not None else [])])
    return TeacherView(split, logits, states, starts, packed)


def _by_length(sizes: Tensor, batch_tokens: int) -> list[Tensor]:
    """Positions of windows in batches of like length and about so many tokens, shortest first."""
    order = sizes.argsort(stable=True)
    batches = []
    start = 0
    while start < len(order):
        longest = int(sizes[order[min(start + 63, len(order) - 1)]])
        batches.append(order[start : start + max(1, batch_tokens // longest)])
        start += len(batches[-1])
    return batches


def transfer_loss(view: TeacherView, options: TransferOptions) -> StepLoss:
    """KL to the teacher's logits, squared difference of the hidden states, KL of the last layer's
    self-attention relations, and the labels.

    The student's last layers learn the states in `view`, one each, in order.
    """

    def loss(model: nn.Module, ids: Tensor, position: Tensor, targets: Tensor) -> Tensor:
        assert isinstance(model, BertClassifier)
        states = model.hidden_states(ids)
        logits = model.head(model.dropout(model.pool(states[-1], ids))).float()
        teacher = view.logits[position].to(ids.device)
        soft = teacher_term(logits, teacher, targets, options.temperature)
        hard = against_labels(logits, targets, options.label_smoothing)
        value = options.alpha * soft + (1 - options.alpha) * hard
        real = ids != PADDING
        # Means over tokens, where processes hold as many texts and not as many tokens.
        tokens = distributed.weight(int(real.sum())) / distributed.weight(len(ids))
        spans = [(int(view.starts[p]), int(view.starts[p + 1])) for p in position.tolist()]

        def of_batch(rows: Tensor) -> Tensor:
            return torch.cat([rows[start:stop] for start, stop in spans]).to(ids.device)

        if options.hidden and view.states:
            for ours, theirs in zip(states[-len(view.states) :], view.states, strict=True):
                apart = F.mse_loss(ours[real].float(), of_batch(theirs).float())
                value = value + tokens * options.hidden * apart
        if options.attention and view.packed is not None:
            packed = _packed(model, states).float()
            theirs = packed.new_zeros(*ids.shape, view.packed.shape[1])
            theirs[real] = of_batch(view.packed).float()
            heads = math.gcd(packed.shape[2] // 3, theirs.shape[2] // 3, _attention(model).heads)
            apart = relation_loss(packed, theirs, real, heads)
            value = value + tokens * options.attention * apart
        return value

    return loss


def relation_loss(ours: Tensor, theirs: Tensor, real: Tensor, heads: int) -> Tensor:
    """KL of self-attention relations: how queries see queries, keys keys and values values.

    Widths may differ: each is split into as many relation heads.

    Args:
        ours, theirs: float32 `[N, L, 3 width]`, queries, keys and values.
        real: bool `[N, L]`, which tokens are not padding.
        heads: relation heads; divides both widths.
    """

    def relations(packed: Tensor) -> Tensor:
        parts = packed.view(*real.shape, 3, heads, -1).permute(2, 0, 3, 1, 4)
        scores = parts @ parts.transpose(-1, -2) * parts.shape[-1] ** -0.5
        least = torch.finfo(scores.dtype).min
        found: Tensor = scores.masked_fill(~real[:, None, None], least).log_softmax(-1)
        return found

    apart = F.kl_div(relations(ours), relations(theirs), reduction="none", log_target=True)
    rows = apart.sum(-1).permute(1, 3, 0, 2)[real]  # [real tokens, 3, heads]
    value: Tensor = rows.mean()
    return value


def _packed(model: BertClassifier, states: list[Tensor]) -> Tensor:
    """The last layer's queries, keys and values `[N, L, 3 width]`, from all hidden states."""
    found: Tensor = _attention(model).qkv(states[-2])
    return found


def _attention(model: BertClassifier) -> Any:
    return model.layers[-1].attention


def teacher_term(logits: Tensor, teacher: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Temperature-scaled KL; in multi-label data the cross entropy of every label."""
    if targets.is_floating_point():
        return F.binary_cross_entropy_with_logits(logits, teacher.sigmoid())
    soft = F.softmax(teacher / temperature, dim=1)
    student = F.log_softmax(logits / temperature, dim=1)
    return F.kl_div(student, soft, reduction="batchmean") * temperature**2
