"""The README's picture of a report's page: `python -m benchmarks.page_picture [REPORT.html]`.

Needs Debian's chromium and the packages of requirements-dev.txt.
"""

import io
import shutil
import sys
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "docs" / "images" / "report.png"
WIDTH, EDGE, COLORS = 900, 16, 64


def take(page: Path, picture: Path) -> None:
    """Write what a browser shows of a report from its top to its tiles, as a PNG of few colours."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        try:
            shown = browser.new_page(viewport={"width": WIDTH, "height": 1200})
            shown.goto(page.resolve().as_uri())
            tiles = shown.locator(".tiles").bounding_box()
            if tiles is None:
                raise ValueError(f"{page} has no tiles: is it a report?")
            height = round(tiles["y"] + tiles["height"]) + EDGE
            clip = {"x": 0, "y": 0, "width": WIDTH, "height": height}
            taken = shown.screenshot(clip=clip)
        finally:
            browser.close()
    with Image.open(io.BytesIO(taken)) as image:
        few = image.convert("RGB").quantize(COLORS, dither=Image.Dither.NONE)
        few.save(picture, optimize=True)


if __name__ == "__main__":
    take(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "artifacts/photos/report.html", PICTURE)
