"""The check itself: what it lets through and what it refuses, and why."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optimize.errors import ExportRefused
from optimize.evaluation.metrics import ACCURACY
from optimize.export import check
from optimize.export.formats.interface import FLOAT32, INT8
from optimize.export.runner import Runner
from optimize.export.subject import Exportable, Subject
from optimize.tasks.speech import WORD_ERROR_RATE
from optimize.utils import pickles


def test_the_error_is_in_units_of_the_usual_answer() -> None:
    answers = torch.tensor([[3.0, 4.0], [0.0, 5.0], [0.03, 0.04]])
    usual = check.usual_norm([answers[:2], answers[2:]])
    assert usual == pytest.approx((50.0025 / 3) ** 0.5)
    assert check.worst_row(answers, answers, usual) == 0
    # The same difference weighs as much in an answer near zero.
    for row in range(3):
        found = answers.clone()
        found[row, 0] += 0.5
        assert check.worst_row(found, answers, usual) == pytest.approx(0.5 / usual)
    found[0, 1] = float("nan")
    assert check.worst_row(found, answers, usual) == float("inf")


def test_one_wrong_row_does_not_hide_among_good_ones() -> None:
    wanted = torch.ones(100, 4)
    found = wanted.clone()
    found[7] *= 1.5
    assert check.worst_row(found, wanted, check.usual_norm([wanted])) == pytest.approx(0.5)


def test_the_module_itself_passes_at_every_size(sentences: Subject) -> None:
    errors = check.parity(sentences, sentences, FLOAT32)
    assert set(errors.values()) == {0.0}
    assert {"batch 2, tokens 20", "batch 1, tokens 9", "batch 3, tokens 24"} <= set(errors)


def test_pieces_hold_padded_rows_and_other_batches(
    pictures: Exportable, sentences: Subject
) -> None:
    assert {len(piece[0]) for piece in pictures.subjects[0].pieces} == {1, 2, 3, 8}
    padded = [bool((piece[0] == 0).any()) for piece in sentences.pieces]
    assert padded.count(True) == 3


def test_a_mask_that_is_ignored_is_refused_at_the_padded_row(sentences: Subject) -> None:
    def unmasked(ids: Tensor) -> list[Tensor]:
        return sentences(torch.where(ids == 0, 1, ids))

    with pytest.raises(ExportRefused, match=r"at batch 2, tokens 20: logits differs .* by"):
        check.parity(sentences, unmasked, FLOAT32)


def test_what_is_added_to_a_whole_row_of_scores_is_no_error(sentences: Subject) -> None:
    def shifted(ids: Tensor) -> list[Tensor]:
        return [sentences(ids)[0] + 100 * torch.arange(1.0, len(ids) + 1)[:, None]]

    def stretched(ids: Tensor) -> list[Tensor]:
        return [sentences(ids)[0] * 1.01]

    scores = replace(sentences, scores=("logits",))
    assert max(check.parity(scores, shifted, FLOAT32).values()) < 1e-3
    with pytest.raises(ExportRefused, match="logits differs"):
        check.parity(scores, stretched, FLOAT32)
    with pytest.raises(ExportRefused, match="logits differs"):
        check.parity(sentences, shifted, FLOAT32)


def test_other_shapes_and_numbers_of_outputs_are_refused(sentences: Subject) -> None:
    def short(ids: Tensor) -> list[Tensor]:
        return [sentences(ids)[0][:, :2]]

    def twice(ids: Tensor) -> list[Tensor]:
        return sentences(ids) * 2

    with pytest.raises(ExportRefused, match=r"has shape \[2, 2\], the module's \[2, 3\]"):
        check.parity(sentences, short, FLOAT32)
    with pytest.raises(ExportRefused, match="2 outputs, the module has 1"):
        check.parity(sentences, twice, FLOAT32)


def _metrics(**changed: Any) -> dict[str, Any]:
    return {
        "accuracy": 0.9,
        "samples": 500,
        "agreement": 1.0,
        "agreement_samples": 500,
        **changed,
    }


def test_lost_accuracy_and_disagreement_are_refused() -> None:
    check.quality(_metrics(accuracy=0.892), _metrics(), ACCURACY, INT8)
    with pytest.raises(ExportRefused, match=r"accuracy 0.8800, the module's is 0.9000"):
        check.quality(_metrics(accuracy=0.88), _metrics(), ACCURACY, INT8)
    with pytest.raises(ExportRefused, match=r"agrees with the module on 0.700 of 500"):
        check.quality(_metrics(agreement=0.7), _metrics(), ACCURACY, INT8)


def test_a_higher_word_error_rate_is_a_loss() -> None:
    before = {**_metrics(), "wer": 0.05}
    after = {**_metrics(), "wer": 0.08}
    del before["accuracy"], after["accuracy"]
    with pytest.raises(ExportRefused, match=r"wer 0.0800"):
        check.quality(after, before, WORD_ERROR_RATE, INT8)
    check.quality(before, after, WORD_ERROR_RATE, INT8)


def test_accuracy_is_of_the_run_that_is_given(pictures: Exportable) -> None:
    subject = pictures.subjects[0]
    truth = pictures.evaluate({"model": subject})
    assert truth["samples"] == 500
    assert truth["accuracy"] > 0.5
    assert truth["agreement"] == 1

    def shifted(pixels: Tensor) -> list[Tensor]:
        return [subject(pixels)[0].roll(1, dims=1)]

    wrong = pictures.evaluate({"model": shifted})
    assert wrong["accuracy"] < 0.2
    assert wrong["agreement"] == 0


def test_latency_ratios_are_of_files_in_processes_by_turns(
    pictures: Exportable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No time is asserted but that sixty times the arithmetic is no faster."""

    class Slow(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = pictures.subjects[0].module

        def forward(self, pixels: Tensor) -> Tensor:
            for _ in range(60):
                answer = self.model(pixels)
            return answer

    monkeypatch.setattr(check, "ROUNDS", 2)
    subject = pictures.subjects[0]
    pickles.save(subject.module, tmp_path / "fast.pt")
    pickles.save(Slow(), tmp_path / "slow.pt")
    with (
        Runner("eager", tmp_path / "fast.pt") as fast,
        Runner("eager", tmp_path / "slow.pt") as slow,
    ):
        others = {"slow": {subject.name: slow}}
        ratios = check.latency_ratios(pictures, {subject.name: fast}, others)
    assert set(ratios) == {"slow"} and set(ratios["slow"]) == {"batch 1", "batch 8"}
    assert all(0 < ratio < 1 for ratio in ratios["slow"].values())
