"""The README's commands, then those of docs/by-hand.md, word for word in a copy of the repository.

Only the recipe is smaller: the copy's photos.yaml takes smaller and fewer pictures and races no
engines.
"""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.integration import steps
from tests.integration.torchserve import ROOT


def blocks(page: str) -> list[str]:
    """A page's shell blocks; make takes the environment as it is, and installs nothing."""
    found = re.findall(r"```sh\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.S)
    return [block.replace("make serve", "make -o .venv/.first serve") for block in found]


def output(page: str) -> str:
    """The first block of output that a page shows."""
    found = re.search(r"```text\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.S)
    assert found is not None
    return found[1]


def steps_of(text: str) -> list[str]:
    """The words that lines begin with: one for each step that a command tells."""
    return re.findall(r"^(\w+)  ", text, re.M)


@pytest.fixture(scope="module")
def copy() -> Iterator[Path]:
    with steps.repository() as place:
        path = place / "recipes" / "photos.yaml"
        recipe = yaml.safe_load(path.read_text())
        quantize = next(stage["quantize"] for stage in recipe["stages"] if "quantize" in stage)
        quantize |= {"calibration": 16, "engine": "onednn"}
        recipe["input"] = {"size": 128}
        recipe["serving"] |= {"engines": "none", "workers": 1}
        recipe["budget"] = {"max_drop": 0.99}
        path.write_text(yaml.safe_dump(recipe))
        yield place


@pytest.mark.skipif(shutil.which("curl") is None, reason="the pages' requests need curl")
def test_readme_and_steps_work_as_written(copy: Path) -> None:
    readme, by_hand = blocks("README.md"), blocks("docs/by-hand.md")
    printed = steps.run(copy, [*readme, "make stop\n", *by_hand], "photos")
    served, proof, answer = printed[0], printed[3], printed[4]
    assert re.search(r"[4-8] of 8 samples answered right", served)
    shown = set(steps_of(output("README.md"))) - {"engine"}  # the copy races none
    assert shown <= set(steps_of(served)), "the README shows what make serve does not print"
    assert {"archive", "answer", "accuracy"} <= shown
    assert "each as it was sealed" in proof
    assert "strawberry" in answer
    stopped, *by_hand_said = printed[len(readme) :]
    assert "TorchServe stopped" in stopped
    assert "up to date" in by_hand_said[1], "what make serve did is done again"
    asked, managed = by_hand_said[-2:]
    assert asked.count('"predictions"') == 3
    assert len(re.findall(r'"label"', asked)) == 11  # a thousand classes cut to five, five, and one
    assert "unregistered" in managed
    assert "registered with 1 initial workers" in managed
    assert '"report"' in managed and '"labels"' in managed
    assert "marpress_" in managed
    assert "TorchServe has stopped" in managed
