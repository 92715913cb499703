"""The optimizers that recipes can name."""

import torch
from torch import nn

from optimize.training.trainer import TrainerOptions


def build(model: nn.Module, options: TrainerOptions) -> torch.optim.Optimizer:
    """The optimizer over a model's trained parameters, at the schedule's peak.

    SGD with Nesterov's momentum (Sutskever et al. 2013), or AdamW (Loshchilov and Hutter 2019).
    """
    groups = decay_groups(model, options.weight_decay)
    if options.optimizer == "adamw":
        first, second = options.betas
        return torch.optim.AdamW(
            groups, lr=options.learning_rate, betas=(first, second), eps=options.eps, fused=True
        )
    momentum = 0.9 if options.momentum is None else options.momentum
    return torch.optim.SGD(
        groups,
        lr=options.learning_rate,
        momentum=momentum,
        nesterov=options.nesterov and momentum > 0,
    )


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Parameter groups: weight decay for matrices and kernels, none for biases and norms."""
    trained = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
