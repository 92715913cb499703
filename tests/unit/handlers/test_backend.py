import json
import sys
import warnings

import pytest
import torch
from torch import nn

from handlers.backend import (
    WARM_UP_CALLS,
    keep_freed_memory,
    load_model,
    use_quantized_engine,
    warm_up,
)
from handlers.card import read_card
from handlers.errors import ModelError
from tests.unit.handlers import archive


def folder_with(colours, tmp_path, **model):
    card = json.loads((colours / "model.json").read_text())
    card["model"] |= model
    (tmp_path / "model.json").write_text(json.dumps(card))
    return tmp_path


def test_loads_and_predicts(colours):
    torch.set_num_threads(2)
    predict = load_model(colours, read_card(colours))
    pixels = torch.full((2, 3, 4, 4), 32, dtype=torch.uint8)
    logits = predict(pixels)
    assert logits.tolist() == [[2.0] * 3] * 2
    assert logits.is_inference()
    assert torch.get_num_threads() == 1


def test_loading_is_silent(colours):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_model(colours, read_card(colours))


def quantized_linear(engine):
    """A real statically quantized model, traced."""
    torch.backends.quantized.engine = engine
    model = nn.Sequential(
        torch.ao.quantization.QuantStub(), nn.Linear(8, 4), torch.ao.quantization.DeQuantStub()
    ).eval()
    model.qconfig = torch.ao.quantization.get_default_qconfig(engine)
    torch.ao.quantization.prepare(model, inplace=True)
    model(torch.randn(16, 8))
    torch.ao.quantization.convert(model, inplace=True)
    return torch.jit.trace(model, torch.randn(1, 8))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_a_quantized_file_gets_its_engine(colours, tmp_path):
    folder = folder_with(colours, tmp_path, quantized_engine="onednn", file="q.pt")
    traced = quantized_linear("onednn")
    wanted = traced(torch.ones(3, 8))
    traced.save(str(folder / "q.pt"))
    torch.backends.quantized.engine = "fbgemm"
    predict = load_model(folder, read_card(folder))
    assert torch.backends.quantized.engine == "onednn"
    assert torch.equal(predict(torch.ones(3, 8)), wanted)


def test_no_engine_leaves_the_default():
    before = torch.backends.quantized.engine
    use_quantized_engine(None)
    assert torch.backends.quantized.engine == before


def test_an_unknown_engine_is_refused():
    with pytest.raises(ModelError, match="abacus"):
        use_quantized_engine("abacus")


def test_an_unknown_suffix_is_refused(colours, tmp_path):
    folder = folder_with(colours, tmp_path, file="model.pickle")
    with pytest.raises(ModelError, match=r"model\.pickle.*\.pt"):
        load_model(folder, read_card(folder))


@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x03\x04 cut short"])
def test_a_broken_file_is_refused(colours, tmp_path, content):
    folder = folder_with(colours, tmp_path)
    with pytest.raises(ModelError, match=r"model\.pt is missing"):
        load_model(folder, read_card(folder))
    (folder / "model.pt").write_bytes(content)
    with pytest.raises(ModelError, match="not a whole TorchScript file"):
        load_model(folder, read_card(folder))


def test_a_pickle_is_never_executed(colours, tmp_path):
    folder = folder_with(colours, tmp_path)
    torch.save({"weights": archive.MeanColour()}, folder / "model.pt")
    with pytest.raises(ModelError, match="not a whole TorchScript file"):
        load_model(folder, read_card(folder))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_glibc_takes_the_malloc_settings():
    assert keep_freed_memory()


def test_other_systems_are_left_alone(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not keep_freed_memory()


def test_warm_up_calls_every_size():
    calls = []
    warm_up(calls.append, [1, 4])
    assert calls == [1] * WARM_UP_CALLS + [4] * WARM_UP_CALLS


def test_a_model_that_fails_its_warm_up_is_refused():
    def fails(size):
        raise RuntimeError("shape mismatch")

    with pytest.raises(ModelError, match=r"batch of 2.*shape mismatch"):
        warm_up(fails, [2])
