import copy
import itertools
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from optimize.lowering import Lowered, lower_int8
from optimize.lowering.int8 import Attention, Engine
from optimize.lowering.kernels.attention import attend
from optimize.models.architectures.bert import BertClassifier, BertShape
from optimize.utils import pickles, torchscript


def relative_error(actual: Tensor, expected: Tensor) -> float:
    return ((actual - expected).norm() / expected.norm()).item()


@pytest.fixture(scope="module")
def bert() -> BertClassifier:
    torch.manual_seed(0)
    model = BertClassifier(BertShape(20000, 64, 2, 4, 128), 5).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    return model


@pytest.fixture(scope="module")
def ids() -> Tensor:
    """Four sequences of 37, 9, 30 and 1 tokens."""
    made = torch.randint(1, 20000, (4, 37), generator=torch.Generator().manual_seed(1))
    for row, length in enumerate((37, 9, 30, 1)):
        made[row, length:] = 0
    return made


@pytest.fixture(scope="module", params=["onednn", "fbgemm"])
def lowered(bert: BertClassifier, ids: Tensor, request: pytest.FixtureRequest) -> Lowered:
    return lower_int8(bert, [ids, ids[:2, :20]], engine=request.param)


def test_bert_in_int8_answers_like_the_float_model(
    bert: BertClassifier, lowered: Lowered, ids: Tensor
) -> None:
    with torch.no_grad():
        assert relative_error(lowered(ids), bert(ids)) < 0.02
    layers = [
        f"layers.{i}.{n}" for i in (0, 1) for n in ("attention.qkv", "attention.out", "fc1", "fc2")
    ]
    assert set(lowered.lowered) == {"embeddings.word", *layers}
    assert list(lowered.left_in_float) == ["head"]


def test_a_saved_bert_takes_any_batch_and_length(
    lowered: Lowered, ids: Tensor, tmp_path: Path
) -> None:
    scripted = torchscript.script(lowered, ids)
    torchscript.save(scripted, tmp_path / "model.pt")
    torchscript.check_parity(
        lowered, tmp_path / "model.pt", ids, engine=lowered.engine, batch_sizes=(1, 2, 3, 4)
    )
    loaded = torchscript.load(tmp_path / "model.pt")
    with torch.inference_mode():
        for length in (2, 17, 37):
            for count in (1, 3):
                piece = ids[:count, :length]
                assert torch.equal(loaded(piece), lowered(piece))


def test_padding_costs_nothing_and_changes_nothing(lowered: Lowered, ids: Tensor) -> None:
    names = [type(m).__name__ for m in lowered.modules()]
    assert names.count("Tokens") == 1 and names.count("Pack") == 1 and names.count("Unpack") == 1
    with torch.no_grad():
        together = lowered(ids)
        for row, length in enumerate((37, 9, 30, 1)):
            alone = lowered(ids[row : row + 1, :length])
            torch.testing.assert_close(alone, together[row : row + 1], atol=0.01, rtol=0.01)


def test_equal_sequences_get_equal_answers(lowered: Lowered, ids: Tensor) -> None:
    """To the last bit, wherever in a batch they are."""
    with torch.no_grad():
        for row, length in enumerate((37, 9, 30)):
            answers = lowered(ids[row : row + 1, :length].repeat(7, 1))
            assert torch.equal(answers, answers[:1].expand_as(answers))


