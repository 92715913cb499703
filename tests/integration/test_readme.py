"""The README's step-by-step commands, run word for word in a copy of the repository.

The recipe is smaller: the copy's fashion.yaml trains on a slice.
"""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.integration import steps
from tests.integration.torchserve import ROOT


def blocks() -> list[str]:
    """The shell blocks of the section that is to be followed by hand."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = text.split("## Step by step", 1)[1].split("\n## ", 1)[0]
    return re.findall(r"```sh\n(.*?)```", section, re.S)


@pytest.fixture(scope="module")
def copy() -> Iterator[Path]:
    with steps.repository() as place:
        path = place / "recipes" / "fashion.yaml"
        recipe = yaml.safe_load(path.read_text())
        recipe["data"]["fashion_mnist"] = {"limit": 1500, "validation": 300}
        recipe["stages"][0]["train"] = {"epochs": 1, "batch_size": 64}
        recipe["stages"][1]["distill"]["epochs"] = 2
        recipe["stages"][2]["prune"]["recover"]["epochs"] = 2
        recipe["controls"] = False
        recipe["budget"]["max_drop"] = 0.99
        path.write_text(yaml.safe_dump(recipe))
        yield place


@pytest.mark.skipif(shutil.which("curl") is None, reason="the README's requests need curl")
def test_the_steps_work_as_written(copy: Path) -> None:
    printed = steps.run(copy, blocks(), "fashion")
    asked, managed = printed[5], printed[-1]
    assert asked.count('"predictions"') == 3
    assert len(re.findall(r'"label"', asked)) == 11  # ten classes cut to five, five, and one
    assert 'Model \\"fashion\\" unregistered' in managed or "unregistered" in managed
    assert "registered with 2 initial workers" in managed
    assert '"report"' in managed and '"labels"' in managed
    assert "marpress_" in managed
    assert "TorchServe has stopped" in managed
