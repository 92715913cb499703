"""Encoders of BERT's shape under other names, as transformers saves them: classification and
embeddings answer as its own; others are refused, and go through as code."""

import importlib
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optimize.errors import ModelError
from optimize.lowering import lower_int8
from optimize.models.sources import bert, encoders
from optimize.utils import torchscript, torchvision_shim

LABELS = ["cold", "very warm", "hot"]
SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "distilbert": (
        "DistilBert",
        {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48, "max_position_embeddings": 64},
    ),
    "electra": ("Electra", {**SIZES, "embedding_size": 16, "max_position_embeddings": 64}),
    "electra-wide": ("Electra", {**SIZES, "embedding_size": 32, "max_position_embeddings": 64}),
    "roberta": ("Roberta", {**SIZES, "max_position_embeddings": 66, "type_vocab_size": 1}),
    "xlm-roberta": ("XLMRoberta", {**SIZES, "max_position_embeddings": 66, "type_vocab_size": 1}),
    "mpnet": ("MPNet", {**SIZES, "max_position_embeddings": 66}),
    "deberta-v2": ("DebertaV2", {**SIZES, "max_position_embeddings": 64}),
}
KNOWN = ["distilbert", "electra", "electra-wide", "roberta", "xlm-roberta"]


def transformers(name: str) -> Any:
    """A class of transformers."""
    pytest.importorskip("transformers")
    # Once for all: a retry makes the classes anew.
    torchvision_shim.retrying(lambda: importlib.import_module("transformers").BertModel)
    return getattr(importlib.import_module("transformers"), name)


def saved(folder: Path, kind: str, suffix: str, **options: Any) -> Any:
    """A model of random weights in eval mode, saved in `folder`."""
    name, sizes = KINDS[kind]
    torch.manual_seed(3)
    config = transformers(f"{name}Config")(
        vocab_size=100, id2label=dict(enumerate(LABELS)), **sizes, **options
    )
    model = transformers(f"{name}{suffix}")(config).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    return model


def ids() -> Tensor:
    """Two texts, the second padded with 0; 1 is a token like any other."""
    torch.manual_seed(2)
    found = torch.randint(2, 100, (2, 20))
    found[0, 3] = 1
    found[1, 11:] = 0
    return found


def theirs_of(batch: Tensor, model: Any) -> dict[str, Tensor]:
    """What transformers' model takes: its own ids and mask."""
    padding = model.config.pad_token_id
    swapped = torch.where(batch == 0, padding, torch.where(batch == padding, 0, batch))
    return {"input_ids": swapped, "attention_mask": (batch != 0).long()}


@pytest.mark.parametrize("kind", KNOWN)
def test_classifiers_answer_as_transformers_does(kind: str, tmp_path: Path) -> None:
    theirs = saved(tmp_path, kind, "ForSequenceClassification")
    ours = bert.build(3, str(tmp_path), labels=LABELS, new_head=False).eval()
    swapped = bert.of_transformers(theirs, LABELS[::-1], "build", new_head=False).eval()
    batch = ids()
    with torch.inference_mode():
        expected = theirs(**theirs_of(batch, theirs)).logits
        torch.testing.assert_close(ours(batch), expected, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(swapped(batch), expected.flip(1), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", KNOWN)
def test_embeddings_are_the_mean_of_transformers_tokens(kind: str, tmp_path: Path) -> None:
    theirs = saved(tmp_path, kind, "Model")
    ours = bert.build_embedder(str(tmp_path)).eval()
    batch = ids()
    real = (batch != 0).float()[:, :, None]
    with torch.inference_mode():
        hidden = theirs(**theirs_of(batch, theirs)).last_hidden_state
        mean = (hidden * real).sum(1) / real.sum(1)
        expected = mean / mean.norm(dim=1, keepdim=True)
        torch.testing.assert_close(ours(batch), expected, atol=1e-4, rtol=1e-4)


def test_a_wrappers_checkpoint_is_read_under_any_prefix() -> None:
    tensors = {
        "model.distilbert.embeddings.word_embeddings.weight": torch.zeros(1),
        "model.classifier.bias": torch.zeros(2),
        "loss.weight": torch.zeros(3),
    }
    assert set(encoders.unwrapped(tensors)) == {
        "distilbert.embeddings.word_embeddings.weight",
        "classifier.bias",
    }


@pytest.mark.parametrize(
    ("kind", "why"),
    [("mpnet", "distance of two tokens"), ("deberta-v2", "positions apart from words")],
)
def test_other_attention_is_refused_with_the_way_out(kind: str, why: str, tmp_path: Path) -> None:
    saved(tmp_path, kind, "Model")
    for build in (lambda: bert.build(3, str(tmp_path)), lambda: bert.build_embedder(str(tmp_path))):
        with pytest.raises(ModelError, match=rf"'{kind}'.*{why}.*path/to/file\.py:build"):
            build()


class Wrapped(nn.Module):
    """What a user's `file.py:build` returns for the others: ids padded with 0 to logits."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.padding = model, model.config.pad_token_id

    def forward(self, batch: Tensor) -> Tensor:
        mask = batch != 0
        if self.padding:  # 0 and padding's id have changed places in the tokenizer
            batch = torch.where(batch == self.padding, 0, batch).masked_fill(~mask, self.padding)
        logits: Tensor = self.model(input_ids=batch, attention_mask=mask.long()).logits
        return logits


@pytest.mark.parametrize(
    ("kind", "attention"),
    [
        ("distilbert", "sdpa"),
        ("roberta", "sdpa"),
        ("roberta", "eager"),
        ("mpnet", "eager"),
        ("deberta-v2", "eager"),
    ],
)
def test_transformers_own_modules_are_captured(kind: str, attention: str, tmp_path: Path) -> None:
    theirs = saved(tmp_path, kind, "ForSequenceClassification", attn_implementation=attention)
    check_int8(theirs)


def check_int8(theirs: nn.Module) -> None:
    model = Wrapped(theirs).eval()
    generator = torch.Generator().manual_seed(1)
    batches = [torch.randint(2, 100, (4, 16), generator=generator, dtype=torch.int32)]
    kept = torch.backends.quantized.engine
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            lowered = lower_int8(model, batches)
            scripted = torchscript.script(lowered, batches[0][:1])
        with torch.inference_mode():
            longer = ids().int()
            expected, found = model(longer), scripted(longer)
    finally:
        torch.backends.quantized.engine = kept
    assert len(lowered.lowered) >= 8
    assert (found - expected).norm() / expected.norm() < 0.2
