"""docs/tutorial.md, followed word for word: its files written, its commands run."""

import json
import re
import shutil

import pytest

from tests.integration import steps
from tests.integration.torchserve import ROOT


@pytest.mark.skipif(shutil.which("curl") is None, reason="the page's requests need curl")
def test_a_stranger_gets_from_a_checkpoint_to_an_answer() -> None:
    page = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
    commands = re.findall(r"```sh\n(.*?)```", page, re.S)
    with steps.repository() as place:
        (place / "mine").mkdir()
        for name, content in re.findall(r"```\w+ title=\"(\S+)\"\n(.*?)```", page, re.S):
            (place / name).write_text(content)
        printed = steps.run(place, commands, "digits")
        report = json.loads((place / "artifacts" / "digits" / "report.json").read_text())
    assert "gate     passed" in printed[2]
    assert "up to date" in printed[3]
    assert report["original"]["accuracy"] > 0.95, "the page's network did not learn"
    assert report["from_files"]["kind"] == "files" and report["from_files"]["drop"] == 0
    assert '"label":"0"' in re.sub(r"\s", "", printed[6])
