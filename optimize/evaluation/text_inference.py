"""Logits of texts in windows, batched by length."""

import torch
from torch import Tensor, nn

from handlers.windows import pool
from optimize.data.corpus import TextSplit, lengths
from optimize.utils.bars import bar


def window_logits(
    model: nn.Module,
    windows: Tensor,
    *,
    batch_tokens: int = 4096,
    title: str = "evaluating",
) -> Tensor:
    """Logits float32 `[M, classes]` of windows `[M, L]`, batched with others of similar length."""
    sizes = lengths(windows)
    device = next(model.parameters(), windows).device
    order = sizes.argsort(stable=True)
    logits: list[Tensor] = []
    start = 0
    with (
        torch.inference_mode(),
        bar(total=len(order), title=title, unit="window") as shown,
    ):
        while start < len(order):
            stop = start + 1
            while (
                stop < len(order) and int(sizes[order[stop]]) * (stop + 1 - start) <= batch_tokens
            ):
                stop += 1
            chosen = order[start:stop]
            ids = windows[chosen, : int(sizes[chosen[-1]])].to(device)
            logits.append(model(ids).float().cpu())
            shown.update(len(chosen))
            start = stop
    by_length = torch.cat(logits)
    return torch.empty_like(by_length).index_copy_(0, order, by_length).clone()


def predict(model: nn.Module, split: TextSplit, title: str = "evaluating") -> Tensor:
    """Logits float32 `[N, classes]` of whole texts: the mean of their windows' logits."""
    model.eval()
    return pool(window_logits(model, split.windows, title=title), split.owner, len(split))