def test_a_model_that_reads_its_padding_is_not_packed(bert: BertClassifier, ids: Tensor) -> None:
    class PlainMean(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bert = bert

        def forward(self, ids: Tensor) -> Tensor:
            hidden = self.bert.hidden_states(ids)[-1]
            return self.bert.head(hidden.mean(1))

    model = PlainMean().eval()
    lowered = lower_int8(model, [ids])
    assert not any(type(m).__name__ == "Tokens" for m in lowered.modules())
    with torch.no_grad():
        assert relative_error(lowered(ids), model(ids)) < 0.02


def test_one_quantize_feeds_the_projections_and_uint8_goes_through_gelu(
    bert: BertClassifier, ids: Tensor
) -> None:
    lowered = lower_int8(bert, [ids], engine="onednn")
    graph = str(lowered.scripted().inlined_graph)
    per_layer = 3  # before qkv, before the output projection, before fc1
    assert graph.count("aten::quantize_per_tensor(") == 2 * per_layer
    assert graph.count("onednn::qlinear_pointwise(") == 2 * 4
    assert "aten::gelu" not in graph and "aten::dequantize" not in graph


def test_fbgemm_quantizes_inside_its_linear_layers(bert: BertClassifier, ids: Tensor) -> None:
    graph = str(lower_int8(bert, [ids], engine="fbgemm").scripted().inlined_graph)
    assert graph.count("quantized::linear_with_input_q_dq_qweight_dq_output_fp32(") == 2 * 4
    assert "aten::quantize_per_tensor" not in graph and "aten::dequantize" not in graph
    assert "bfloat16" not in graph


@pytest.mark.parametrize(
    ("attention", "dtype"), [("bf16", torch.bfloat16), ("fp32", torch.float32)]
)
def test_attention_computes_in_what_was_asked(
    bert: BertClassifier, ids: Tensor, attention: Attention, dtype: torch.dtype
) -> None:
    lowered = lower_int8(bert, [ids], engine="onednn", attention=attention)
    seen: list[torch.dtype] = []
    for name, module in lowered.body.named_modules():
        if name.endswith("attention_qkv"):
            module.register_forward_hook(lambda _, __, output: seen.append(output.dtype))
    with torch.no_grad():
        assert relative_error(lowered(ids), bert(ids)) < 0.02
    assert seen == [dtype] * 2


def test_short_texts_run_on_fbgemm_and_long_ones_on_onednn(ids: Tensor) -> None:
    torch.manual_seed(0)
    model = BertClassifier(BertShape(500, 384, 1, 12, 1536), 2).eval()
    many = torch.randint(1, 500, (2, 256))
    assert lower_int8(model, [ids[:2, :20] % 400 + 1]).engine == "fbgemm"
    assert lower_int8(model, [many]).engine == "onednn"
    padded = many.clone()
    padded[:, 20:] = 0  # padding is no work
    assert lower_int8(model, [padded]).engine == "fbgemm"


def test_padding_is_not_observed(bert: BertClassifier, ids: Tensor) -> None:
    """Calibrating on padded sequences gives the ranges of the sequences alone."""
    apart = [ids[row : row + 1, :length] for row, length in enumerate((37, 9, 30, 1))]
    pair = torch.cat([apart[0], apart[0]])
    ones = lower_int8(bert, [pair, *apart[1:]], engine="fbgemm", ranges="minmax")
    padded = lower_int8(bert, [ids], engine="fbgemm", ranges="minmax")
    scales = [
        {n: m.scale for n, m in model.body.named_modules() if hasattr(m, "zero_point")}
        for model in (ones, padded)
    ]
    assert len(scales[0]) == 8
    for name, scale in scales[0].items():
        assert scale == pytest.approx(scales[1][name], rel=1e-3)


def test_the_embeddings_are_stored_in_a_quarter(
    bert: BertClassifier, lowered: Lowered, ids: Tensor, tmp_path: Path
) -> None:
    before = torchscript.save(torchscript.script(copy.deepcopy(bert), ids), tmp_path / "a.pt")
    after = torchscript.save(torchscript.script(lowered, ids), tmp_path / "b.pt")
    assert after < 0.3 * before


def test_the_embeddings_are_stored_in_an_eighth(
    bert: BertClassifier, lowered: Lowered, ids: Tensor, tmp_path: Path
) -> None:
    engine = lowered.engine
    small = lower_int8(bert, [ids, ids[:2, :20]], engine=engine, table_bits=4)
    sizes = [
        torchscript.save(torchscript.script(model, ids), tmp_path / "model.pt")
        for model in (lowered, small)
    ]
    table = bert.embeddings.word.weight
    # Half a byte a number against one, and compressed a little.
    assert 0.4 * table.numel() < sizes[0] - sizes[1] < 0.55 * table.numel()
    loaded = torch.jit.load(tmp_path / "model.pt")
    with torch.no_grad():
        assert relative_error(small(ids), bert(ids)) < 0.1
        for part in (ids, ids[:1], ids[1:2, :9], ids.int()):
            assert torch.allclose(loaded(part), small(part), atol=1e-6)
    assert "embeddings.word" in small.lowered


def test_a_lowered_transformer_pickles(lowered: Lowered, ids: Tensor, tmp_path: Path) -> None:
    pickles.save(lowered, tmp_path / "state.pt")
    again = pickles.load(tmp_path / "state.pt")
    with torch.no_grad():
        assert torch.equal(again(ids), lowered(ids))
        assert torch.equal(copy.deepcopy(lowered)(ids), lowered(ids))


class Block(nn.Module):
    """Pre-norm, separate projections, views in other words, on pictures' patches."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))
        self.out, self.up, self.down = (
            nn.Linear(width, width), nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        )  # fmt: skip

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        y = self.norm1(x)
        shape = (x.shape[0], x.shape[1], self.heads, -1)
        q, k, v = (p(y).view(shape).transpose(1, 2) for p in (self.q, self.k, self.v))
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Vision(nn.Module):
    def __init__(self, mask: Tensor | None = None) -> None:
        super().__init__()
        self.patches, self.block = nn.Conv2d(3, 32, 4, 4), Block(32, 4)
        self.token, self.head = nn.Parameter(torch.randn(1, 1, 32)), nn.Linear(32, 7)
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1)
        return self.head(self.block(x, self.mask)[:, 0])


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    ("engine", "hot_batch"), [("onednn", None), ("onednn", 2), ("fbgemm", None)]
)
def test_vision_transformers_of_other_words(
    masked: bool, engine: Engine, hot_batch: int | None, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    mask = torch.rand(17, 17) > 0.3 if masked else None
    model, x = Vision(mask).eval(), torch.randn(4, 3, 16, 16)
    lowered = lower_int8(model, [x], engine=engine, hot_batch=hot_batch)
    with torch.no_grad():
        assert relative_error(lowered(x), model(x)) < 0.03
        torchscript.save(torchscript.script(lowered, x), tmp_path / "model.pt")
        loaded = torchscript.load(tmp_path / "model.pt")
        for count in (1, 2, 3):
            assert torch.equal(loaded(x[:count]), lowered(x[:count]))
    assert lowered.engine == engine
    names = [type(m).__name__ for m in lowered.modules()]
    assert ("UniformAttention" in names) == (not masked)


def test_kept_projections_stay_apart(ids: Tensor) -> None:
    torch.manual_seed(0)
    model, x = Vision().eval(), torch.randn(4, 3, 16, 16)
    lowered = lower_int8(model, [x], keep_float=["block.k", "block.down"])
    assert {"block.k", "block.down"} <= set(lowered.left_in_float)
    with torch.no_grad():
        assert relative_error(lowered(x), model(x)) < 0.03


@pytest.mark.parametrize("size", [1.0, 30.0, 1e4])
def test_attention_stays_exact_where_powers_of_two_overflow(size: float) -> None:
    torch.manual_seed(0)
    heads, width, lengths = 3, 16, (20, 7, 0, 133, 80)
    starts = [0]
    for length in lengths:
        starts.append(starts[-1] + length)
    qkv = torch.randn(starts[-1] + 4, 3 * heads * width)
    qkv[:, : heads * width] *= size
    qkv = qkv.to(torch.bfloat16)
    found = attend(qkv, starts, heads, 16)
    assert not found[starts[-1] :].any()
    for start, end in itertools.pairwise(starts):
        q, k, v = qkv[start:end].double().view(end - start, 3, heads, width).permute(1, 2, 0, 3)
        scores = q @ k.transpose(1, 2)
        if size == 1.0 and end - start > 64:  # elsewhere the float32 kernel does the work
            scores = scores.bfloat16().double()
        weights = torch.softmax(scores * math.log(2), -1)
        expected = (weights @ v).transpose(0, 1).reshape(end - start, heads * width)
        assert end == start or relative_error(found[start:end].double(), expected) < 0.01
