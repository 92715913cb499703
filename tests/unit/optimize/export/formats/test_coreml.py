"""Core ML: masks compiled wrongly, float16 that overflows."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from optimize.errors import ExportRefused
from optimize.export import check
from optimize.export.formats.interface import FLOAT16, FLOAT32
from optimize.export.runner import Runner
from optimize.export.subject import Axis, Subject

Needs = Callable[[str], None]
Converted = Callable[..., Path]


class Padded(nn.Module):
    """PyTorch's own encoder with a padding mask."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(32, 2, 64, dropout=0.0, batch_first=True)
        self.embed = nn.Embedding(60, 32)
        self.body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(32, 3)

    def forward(self, ids: Tensor) -> Tensor:
        hidden = self.body(self.embed(ids), src_key_padding_mask=ids == 0)
        real = (ids != 0).float().unsqueeze(2)
        logits: Tensor = self.head((hidden * real).sum(1) / real.sum(1))
        return logits


@pytest.mark.filterwarnings("ignore")
def test_a_mask_that_core_ml_compiles_wrongly_is_refused(
    needs: Needs, sentences: Subject, converted: Converted, tmp_path: Path
) -> None:
    """The route from an exported program ends well, and gets the padded row wrong."""
    needs("coreml")
    from optimize.export.formats import coreml

    torch.manual_seed(0)
    subject = Subject(
        **{
            **vars(sentences),
            "module": Padded().eval().requires_grad_(False),
            "pieces": sentences.pieces[:1],
            "axes": {},
            "dynamic": ({},),
        }
    )
    path = tmp_path / "wrong.mlpackage"
    with coreml._quiet():
        import coremltools as ct

        program = torch.export.export(subject.module, subject.pieces[0])
        ct.convert(
            program.run_decompositions({}),
            compute_precision=ct.precision.FLOAT32,
            minimum_deployment_target=ct.target.iOS17,
            skip_model_load=True,
        ).save(str(path))
    with (
        Runner("coreml", path) as run,
        pytest.raises(ExportRefused, match="at one size: logits differs"),
    ):
        check.parity(subject, run, FLOAT32)
    with Runner("coreml", converted("coreml", subject)) as run:
        check.parity(subject, run, FLOAT32)


class Loud(nn.Module):
    """Intermediate values past float16's 65,504, answers of ordinary size."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.second(torch.relu(self.first(x) * 3e5) / 3e5)
        return logits


def test_float16_that_overflows_is_refused_and_float32_is_not(
    needs: Needs, converted: Converted
) -> None:
    needs("coreml")
    torch.manual_seed(0)
    pieces = [(torch.randn(n, 8),) for n in (2, 1, 5)]
    subject = Subject(
        "model",
        Loud().eval().requires_grad_(False),
        ("x",),
        ("y",),
        pieces,
        [],
        {"batch": Axis()},
        ({0: "batch"},),
        ({0: "batch"},),
    )
    with Runner("coreml", converted("coreml", subject)) as run:
        check.parity(subject, run, FLOAT32)
    with (
        Runner("coreml", converted("coreml", subject, "float16")) as run,
        pytest.raises(ExportRefused, match="y differs from the module by inf"),
    ):
        check.parity(subject, run, FLOAT16)
