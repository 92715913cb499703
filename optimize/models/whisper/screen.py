"""Fits the projection of an SVD-softmax output head (Shim et al. 2017).

SVD-softmax ranks all tokens by low-rank logits and computes exact logits only for the best. The
table E is approximated as E P Qᵀ, with the least error in the logits of typical hidden states: a
singular value decomposition of E C^½, where C is the second moment of the decoder's hidden states
on the development recordings. Without this weighting the same recall needs four times the rank.
"""

import torch
from torch import Tensor

from optimize.models.whisper.transcriber import Transcriber

RANK = 128
RIDGE = 0.01


def hidden_states(model: Transcriber, clips: list[Tensor]) -> Tensor:
    """Decoder states `[tokens, width]` while an eager float32 `model` transcribes `clips`.

    Args:
        model: eager, in float32.
        clips: float32 `[n]`, 16 kHz. A quiet or noisy copy of each is transcribed too.
    """
    states: list[Tensor] = []
    hook = model.vocabulary.register_forward_pre_hook(
        lambda _m, args: states.append(args[0].clone())
    )
    generator = torch.Generator().manual_seed(0)
    try:
        with torch.inference_mode():
            for number, clip in enumerate(clips):
                noise = torch.randn(len(clip), generator=generator)
                other = clip * 0.1 + noise * 0.001 if number % 2 else clip + noise * 0.02
                for samples in (clip, other):
                    model(samples[None], torch.tensor([len(clip)]))
    finally:
        hook.remove()
    return torch.cat(states)


def fit(table: Tensor, hidden: Tensor, rank: int = RANK) -> tuple[Tensor, Tensor]:
    """Bases for `SvdSoftmaxVocabulary`.

    Args:
        table: `[tokens, width]`.
        hidden: `[n, width]`, n well above the rank.
        rank: columns to keep.

    Returns:
        `hidden_basis` and `basis`, both float32 `[width, rank]`.
    """
    moment = (hidden.T @ hidden).double() / len(hidden)
    moment += RIDGE * moment.diagonal().mean() * torch.eye(len(moment), dtype=torch.double)
    root = torch.linalg.cholesky(moment)
    # Right singular vectors of E C^½ are the eigenvectors of (E C^½)ᵀ (E C^½).
    weighted = table.double() @ root
    _, vectors = torch.linalg.eigh(weighted.T @ weighted)
    leading = vectors[:, -rank:]
    hidden_basis = torch.linalg.solve_triangular(root.T, leading, upper=True)
    return hidden_basis.float().contiguous(), (root @ leading).float().contiguous()
