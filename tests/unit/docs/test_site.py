"""The documentation as a site: every link and anchor leads somewhere, and nothing is fetched."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


def build(target: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """What `make docs` does, into another folder."""
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(target), *options],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("site")
    built = build(target)
    assert built.returncode == 0, built.stderr
    return target


def test_every_page_is_built(site: Path) -> None:
    pages = {path.stem for path in (ROOT / "docs").glob("*.md")}
    roots = {"index", "contributing", "security", "changelog"}
    assert pages | roots <= {path.stem for path in site.glob("*.html")}


def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    """Links may lead out; what a browser loads by itself may not."""
    loads = re.compile(r'<(?:script|img|iframe|source)\b[^>]*\bsrc="([^"]+)"', re.S)
    linked = re.compile(r'<link\b[^>]*\brel="(?!canonical)[^"]*"[^>]*\bhref="([^"]+)"', re.S)
    found = set()
    for path in site.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        found |= set(loads.findall(text)) | set(linked.findall(text))
    assert found, "the patterns find nothing"
    assert not {address for address in found if re.match(r"(?:https?:)?//", address)}
    styles = "".join(path.read_text(encoding="utf-8") for path in site.rglob("*.css"))
    assert not re.findall(r"(?:url\(|@import)\s*['\"]?(?:https?:)?//", styles)


def test_the_reference_is_made_from_the_sources(site: Path) -> None:
    options = (site / "reference" / "options.html").read_text(encoding="utf-8")
    assert "largest loss of the final model against the original" in options
    assert 'id="quantize-of-image_classification"' in options
    assert "mirror half of the images left to right" in options  # of a class inherited from
    commands = (site / "reference" / "commands.html").read_text(encoding="utf-8")
    assert "keep finished stages" in commands and "seal artifacts/NAME" in commands
    python = (site / "reference" / "python.html").read_text(encoding="utf-8")
    assert "Remove channels; returns a new module" in python


def test_every_option_is_described(site: Path) -> None:
    """The last cell of a row is its meaning, from the docstring."""
    text = (site / "reference" / "options.html").read_text(encoding="utf-8")
    rows = re.findall(
        r"<tr>\s*<td>(.*?)</td>.*?<td>([^<]*(?:<(?!td).*?)?)</td>\s*</tr>", text, re.S
    )
    bare = [re.sub(r"<.*?>", "", name) for name, meaning in rows if not meaning.strip()]
    assert len(rows) > 100
    assert bare == []


def test_a_broken_link_and_a_broken_anchor_fail(tmp_path: Path) -> None:
    settings = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    pages = tmp_path / "docs"
    pages.mkdir()
    changed = re.sub(r"(?ms)^nav:.*", "", settings)
    changed = re.sub(r"(?m)^hooks:.*$", "", changed)
    (tmp_path / "mkdocs.yml").write_text(changed, encoding="utf-8")
    (pages / "index.md").write_text("# One\n\n[a](two.md) [b](#three)\n", encoding="utf-8")
    built = build(tmp_path / "site", "-f", str(tmp_path / "mkdocs.yml"))
    assert built.returncode == 1
    assert "two.md" in built.stderr and "#three" in built.stderr
