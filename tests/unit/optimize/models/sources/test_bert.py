"""BERT from Hugging Face's folders: strict loading, masks, heads and labels, parity with
transformers where that is installed."""

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from optimize.errors import ModelError
from optimize.models.architectures.bert import BertClassifier, BertShape
from optimize.models.notes import notes_of
from optimize.models.sources import bert
from optimize.pruning import transformer
from optimize.quantization.text import quantize
from optimize.utils import torchscript, torchvision_shim

SHAPE = BertShape(100, 32, 2, 4, 48, max_position_embeddings=64)


def hugging_face(folder: Path) -> Path:
    """A folder as transformers saves a small BERT, with random weights."""
    torch.manual_seed(1)
    config = {
        "model_type": "bert",
        "vocab_size": 100,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "max_position_embeddings": 64,
        "type_vocab_size": 2,
        "layer_norm_eps": 1e-12,
        "hidden_act": "gelu",
    }
    (folder / "config.json").write_text(json.dumps(config))
    made: dict[str, Tensor] = {
        "embeddings.word_embeddings.weight": torch.randn(100, 32),
        "embeddings.position_embeddings.weight": torch.randn(64, 32),
        "embeddings.token_type_embeddings.weight": torch.randn(2, 32),
        "pooler.dense.weight": torch.randn(32, 32),
        "pooler.dense.bias": torch.randn(32),
    }
    linear = {
        "attention.self.query": (32, 32),
        "attention.self.key": (32, 32),
        "attention.self.value": (32, 32),
        "attention.output.dense": (32, 32),
        "intermediate.dense": (48, 32),
        "output.dense": (32, 48),
    }
    norms = ["embeddings.LayerNorm"]
    for i in range(2):
        for name, size in linear.items():
            made[f"encoder.layer.{i}.{name}.weight"] = torch.randn(*size) * 0.2
            made[f"encoder.layer.{i}.{name}.bias"] = torch.randn(size[0]) * 0.2
        norms += [f"encoder.layer.{i}.{n}.LayerNorm" for n in ("attention.output", "output")]
    for name in norms:
        made[f"{name}.weight"] = 1 + 0.1 * torch.randn(32)
        made[f"{name}.bias"] = 0.1 * torch.randn(32)
    save_file(made, folder / "model.safetensors")
    return folder


def ids(rows: int = 3, length: int = 20) -> Tensor:
    torch.manual_seed(2)
    found = torch.randint(1, 100, (rows, length))
    found[1:2, 11:] = 0
    return found


