"""An artifact with the whole report of a run, so that its archive states its evidence."""

from pathlib import Path
from typing import Any

from tests.integration import quadrant
from tests.unit.optimize.report import reports


def make(folder: Path, **changes: Any) -> Path:
    """Write the quadrant artifact with such a report; `changes` replace its entries."""
    artifact = quadrant.make(folder)
    quadrant.write(artifact / "report.json", reports.report(**changes))
    return artifact
