"""docs/evidence.md, its commands run word for word; only the package's installation is left out."""

import re
import shutil

import pytest

from tests.integration import steps
from tests.integration.torchserve import ROOT
from tests.unit.deploy.evidence import stated


@pytest.mark.skipif(shutil.which("unzip") is None, reason="the page's commands need unzip")
def test_a_third_party_can_verify_it_as_written() -> None:
    page = (ROOT / "docs" / "evidence.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```sh\n(.*?)```", page, re.S)
    assert "pip install" in blocks[0]
    blocks[0] = blocks[0].partition("\n")[2]
    with steps.repository() as place:
        stated.make(place / "artifacts")
        printed = steps.run(place, [one.replace("fashion", "quadrant") for one in blocks], "")
    assert "signed   by your key" in printed[0]
    assert "by release (key " in printed[1] and "holds: accuracy_drop <= 0.01" in printed[1]
    assert "Verification succeeded" in printed[2]
    assert "Verified OK" in printed[3]