def test_it_answers_as_transformers_does(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    model_class = torchvision_shim.retrying(
        lambda: importlib.import_module("transformers").BertModel
    )
    folder = hugging_face(tmp_path)
    theirs = model_class.from_pretrained(folder, local_files_only=True).eval()
    ours = bert.build(2, str(folder)).eval()
    batch = ids()
    with torch.inference_mode():
        expected = theirs(batch, attention_mask=(batch != 0).long()).last_hidden_state
        found = ours.hidden_states(batch)[-1]
    real = batch != 0
    torch.testing.assert_close(found[real], expected[real], atol=1e-5, rtol=1e-4)


def test_loading_is_strict(tmp_path: Path) -> None:
    folder = hugging_face(tmp_path)
    weights = load_file(folder / "model.safetensors")
    missing = dict(weights)
    del missing["encoder.layer.1.output.dense.bias"]
    save_file(missing, folder / "model.safetensors")
    with pytest.raises(ModelError, match=r"lack encoder\.layer\.1\.output\.dense\.bias"):
        bert.build(2, str(folder))
    save_file(
        {**weights, "encoder.layer.2.output.dense.bias": torch.ones(32)},
        folder / "model.safetensors",
    )
    with pytest.raises(ModelError, match=r"hold encoder\.layer\.2\.output\.dense\.bias"):
        bert.build(2, str(folder))
    save_file(
        {**weights, "embeddings.word_embeddings.weight": torch.ones(99, 32)},
        folder / "model.safetensors",
    )
    with pytest.raises(ModelError, match="do not fit"):
        bert.build(2, str(folder))


LABELS = ["cold", "very warm", "hot"]


@pytest.fixture(scope="module")
def fine_tuned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A folder as `BertForSequenceClassification` saves it, and that model."""
    pytest.importorskip("transformers")
    transformers = torchvision_shim.retrying(lambda: importlib.import_module("transformers"))
    torch.manual_seed(3)
    config = transformers.BertConfig(
        vocab_size=100, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=48, max_position_embeddings=64, num_labels=3, classifier_dropout=0.3,
        id2label=dict(enumerate(LABELS)), initializer_range=0.3,
    )  # fmt: skip
    model = transformers.BertForSequenceClassification(config).eval()
    for parameter in model.parameters():  # biases and norms differ from their first values too
        torch.nn.init.normal_(parameter, std=0.3)
    folder = tmp_path_factory.mktemp("fine-tuned")
    model.save_pretrained(folder)
    return folder, model


def logits(theirs: Any, batch: Tensor) -> Tensor:
    with torch.inference_mode():
        found: Tensor = theirs(batch.long(), attention_mask=(batch != 0).long()).logits
        return found


def test_a_fine_tuned_folder_answers_as_transformers_does(fine_tuned: tuple[Path, Any]) -> None:
    folder, theirs = fine_tuned
    ours = bert.build(3, str(folder), labels=LABELS, new_head=False).eval()
    assert ours.pooling == "pooler" and ours.dropout.p == 0.3 and not notes_of(ours)
    batch = ids()
    with torch.inference_mode():
        torch.testing.assert_close(ours(batch), logits(theirs, batch), atol=1e-4, rtol=1e-4)
        # Training takes another way through the attention, with the same result.
        ours.train().dropout.p = 0.0
        torch.testing.assert_close(ours(batch), logits(theirs, batch), atol=1e-4, rtol=1e-4)


def test_a_head_is_put_into_the_datas_order_of_labels(fine_tuned: tuple[Path, Any]) -> None:
    folder, theirs = fine_tuned
    ours = bert.build(3, str(folder), labels=["Hot", "cold", "very_warm"], new_head=False).eval()
    assert "order of labels: Hot, cold, very_warm" in notes_of(ours)[0]
    with torch.inference_mode():
        found = ours(ids())
    torch.testing.assert_close(found, logits(theirs, ids())[:, [2, 0, 1]], atol=1e-4, rtol=1e-4)


def test_a_head_for_other_labels_is_refused_unless_a_new_one_is_trained(
    fine_tuned: tuple[Path, Any],
) -> None:
    folder, theirs = fine_tuned
    for labels in (["a", "b", "c"], ["a", "b"]):
        with pytest.raises(ModelError, match=r"cold, very warm, hot.*a, b.*`train` stage"):
            bert.build(len(labels), str(folder), labels=labels, new_head=False)
        ours = bert.build(len(labels), str(folder), labels=labels)
        assert "replaced by a new one" in notes_of(ours)[0]
        assert ours.head.weight.std() < 0.1  # fresh, and behind the trained pooler
        assert ours.pooler is not None
        assert torch.equal(ours.pooler.weight, theirs.bert.pooler.dense.weight)


def test_weights_in_several_files_are_put_together(
    fine_tuned: tuple[Path, Any], tmp_path: Path
) -> None:
    folder, theirs = fine_tuned
    theirs.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("model-0*.safetensors"))) > 1
    one, many = (bert.build(3, str(place), labels=LABELS).eval() for place in (folder, tmp_path))
    with torch.inference_mode():
        assert torch.equal(one(ids()), many(ids()))


def test_an_encoder_without_a_head_needs_training(tmp_path: Path) -> None:
    folder = hugging_face(tmp_path)
    assert bert.build(2, str(folder)).pooling == "mean"
    with pytest.raises(ModelError, match=r"encoder without a head.*`train` stage"):
        bert.build(2, str(folder), new_head=False)
    weights = load_file(folder / "model.safetensors")
    head = {"classifier.weight": torch.randn(3, 32), "classifier.bias": torch.randn(3)}
    bare = {k: v for k, v in weights.items() if not k.startswith("pooler.")}
    save_file({**bare, **head}, folder / "model.safetensors")
    with pytest.raises(ModelError, match="classifier without BERT's pooler"):
        bert.build(3, str(folder))
    model = bert.build(3, str(folder), pooling="cls").eval()
    with torch.inference_mode():
        expected = model.head(model.hidden_states(ids())[-1][:, 0])
        assert torch.equal(model(ids()), expected)
    with pytest.raises(ValueError, match="mean, cls, pooler"):
        bert.build(3, str(folder), pooling="max")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("key", "prefix"), [(None, ""), ("state_dict", "model."), ("ema", "module.net.")]
)
def test_a_checkpoint_in_hugging_faces_names_comes_with_the_folders_labels(
    fine_tuned: tuple[Path, Any], tmp_path: Path, key: str | None, prefix: str
) -> None:
    folder, theirs = fine_tuned
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    named = {f"{prefix}{name}": value for name, value in theirs.state_dict().items()}
    torch.save({key: named, "epoch": 3} if key else named, tmp_path / "best.ckpt")
    ours = bert.build(
        3, str(tmp_path), labels=LABELS[::-1], checkpoint=tmp_path / "best.ckpt", new_head=False
    ).eval()
    with torch.inference_mode():
        expected = logits(theirs, ids()).flip(1)
        torch.testing.assert_close(ours(ids()), expected, atol=1e-4, rtol=1e-4)
    torch.save(ours.state_dict(), tmp_path / "ours.pt")
    again = bert.build(3, str(tmp_path), checkpoint=tmp_path / "ours.pt").eval()
    with torch.inference_mode():
        assert torch.equal(again(ids()), ours(ids()))


def test_transformers_own_module_becomes_ours(fine_tuned: tuple[Path, Any]) -> None:
    _, theirs = fine_tuned
    ours = bert.of_transformers(theirs, LABELS, "mine.py:build", False).eval()
    with torch.inference_mode():
        torch.testing.assert_close(ours(ids()), logits(theirs, ids()), atol=1e-4, rtol=1e-4)
    with pytest.raises(ModelError, match="returned transformers' BertModel"):
        bert.of_transformers(theirs.bert, LABELS, "mine.py:build", False)


def test_the_pooler_goes_to_int8_and_to_a_file(fine_tuned: tuple[Path, Any]) -> None:
    """Answers do not depend on padding or on batch mates there either."""
    folder, _ = fine_tuned
    ours = bert.build(3, str(folder), labels=LABELS).eval()
    batch = ids().to(torch.int32)
    kept = torch.backends.quantized.engine
    try:
        small = quantize(ours, [batch], 40)
        with torch.inference_mode():
            expected, found = ours(batch), small(batch)
            scripted = torchscript.script(small, (batch[:1],))
            longer = torch.nn.functional.pad(batch, (0, 8))
            torch.testing.assert_close(scripted(longer), found, atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(scripted(batch[1:2])[0], found[1], atol=1e-5, rtol=1e-4)
    finally:
        torch.backends.quantized.engine = kept
    assert (found - expected).norm() / expected.norm() < 0.1
    operators = torchscript.operators(scripted)
    assert not any("aten::linear" in name for name in operators), operators


@pytest.mark.parametrize(
    ("name", "value"), [("hidden_act", "relu"), ("model_type", "gpt2"), ("pad_token_id", 1)]
)
def test_another_architecture_is_refused(tmp_path: Path, name: str, value: object) -> None:
    folder = hugging_face(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {name: value}))
    with pytest.raises(ModelError, match=name):
        bert.build(2, str(folder))


def test_padding_changes_nothing() -> None:
    torch.manual_seed(0)
    model = BertClassifier(SHAPE, 2).eval()
    batch = ids()
    with torch.inference_mode():
        together = model(batch)
        alone = model(batch[1:2, :11])
    torch.testing.assert_close(together[1:2], alone, atol=1e-6, rtol=1e-5)


def test_training_and_inference_agree() -> None:
    """Training takes another attention kernel."""
    torch.manual_seed(0)
    model = BertClassifier(SHAPE, 2, dropout=0.0)
    batch = ids()
    torch.testing.assert_close(model.train()(batch), model.eval()(batch), atol=1e-5, rtol=1e-4)


def test_a_traced_model_takes_any_batch_and_length() -> None:
    torch.manual_seed(0)
    model = BertClassifier(SHAPE, 2).eval()
    traced = torch.jit.freeze(torch.jit.trace(model, ids(1, 8), check_trace=False))
    for rows, length in ((1, 8), (5, 30), (2, 64)):
        batch = ids(rows, length)
        with torch.inference_mode():
            torch.testing.assert_close(traced(batch), model(batch), atol=1e-5, rtol=1e-4)


# Pruning.


def test_what_does_nothing_is_pruned_for_free() -> None:
    """Heads and neurons whose outputs are multiplied by zero go first, and nothing changes."""
    torch.manual_seed(0)
    model = BertClassifier(SHAPE, 2).eval()
    dead_heads, dead_neurons = [1, 3], list(range(0, 48, 2))
    with torch.no_grad():
        for layer in model.layers:
            for head in dead_heads:
                layer.attention.out.weight[:, head * 8 : head * 8 + 8] = 0
            layer.fc2.weight[:, dead_neurons] = 0
    batch = ids(8, 20)
    before = model(batch)
    targets = torch.arange(8) % 2
    importance = transformer.measure(
        transformer.blocks(model),
        [batch[:4], batch[4:]],
        lambda part, n: torch.nn.functional.cross_entropy(model(part), targets[n * 4 : n * 4 + 4]),
    )
    for of_heads, of_neurons in zip(importance.heads, importance.neurons, strict=True):
        assert of_heads[dead_heads].max() == 0 < of_heads[[0, 2]].min()
        assert of_neurons[dead_neurons].max() == 0
    transformer.prune(transformer.blocks(model), importance, heads=2, neurons=24)
    assert model.layers[0].attention.qkv.weight.shape == (3 * 16, 32)
    assert model.layers[1].fc1.weight.shape == (24, 32)
    torch.testing.assert_close(model(batch), before, atol=1e-5, rtol=1e-4)
