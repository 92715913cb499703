"""Evidence and files belong together: what was swapped, edited or cut is not sealed."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from deploy.archive import layout, mar
from deploy.archive.verify import verify
from deploy.errors import GateFailed, NotAsReported
from handlers import binding
from tests.integration import quadrant

EXPORT = "exports/onnx/model.onnx"
WORDS = "words.txt"


@pytest.fixture
def full(artifact: Path) -> Path:
    """An artifact with an export and a file of its card's."""
    (artifact / WORDS).write_text("one two")
    (artifact / EXPORT).parent.mkdir(parents=True)
    (artifact / EXPORT).write_bytes(b"a network")
    edit(artifact / "model.json", lambda card: card.update(files=[WORDS]))
    report = quadrant.report()
    entry = {"file": EXPORT, "agreement": 0.99, "served_drop": 0.0, "digest": "one"}
    digests = {EXPORT: quadrant.sha256(artifact / EXPORT)}
    exports = {"onnx": {**entry, "sha256": digests}}
    quadrant.write(artifact / "report.json", {**report, "digest": "one", "exports": exports})
    return artifact


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a JSON file, as an editor would."""
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def swap_model(path: Path) -> None:
    """Another file that TorchScript loads."""
    same = torch.jit.load(str(path))
    torch.jit.save(same, str(path), _extra_files={"note": "another run"})


def cut(path: Path) -> None:
    """All but the last byte."""
    path.write_bytes(path.read_bytes()[:-1])


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "model swapped": (lambda a: swap_model(a / "model.pt"), "model.pt is not the file"),
    "model cut": (lambda a: cut(a / "model.pt"), "model.pt is not the file"),
    "export swapped": (lambda a: (a / EXPORT).write_bytes(b"another"), f"{EXPORT} is not the"),
    "export cut": (lambda a: cut(a / EXPORT), f"{EXPORT} is not the file"),
    "file edited": (lambda a: (a / WORDS).write_text("one too"), f"{WORDS} is not the file"),
    "sample edited": (lambda a: (a / "samples/0.png").write_bytes(b""), "samples/0.png is not"),
    "answer edited": (
        lambda a: edit(a / "samples/labels.json", lambda v: v.update({"0.png": "top left"})),
        "samples/labels.json is not",
    ),
    "sample gone": (lambda a: (a / "samples/0.png").unlink(), "samples/0.png is missing"),
    "labels swapped": (
        lambda a: edit(a / "model.json", lambda card: card["labels"].reverse()),
        "model.json says other things",
    ),
    "other input": (
        lambda a: edit(a / "model.json", lambda card: card["input"].update(resize=32)),
        "model.json says other things",
    ),
    "another file": (
        lambda a: edit(a / "model.json", lambda card: card["model"].update(file=WORDS)),
        "model.json says other things",
    ),
    "a better score": (
        lambda a: edit(a / "report.json", lambda r: r["final"].update(accuracy=1.0)),
        "report.json was edited",
    ),
    "a wider budget": (
        lambda a: edit(a / "report.json", lambda r: r["gate"].update(max_drop=0.5)),
        "report.json was edited",
    ),
    "no own digest": (
        lambda a: edit(a / "report.json", lambda r: r.pop(binding.OWN)),
        "report.json was edited",
    ),
    "no digests": (
        lambda a: edit(a / "report.json", lambda r: [r.pop(key) for key in binding.BINDS[:3]]),
        "report.json was edited",
    ),
    "fewer files": (
        lambda a: edit(a / "report.json", lambda r: r["files"].pop("model.pt")),
        "report.json was edited",
    ),
    "a file that was not measured": (
        lambda a: (
            quadrant.write(a / "report.json", {**quadrant.report(), "exports": {"onnx": export()}})
            or (a / "exports/onnx/more.bin").write_bytes(b"more")
        ),
        "exports/onnx/more.bin is not named",
    ),
}


def export() -> dict[str, Any]:
    return {"file": EXPORT, "agreement": 0.99, "served_drop": 0.0}


@pytest.mark.parametrize("change", CHANGES)
def test_an_artifact_that_its_report_is_not_of_is_not_sealed(
    full: Path, tmp_path: Path, change: str
) -> None:
    good = mar.seal(full, tmp_path / "store", engines=("onnx",))
    make, reason = CHANGES[change]
    make(full)
    for force in (False, True):
        with pytest.raises(NotAsReported, match=reason) as caught:
            mar.seal(full, tmp_path / "store", force=force, engines=("onnx",))
        assert caught.value.exit_code == 6
    assert verify(good.path) == good, "what was sealed before is still there"


def test_what_whoever_serves_may_set_is_no_change(full: Path, tmp_path: Path) -> None:
    def operate(card: dict[str, Any]) -> None:
        card["serving"].update(workers=2, batch_size=4)
        card["model"].update(threads=2, batch_sizes=[1, 4])
        card["input"].update(max_pixels=1_000_000, max_request_pixels=2_000_000)

    edit(full / "model.json", operate)
    assert verify(mar.seal(full, tmp_path).path).name == "quadrant"


def test_an_export_may_be_deleted_until_it_is_asked_for(full: Path, tmp_path: Path) -> None:
    (full / EXPORT).unlink()
    assert mar.seal(full, tmp_path).name == "quadrant"


def test_a_report_by_hand_takes_force(full: Path, tmp_path: Path) -> None:
    (full / "report.json").write_text(json.dumps(quadrant.report()))
    with pytest.raises(GateFailed, match="written by hand"):
        mar.seal(full, tmp_path)
    assert verify(mar.seal(full, tmp_path, force=True).path).name == "quadrant"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("model.pt", "model.pt is not the file that its report"),
        (WORDS, f"{WORDS} is not the file that its report"),
        ("report.json", "report.json was edited"),
        ("model.json", "model.json says other things"),
        ("more.txt", "more.txt is not named by its report"),
    ],
)
def test_an_archive_whose_list_was_made_anew_is_found_by_its_report(
    full: Path, tmp_path: Path, name: str, reason: str
) -> None:
    good = mar.seal(full, tmp_path / "store").path
    with zipfile.ZipFile(good) as packed:
        entries = {entry: packed.read(entry) for entry in packed.namelist()}
    if name.endswith(".json"):
        entries[name] = entries[name].replace(b"accuracy", b"Accuracy").replace(b"left", b"Left")
    else:
        entries[name] = b"another"
    forged = tmp_path / "forged.mar"
    forged.write_bytes(layout.pack(entries))
    with pytest.raises(NotAsReported, match=reason):
        verify(forged)
