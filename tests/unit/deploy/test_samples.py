"""Which samples are put to a new version, and when its answers are too few right ones."""

from pathlib import Path
from typing import Any

import pytest

from deploy import samples
from deploy.errors import BadInput, Refused, Unproven
from tests.integration import quadrant

REPORT = {"metric": {"name": "accuracy"}, "final": {"accuracy": 0.9}}
WORDS = {"metric": {"name": "word_error_rate"}, "final": {"word_error_rate": 0.05}}


def folder_of(folder: Path, count: int) -> Path:
    for number in range(count):
        (folder / f"{number}.png").write_bytes(bytes([number]))
    quadrant.write(folder / "labels.json", {f"{number}.png": "cat" for number in range(count)})
    return folder


def label(text: str) -> dict[str, Any]:
    return {"predictions": [{"label": text, "probability": 1.0}]}


def test_all_files_are_samples_and_labelled_ones_come_first(tmp_path: Path) -> None:
    assert samples.read(tmp_path) == []
    (tmp_path / "a.png").touch()
    (tmp_path / "b.png").touch()
    assert [s.label for s in samples.read(tmp_path)] == [None, None]
    quadrant.write(tmp_path / "labels.json", {"b.png": "cat"})
    found = samples.read(tmp_path)
    assert [(s.path.name, s.label) for s in found] == [("b.png", "cat"), ("a.png", None)]
    for text in ("{", "[]"):
        (tmp_path / "labels.json").write_text(text)
        with pytest.raises(BadInput, match=r"labels\.json"):
            samples.read(tmp_path)


@pytest.mark.parametrize(("right", "passes"), [(8, True), (6, True), (4, False), (0, False)])
def test_as_many_are_right_as_the_report_leads_to_expect(
    tmp_path: Path, right: int, passes: bool
) -> None:
    found = samples.read(folder_of(tmp_path, 8))

    def predict(path: Path) -> Any:
        return label("cat" if path.read_bytes()[0] < right else "dog")

    if passes:
        assert sum(one.right is True for one in samples.ask(found, predict, REPORT)) == right
    else:
        with pytest.raises(Unproven, match=rf"{right} of 8 samples right .* 90.0%.*'dog'"):
            samples.ask(found, predict, REPORT)


def test_a_sample_that_is_refused_is_enough(tmp_path: Path) -> None:
    found = samples.read(folder_of(tmp_path, 3))

    def predict(path: Path) -> Any:
        if path.name == "2.png":
            raise Refused("TorchServe answered 500: boom", 500)
        return label("cat")

    with pytest.raises(Unproven, match=r"does not answer .*2\.png: .*boom"):
        samples.ask(found, predict, REPORT)


def test_transcripts_are_compared_by_their_words(tmp_path: Path) -> None:
    (tmp_path / "a.wav").touch()
    quadrant.write(tmp_path / "labels.json", {"a.wav": "Hello, world."})
    found = samples.read(tmp_path)
    (one,) = samples.ask(found, lambda path: {"text": "hello world"}, WORDS)
    assert one.right is True
    (other,) = samples.ask(found, lambda path: {"numbers": [1]}, WORDS)
    assert other.right is None


@pytest.mark.parametrize(
    ("metric", "final", "share"),
    [
        ({"name": "accuracy"}, {"accuracy": 0.8}, 0.8),
        ({"name": "macro_f1", "most": 1.0}, {"macro_f1": 0.6, "accuracy": 0.7}, 0.7),
        ({"name": "macro_f1", "most": 1.0}, {"macro_f1": 0.6}, 0.6),
        ({"name": "wer", "higher_is_better": False, "most": None}, {"wer": 0.1}, samples.CHOSEN),
        ({"name": "reward", "most": None}, {"reward": 0.1}, samples.CHOSEN),
        (None, None, samples.CHOSEN),
    ],
)
def test_the_share_that_a_report_leads_to_expect(metric: Any, final: Any, share: float) -> None:
    assert samples._expected({"metric": metric, "final": final}) == share


def test_the_chance_of_so_few() -> None:
    assert samples.chance(0, 1, 0.9925) == pytest.approx(0.0075)
    assert samples.chance(3, 3, 0.2) == pytest.approx(1)
    assert samples.chance(1, 2, 0.5) == pytest.approx(0.75)


def test_a_label_of_numbers_is_compared_as_numbers(tmp_path: Path) -> None:
    (tmp_path / "0.json").write_bytes(b"{}")
    quadrant.write(tmp_path / "labels.json", {"0.json": '{"price": [1.0, 2.0]}'})
    found = samples.read(tmp_path)
    (asked,) = samples.ask(found, lambda path: {"price": [1.001, 2.0]}, REPORT)
    assert asked.right is True
    for reply in ({"price": [1.5, 2.0]}, {"price": [1.0]}, {}):
        assert samples._right(reply, found[0].label) is False
