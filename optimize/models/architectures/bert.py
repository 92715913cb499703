"""BERT-shaped text classifiers (Devlin et al. 2019) in plain modules that trace and prune.

Post-norm encoder as in Hugging Face's `BertModel`, a pooling, and one linear head. The padding
mask is computed from the ids, so the model takes one tensor and traces with free batch size and
length.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Pooling = Literal["mean", "cls", "pooler"]
"""How a text's tokens become one vector: the mean of those that are not padding, as in sentence
encoders; the first one; or the first one through a dense layer and tanh, as BERT's own
classifiers do."""

PADDING = 0


@dataclass(frozen=True)
class BertShape:
    """Sizes of an encoder, named as in Hugging Face's `config.json`."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int = 512
    layer_norm_eps: float = 1e-12


class Embeddings(nn.Module):
    """Word and position embeddings, normalised; segment 0's is added to the position embeddings."""

    def __init__(self, shape: BertShape) -> None:
        super().__init__()
        self.word = nn.Embedding(shape.vocab_size, shape.hidden_size, padding_idx=PADDING)
        self.position = nn.Embedding(shape.max_position_embeddings, shape.hidden_size)
        self.norm = nn.LayerNorm(shape.hidden_size, shape.layer_norm_eps)

    def forward(self, ids: Tensor) -> Tensor:
        positions = self.position.weight[: ids.shape[1]]
        embedded: Tensor = self.norm(self.word(ids) + positions)
        return embedded


class Attention(nn.Module):
    """Self-attention; one matrix for query, key and value, rows `[q heads, k heads, v heads]`."""

    def __init__(self, width: int, heads: int, head_size: int) -> None:
        super().__init__()
        self.heads = heads
        self.head_size = head_size
        self.qkv = nn.Linear(width, 3 * heads * head_size)
        self.out = nn.Linear(heads * head_size, width)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        batch, length = hidden.shape[:2]
        packed = self.qkv(hidden).view(batch, length, 3, self.heads, self.head_size)
        query, key, value = packed.permute(2, 0, 3, 1, 4).unbind(0)
        if self.training:  # the fused kernel's backward pass is five times slower on CPU
            scores = (query * self.head_size**-0.5) @ key.transpose(-1, -2)
            weights = scores.masked_fill(~mask, torch.finfo(scores.dtype).min).softmax(-1)
            mixed = weights.to(value.dtype) @ value
        else:
            mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        flat = mixed.transpose(1, 2).reshape(batch, length, self.heads * self.head_size)
        projected: Tensor = self.out(flat)
        return projected


class Layer(nn.Module):
    """Attention and feed-forward, each added to its input and normalised."""

    def __init__(self, shape: BertShape) -> None:
        super().__init__()
        width, heads = shape.hidden_size, shape.num_attention_heads
        self.attention = Attention(width, heads, width // heads)
        self.norm1 = nn.LayerNorm(width, shape.layer_norm_eps)
        self.fc1 = nn.Linear(width, shape.intermediate_size)
        self.fc2 = nn.Linear(shape.intermediate_size, width)
        self.norm2 = nn.LayerNorm(width, shape.layer_norm_eps)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        hidden = self.norm1(hidden + self.attention(hidden, mask))
        output: Tensor = self.norm2(hidden + self.fc2(F.gelu(self.fc1(hidden))))
        return output


class BertClassifier(nn.Module):
    """Token ids `[N, L]`, padded with 0, to float32 logits `[N, classes]`.

    Ids are int32 or int64, L is at most the number of positions, and every row needs a token that
    is not padding.
    """

    def __init__(
        self, shape: BertShape, classes: int, dropout: float = 0.1, pooling: Pooling = "mean"
    ) -> None:
        super().__init__()
        self.pooling = pooling
        self.embeddings = Embeddings(shape)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.num_hidden_layers))
        width = shape.hidden_size
        self.pooler = nn.Linear(width, width) if pooling == "pooler" else None
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(shape.hidden_size, classes)
        self.apply(_initialise)

    def hidden_states(self, ids: Tensor) -> list[Tensor]:
        """`[N, L, width]` after the embeddings and after every layer."""
        mask = (ids != PADDING)[:, None, None, :]
        states = [self.embeddings(ids)]
        for layer in self.layers:
            states.append(layer(states[-1], mask))
        return states

    def pool(self, hidden: Tensor, ids: Tensor) -> Tensor:
        """One vector for each text, `[N, width]`; see `Pooling`."""
        if self.pooling != "mean":
            first = hidden[:, 0]
            return first if self.pooler is None else torch.tanh(self.pooler(first))
        real = (ids != PADDING).to(hidden.dtype).unsqueeze(2)
        return (hidden * real).sum(1) / real.sum(1)

    def forward(self, ids: Tensor) -> Tensor:
        mask = (ids != PADDING)[:, None, None, :]
        hidden = self.embeddings(ids)
        for layer in self.layers:
            hidden = layer(hidden, mask)
        logits: Tensor = self.head(self.dropout(self.pool(hidden, ids)))
        return logits


def _initialise(module: nn.Module) -> None:
    """BERT's initialisation: normal weights with a standard deviation of 0.02, zero biases."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
