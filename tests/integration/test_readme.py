"""The README's step-by-step commands, run word for word in a copy of the repository.

Only the ports differ, and the recipe's size: the copy's fashion.yaml trains on a slice.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import yaml

from tests.integration.torchserve import ROOT, workplace

PORTS = {"8080": "inference_address", "8081": "management_address", "8082": "metrics_address"}
WAIT = """
for _ in $(seq 150); do
  curl -sf -H "Authorization: Bearer $(python -m deploy token 2>/dev/null)" \
    http://127.0.0.1:8080/ping 2>/dev/null | grep -q Healthy && break; sleep 0.2
done
for _ in $(seq 150); do
  python -m deploy describe fashion 2>/dev/null | grep -q READY && break; sleep 0.2
done
"""


def blocks() -> list[str]:
    """The shell blocks of the section that is to be followed by hand."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = text.split("## Step by step", 1)[1].split("\n## ", 1)[0]
    return re.findall(r"```sh\n(.*?)```", section, re.S)


@pytest.fixture(scope="module")
def copy() -> Iterator[Path]:
    """The files git would give a newcomer, an environment, free ports and a smaller recipe."""
    with workplace() as place:
        config = (place / "config.properties").read_text()
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            capture_output=True,
            check=True,
        )
        for name in listed.stdout.decode().split("\0"):
            if name and (ROOT / name).is_file():
                (place / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, place / name)
        (place / "config.properties").write_text(config)
        (place / ".venv").symlink_to(sys.prefix)
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
    settings = dict(
        line.split("=", 1)
        for line in (copy / "config.properties").read_text().splitlines()
        if "=" in line and not line.startswith("#")
    )
    script = []
    for block in blocks():
        script.append(block)
        if "torchserve --start" in block:
            script.append(WAIT)
    text = "set -e\n" + "\necho; echo ---\n".join(script)
    for port, key in PORTS.items():
        text = text.replace(f"127.0.0.1:{port}", settings[key].removeprefix("http://"))
    temp = copy / "tmp"
    temp.mkdir()
    environment = {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": str(copy),
        "TMPDIR": str(temp),
        "TEMP": str(temp),
        "OMP_NUM_THREADS": "1",
    }
    with (copy / "console.log").open("wb") as console:
        shell = subprocess.Popen(
            ["bash", "-c", text],
            cwd=copy,
            env=environment,
            stdout=console,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            returned = shell.wait(timeout=600)
        except subprocess.TimeoutExpired:
            said = (copy / "console.log").read_text(errors="replace")
            pytest.fail(f"hangs after: {said[-3000:]}")
        finally:
            _end(shell.pid)
    output = (copy / "console.log").read_text(errors="replace")
    assert returned == 0, output[-3000:]
    asked = output.split("\n---\n")[5]
    assert asked.count('"predictions"') == 3
    assert len(re.findall(r'"label"', asked)) == 11  # ten classes cut to five, five, and one
    managed = output.split("\n---\n")[-1]
    assert 'Model \\"fashion\\" unregistered' in managed or "unregistered" in managed
    assert "registered with 2 initial workers" in managed
    assert '"report"' in managed and '"labels"' in managed
    assert "marpress_" in managed
    assert "TorchServe has stopped" in managed


def _end(group: int) -> None:
    """End what the script left behind: the processes of its group, a server among them."""
    left = [p for p in psutil.process_iter() if _group(p) == group]
    for process in left:
        process.terminate()
    for survivor in psutil.wait_procs(left, timeout=20)[1]:
        survivor.kill()


def _group(process: psutil.Process) -> int | None:
    try:
        return os.getpgid(process.pid)
    except ProcessLookupError:
        return None
