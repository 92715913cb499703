"""BERT-shaped text encoders (Devlin et al. 2019) in plain modules that trace and prune.

Post-norm encoder as in Hugging Face's `BertModel` and a pooling; then one linear head for
classes, or nothing but a norm for embeddings. The padding mask is computed from the ids, so the
model takes one tensor and traces with free batch size and length.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Pooling = Literal["mean", "cls", "pooler", "pooler_relu", "pooler_gelu"]
"""How a text's tokens become one vector: the mean of those that are not padding, as in sentence
encoders; the first one; or the first one through a dense layer and tanh, as BERT's and RoBERTa's
own classifiers do, ReLU as DistilBERT's, or GELU as ELECTRA's."""

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "pooler": torch.tanh,
    "pooler_relu": F.relu,
    "pooler_gelu": F.gelu,
}

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
    embedding_size: int | None = None


class Embeddings(nn.Module):
    """Word and position embeddings, normalised; segment 0's is added to the position embeddings.

    Those of another size than the hidden states are projected.
    """

    def __init__(self, shape: BertShape) -> None:
        super().__init__()
        width = shape.embedding_size or shape.hidden_size
        self.word = nn.Embedding(shape.vocab_size, width, padding_idx=PADDING)
        self.position = nn.Embedding(shape.max_position_embeddings, width)
        self.norm = nn.LayerNorm(width, shape.layer_norm_eps)
        same = width == shape.hidden_size
        self.project = None if same else nn.Linear(width, shape.hidden_size)

    def forward(self, ids: Tensor) -> Tensor:
        positions = self.position.weight[: ids.shape[1]]
        embedded: Tensor = self.norm(self.word(ids) + positions)
        return embedded if self.project is None else self.project(embedded)


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


class BertEncoder(nn.Module):
    """Token ids `[N, L]`, padded with 0, to hidden states, and these to one vector a row.

    Ids are int32 or int64, L is at most the number of positions, and every row needs a token that
    is not padding.
    """

    def __init__(self, shape: BertShape, pooling: Pooling = "mean") -> None:
        super().__init__()
        self.pooling = pooling
        self.embeddings = Embeddings(shape)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.num_hidden_layers))
        width = shape.hidden_size
        self.pooler = nn.Linear(width, width) if pooling in _ACTIVATIONS else None

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
            return first if self.pooler is None else _ACTIVATIONS[self.pooling](self.pooler(first))
        real = (ids != PADDING).to(hidden.dtype).unsqueeze(2)
        return (hidden * real).sum(1) / real.sum(1)

    def pooled(self, ids: Tensor) -> Tensor:
        """The pooled last hidden state, `[N, width]`."""
        mask = (ids != PADDING)[:, None, None, :]
        hidden = self.embeddings(ids)
        for layer in self.layers:
            hidden = layer(hidden, mask)
        return self.pool(hidden, ids)


class BertClassifier(BertEncoder):
    """Token ids `[N, L]` to float32 logits `[N, classes]`; see `BertEncoder`."""

    def __init__(
        self, shape: BertShape, classes: int, dropout: float = 0.1, pooling: Pooling = "mean"
    ) -> None:
        super().__init__(shape, pooling)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(shape.hidden_size, classes)
        self.apply(_initialise)

    def forward(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.head(self.dropout(self.pooled(ids)))
        return logits


class BertEmbedder(BertEncoder):
    """Token ids `[N, L]` to float32 embeddings `[N, width]` of length 1; see `BertEncoder`."""

    def __init__(self, shape: BertShape, pooling: Pooling = "mean") -> None:
        super().__init__(shape, pooling)
        self.apply(_initialise)

    def forward(self, ids: Tensor) -> Tensor:
        return F.normalize(self.pooled(ids).float(), dim=1)


def _initialise(module: nn.Module) -> None:
    """BERT's initialisation: normal weights with a standard deviation of 0.02, zero biases."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
