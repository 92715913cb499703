"""Encoders of BERT's shape under other names: their settings and weights in BERT's own.

DistilBERT (Sanh et al. 2019) has no segments; ELECTRA (Clark et al. 2020) may embed tokens in
fewer numbers; RoBERTa (Liu et al. 2019) and its kin count positions from behind padding's id,
which is not 0. What differs in the attention itself, as in MPNet and DeBERTa, is refused.
"""

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from optimize.errors import ModelError
from optimize.models.architectures.bert import PADDING

PREFIXES = ("bert.", "distilbert.", "electra.", "roberta.")
CLASSES = tuple(
    f"{name}ForSequenceClassification"
    for name in ("Bert", "DistilBert", "Electra", "Roberta", "XLMRoberta", "Camembert")
)
WORDS = "embeddings.word_embeddings.weight"
POSITIONS = "embeddings.position_embeddings.weight"
SEGMENTS = "embeddings.token_type_embeddings.weight"

Config = dict[str, Any]
Tensors = dict[str, Tensor]

_REFUSED = {
    "mpnet": "adds a bias for the distance of two tokens to its attention",
    "deberta": "attends to positions apart from words",
    "deberta-v2": "attends to positions apart from words",
    "albert": "shares one layer's weights",
    "modernbert": "rotates its positions",
    "nomic_bert": "rotates its positions",
}


def plain_name(name: str) -> str:
    """A weight's name without the model's own prefix."""
    prefix = next((p for p in PREFIXES if name.startswith(p)), "")
    return name.removeprefix(prefix)


def unwrapped(tensors: Tensors) -> Tensors:
    """Without what a wrapper of the training put before Hugging Face's names."""
    words = next((name for name in tensors if name.endswith(WORDS)), WORDS)
    before = words.removesuffix(WORDS)
    own = next((p for p in sorted(PREFIXES, key=len, reverse=True) if before.endswith(p)), "")
    before = before.removesuffix(own)
    return {k.removeprefix(before): v for k, v in tensors.items() if k.startswith(before)}


def config_as_bert(config: Config, source: object) -> Config:
    """Settings in BERT's names; those of a BERT as they are.

    Raises:
        ModelError: the architecture is none of these; says the way out.
    """
    kind = config.get("model_type", "bert")
    if kind not in _KINDS:
        why = f"{kind} {_REFUSED[kind]}; " if kind in _REFUSED else ""
        raise ModelError(
            f"{source}: model_type is {kind!r}; {why}of text models {', '.join(_KINDS)} are known. "
            "Bring another by its code, model: path/to/file.py:build, which wraps it in a module "
            "from token ids"
        )
    return _KINDS[kind][0](config)


def weights_as_bert(config: Config, tensors: Tensors, source: object) -> Tensors:
    """Weights in BERT's names, padding's row of the table first; `config` is the folder's own.

    A classifier of two layers becomes `pooler` and `classifier`.

    Raises:
        ModelError: as `config_as_bert`, or a table is missing.
    """
    config_as_bert(config, source)
    plain = {plain_name(name): tensor for name, tensor in tensors.items()}
    if WORDS not in plain:
        raise ModelError(f"the weights of {source} lack {WORDS}: not a BERT encoder")
    return _KINDS[config.get("model_type", "bert")][1](config, plain)


def classifier_activation(config: Config) -> str:
    """What stands between the two layers of the architecture's own classifier."""
    return {"distilbert": "relu", "electra": "gelu"}.get(config.get("model_type", "bert"), "tanh")


def _same(config: Config) -> Config:
    return config


def _bert(config: Config, tensors: Tensors) -> Tensors:
    return tensors


_DISTILBERT = {
    "dim": "hidden_size",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "hidden_dim": "intermediate_size",
    "activation": "hidden_act",
    "seq_classif_dropout": "classifier_dropout",
    "dropout": "hidden_dropout_prob",
}
_DISTILBERT_NAMES = (
    (r"^transformer\.layer\.", "encoder.layer."),
    (r"\.attention\.q_lin\.", ".attention.self.query."),
    (r"\.attention\.k_lin\.", ".attention.self.key."),
    (r"\.attention\.v_lin\.", ".attention.self.value."),
    (r"\.attention\.out_lin\.", ".attention.output.dense."),
    (r"\.sa_layer_norm\.", ".attention.output.LayerNorm."),
    (r"\.ffn\.lin1\.", ".intermediate.dense."),
    (r"\.ffn\.lin2\.", ".output.dense."),
    (r"\.output_layer_norm\.", ".output.LayerNorm."),
    (r"^pre_classifier\.", "pooler.dense."),
    (r"^vocab_", "cls.vocab_"),
)


def _distilbert_config(config: Config) -> Config:
    return {_DISTILBERT.get(k, k): v for k, v in config.items()} | {"layer_norm_eps": 1e-12}


def _distilbert(config: Config, tensors: Tensors) -> Tensors:
    found = {}
    for name, tensor in tensors.items():
        for theirs, ours in _DISTILBERT_NAMES:
            name = re.sub(theirs, ours, name)
        found[name] = tensor
    found[SEGMENTS] = torch.zeros(1, found[WORDS].shape[1])
    return found


_HEADS = (
    ("classifier.dense.", "pooler.dense."),
    ("classifier.out_proj.", "classifier."),
    ("lm_head.", "cls."),
    ("generator_", "cls.generator_"),
    ("discriminator_", "cls.discriminator_"),
)


def _two_layers(config: Config, tensors: Tensors) -> Tensors:
    """`classifier.dense` and `classifier.out_proj` as `pooler.dense` and `classifier`."""
    own = dict(tensors)
    if "classifier.dense.weight" in own:  # a pooler of the pre-training is not used then
        own = {k: v for k, v in own.items() if not k.startswith("pooler.")}
    found = {}
    for name, tensor in own.items():
        theirs, ours = next(((a, b) for a, b in _HEADS if name.startswith(a)), ("", ""))
        found[ours + name.removeprefix(theirs)] = tensor
    return found


def _roberta_config(config: Config) -> Config:
    before = int(config.get("pad_token_id", 1)) + 1
    positions = int(config.get("max_position_embeddings", 0)) - before
    return {**config, "pad_token_id": PADDING, "max_position_embeddings": positions}


def _roberta(config: Config, tensors: Tensors) -> Tensors:
    found, padding = _two_layers(config, tensors), int(config.get("pad_token_id", 1))
    found[POSITIONS] = found[POSITIONS][padding + 1 :]
    rows = torch.arange(len(found[WORDS]))
    rows[[PADDING, padding]] = rows[[padding, PADDING]]
    found[WORDS] = found[WORDS][rows]
    return found


_KINDS: dict[str, tuple[Callable[[Config], Config], Callable[[Config, Tensors], Tensors]]] = {
    "bert": (_same, _bert),
    "distilbert": (_distilbert_config, _distilbert),
    "electra": (_same, _two_layers),
    "roberta": (_roberta_config, _roberta),
    "xlm-roberta": (_roberta_config, _roberta),
    "camembert": (_roberta_config, _roberta),
}
