"""An export keeps out of a folder in which a run is at work."""

from pathlib import Path

import pytest

from optimize.errors import FolderBusy
from optimize.export import command
from optimize.pipeline import lock
from optimize.utils import files


def test_an_export_waits_for_no_run(tmp_path: Path) -> None:
    files.write_json(tmp_path / "report.json", {"recipe": "sample"})
    with lock.held(tmp_path), pytest.raises(FolderBusy, match="is in use by process"):
        command.run(tmp_path, [], say=lambda line: None)
