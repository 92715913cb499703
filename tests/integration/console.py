"""The console as a process of its own, and a browser that its link lets in."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.torchserve import ROOT

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
# A microphone that beeps, and nobody asked whether it may be used.
MICROPHONE = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]


@contextlib.contextmanager
def console(
    workdir: Path, config: Path, *options: str, **environment: str
) -> Iterator[tuple[str, subprocess.Popen]]:
    """`python -m deploy console` and its link; it must end with 0 at SIGTERM."""
    command = [sys.executable, "-m", "deploy", "console", *options, "--workdir", str(workdir)]
    command += ["--config", str(config), "--model-store", str(workdir / "model_store")]
    variables = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    process = subprocess.Popen(
        command, cwd=workdir, env=variables, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        yield next_link(process), process
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        process.stdout.close()


def next_link(process: subprocess.Popen) -> str:
    """The next link that a console prints."""
    assert process.stdout is not None
    for line in process.stdout:
        if found := re.search(r"http://\S+/enter/\S+", line):
            return found[0]
    pytest.fail("the console ended without a link")


@contextlib.contextmanager
def browser() -> Iterator[Any]:
    """Headless Chromium; skips the test where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: make setup")
    if not Path(CHROMIUM).is_file():
        pytest.skip("needs Debian's chromium: apt-get install chromium")
    root = ["--no-sandbox"] if os.geteuid() == 0 else []
    with playwright.sync_playwright() as found:
        started = found.chromium.launch(executable_path=CHROMIUM, args=[*root, *MICROPHONE])
        yield started
        started.close()


def violations(page: Any) -> list[str]:
    """What axe-core finds on a page as it is now."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    found = axe.Axe().run(page).response["violations"]
    return [f"{one['id']}: {node['html']}" for one in found for node in one["nodes"]]


def choose(page: Any, which: str, name: str, version: str) -> None:
    """Choose a version in one of the two lists."""
    option = page.locator(f"#{which} option[data-model='{name}'][data-version='{version}']")
    page.select_option(f"#{which}", label=option.text_content())


def ask(page: Any, status: str = "Answered below.") -> Any:
    """Send what was chosen and typed; the answers' part of the page."""
    page.click("#send")
    page.locator("#said", has_text=status).wait_for()
    page.locator("#send:enabled").wait_for()
    return page.locator("#answers")
