"""Knowledge distillation into a smaller student (Hinton, Vinyals and Dean 2015)."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from optimize.data.dataset import Split
from optimize.evaluation.accuracy import predict
from optimize.training import distributed
from optimize.training.checkpoints import Progress
from optimize.training.fit import Loss, TrainOptions, fit
from optimize.training.trainer import History


@dataclass(frozen=True, kw_only=True)
class DistillOptions(TrainOptions):
    """How to distil.

    Attributes:
        temperature: softens both distributions; the KL term is scaled by its square.
        alpha: weight of the teacher's term; 1 - alpha is the weight of the labels.
    """

    temperature: float = 4.0
    alpha: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.temperature > 0 or not 0 <= self.alpha <= 1:
            raise ValueError("temperature must be above 0 and alpha between 0 and 1")


class _Mirrored(nn.Module):
    """What `teacher` says of mirrored images: these may be too many to mirror all of them."""

    def __init__(self, teacher: nn.Module) -> None:
        super().__init__()
        self.teacher = teacher

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.teacher(images.flip(3))
        return logits


def teacher_logits(teacher: nn.Module, split: Split, flip: bool) -> Tensor:
    """What the teacher says of every training image, computed once.

    Returns:
        float32 `[1 or 2, N, classes]`: as they are and, if `flip`, mirrored. The student then
        sees exactly the view the teacher judged (Beyer et al. 2022: consistent teaching).
    """

    def judge(images: Tensor) -> Tensor:
        return predict(teacher, images, title="teacher")

    def judge_mirrored(images: Tensor) -> Tensor:
        return predict(_Mirrored(teacher), images, title="teacher, mirrored")

    views = [judge, judge_mirrored] if flip else [judge]
    return torch.stack([distributed.gathered(view, split.inputs) for view in views])


def distillation_loss(teacher: Tensor, options: DistillOptions) -> Loss:
    """Temperature-scaled KL to the teacher's logits `[views, N, classes]`, and the labels."""

    def loss(logits: Tensor, index: Tensor, mirrored: Tensor, targets: Tensor) -> Tensor:
        view = mirrored.long() if len(teacher) > 1 else torch.zeros_like(index)
        soft = F.softmax(teacher[view, index].to(logits.device) / options.temperature, dim=1)
        student = F.log_softmax(logits / options.temperature, dim=1)
        kl = F.kl_div(student, soft, reduction="batchmean") * options.temperature**2
        hard = F.cross_entropy(logits, targets)
        return options.alpha * kl + (1 - options.alpha) * hard

    return loss


def distill(
    student: nn.Module,
    teacher: nn.Module | Tensor,
    split: Split,
    options: DistillOptions | None = None,
    *,
    seed: int = 0,
    title: str = "distilling",
    validation: Split | None = None,
    progress: Progress | None = None,
    history: History | None = None,
    freeze_norm: bool = False,
    say: Callable[[str], None] | None = None,
) -> nn.Module:
    """Train `student` in place to answer as `teacher` does; returns it in eval mode.

    Args:
        student: takes uint8 `[N, C, H, W]`, returns logits `[N, classes]`.
        teacher: such a module, or the logits `teacher_logits` gave for `split`.
        split: the training images and labels.
        options: see `DistillOptions`.
        seed: of shuffling and augmentation.
        title: shown on the progress bar.
        validation, progress, history, freeze_norm, say: as `optimize.training.fit.fit` takes them.

    Raises:
        DataError: `patience` without a validation split.
        ValueError: the teacher's logits are not for this split.
    """
    options = options or DistillOptions()
    if isinstance(teacher, nn.Module):
        teacher = teacher_logits(teacher, split, options.flip)
    if teacher.ndim != 3 or teacher.shape[1] != len(split):
        raise ValueError(f"teacher logits {tuple(teacher.shape)} for {len(split)} images")
    return fit(
        student,
        split,
        options,
        distillation_loss(teacher, options),
        seed=seed,
        title=title,
        validation=validation,
        progress=progress,
        history=history,
        freeze_norm=freeze_norm,
        say=say,
    )
