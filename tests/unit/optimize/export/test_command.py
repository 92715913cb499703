"""An export keeps out of a folder in which a run is at work, and of one that was edited."""

from pathlib import Path

import pytest

from optimize.errors import EvidenceError, FolderBusy
from optimize.export import command
from optimize.pipeline import lock
from optimize.report import report


def test_an_export_waits_for_no_run(tmp_path: Path) -> None:
    report.write(tmp_path, {"recipe": "sample"})
    with lock.held(tmp_path), pytest.raises(FolderBusy, match="is in use by process"):
        command.run(tmp_path, [], say=lambda line: None)


@pytest.mark.parametrize("text", ['{"recipe": "sample"}', '{"report_sha256": "0"}'])
def test_an_edited_report_is_not_written_anew(tmp_path: Path, text: str) -> None:
    """Or an export would give it a digest."""
    (tmp_path / "report.json").write_text(text)
    with pytest.raises(EvidenceError, match=r"report\.json .* run the recipe again"):
        command.run(tmp_path, [], say=lambda line: None)
    assert (tmp_path / "report.json").read_text() == text
