"""What each kind of data shows of the samples on which two models differ."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from optimize.data.speech import Utterance
from optimize.data.tensors import Rows, TensorData
from optimize.evaluation import calibration
from optimize.evaluation.judges import JUDGES
from optimize.tasks import examples
from optimize.tasks.tensors_data import Answers, Problem


def problem(judge: str, target: torch.Tensor, labels: list[str] | None = None) -> Problem:
    rows = Rows((torch.arange(6.0).reshape(3, 2), torch.tensor([7, 8, 9])), (target,))
    data = TensorData("d", "s", ("x", "age"), ("y",), {"test": rows}, labels=labels or [])
    found = Problem(data, JUDGES[judge]())
    found.built.outputs = ("y",)
    return found


def test_numbers_differ_by_how_far_they_went() -> None:
    of = problem("regression", torch.tensor([1.0, 2.0, 3.0]))
    before = Answers((torch.tensor([0.0, 2.0, 1.0]),), of)
    after = Answers((torch.tensor([0.0, 2.5, 3.0]),), of)
    assert before.classes() is None
    found = examples.of_rows(before, after, 8)
    assert [one.content for one in found] == ["x = [4, 5], age = 9", "x = [2, 3], age = 8"]
    assert (found[0].right, found[0].original, found[0].final) == ("3", "1", "3")
    assert found[0].change == "2.45 standard deviations apart"  # of 0, 1 and 2: 0.816


def test_one_logit_is_that_of_the_second_class() -> None:
    of = problem("classification", torch.tensor([0, 1, 1]), ["no", "yes"])
    logit = torch.tensor([0.9]).logit()
    before = Answers((torch.cat([-logit, logit, logit])[:, None],), of)
    after = Answers((torch.cat([-logit, logit, -logit])[:, None],), of)
    (one,) = examples.of_rows(before, after, 8)
    assert (one.right, one.original, one.final) == ("yes", "yes 90%", "no 90%")
    found = after.classes()
    assert found is not None
    sure, right = calibration.confidence(*found)
    assert sure.tolist() == pytest.approx([0.9] * 3) and right.tolist() == [True, True, False]


def test_several_labels_are_shown_by_the_one_that_moved_most() -> None:
    of = problem("multi_label", torch.tensor([[1.0, 0.0], [0.0, 0.0], [1.0, 1.0]]), ["a", "b"])
    before = torch.tensor([[2.0, -2.0], [-2.0, -2.0], [2.0, 2.0]])
    after = before.clone()
    after[1, 1] = 2.0
    (one,) = examples.of_rows(Answers((before,), of), Answers((after,), of), 8)
    assert (one.right, one.original, one.final) == ("no label", "no label", "b")


def test_recordings_are_those_whose_transcripts_differ(tmp_path: Path) -> None:
    recordings = []
    for number in range(3):
        path = tmp_path / f"{number}.wav"
        soundfile.write(path, np.full(16000, 0.25 * number), 16000)
        recordings.append(Utterance(path.name, f"text {number}", path, "own"))
    before = ["One two.", "one two three", "one two three"]
    after = ["one two", "one two tree", "four"]
    found = examples.of_recordings(before, after, recordings, 8)
    assert [one.right for one in found] == ["text 2", "text 1"]
    assert found[0].change == "3 words differ between the two transcripts"
    assert found[1].change == "1 word differs between the two transcripts"
    assert found[0].kind == "recording" and set(found[0].content) == {100}
    assert len(examples.of_recordings(before, after, recordings, 1)) == 1
