import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from benchmarks.serve.guard import Guarded

# Leaves a grandchild whose parent has gone, as TorchServe's launcher does, and says its pid.
SCRIPT = """
import subprocess, sys, time
code = "import subprocess; print(subprocess.Popen(['sleep', '300']).pid, flush=True)"
subprocess.run([sys.executable, "-c", code], start_new_session=True)
time.sleep(300)
"""


def pid_in(log: Path) -> int:
    """The grandchild's process id, once it runs."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if log.is_file() and (text := log.read_text().strip()):
            return int(text)
        time.sleep(0.05)
    raise AssertionError("the command did not start")


def gone(pid: int) -> bool:
    """Whether the process ends within a minute."""
    try:
        psutil.Process(pid).wait(60)
    except psutil.NoSuchProcess:
        return True
    except psutil.TimeoutExpired:
        return False
    return True


def test_what_left_its_parents_ends_too(tmp_path: Path) -> None:
    log = tmp_path / "log"
    guarded = Guarded([sys.executable, "-c", SCRIPT], os.environ, log)
    pid = pid_in(log)
    assert guarded.alive() and guarded.resident() > 0 and "sleep" in guarded.cpu_seconds()
    guarded.close()
    assert gone(pid) and not guarded.alive()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs prctl")
def test_a_parent_that_is_killed_leaves_nothing(tmp_path: Path, root: Path) -> None:
    log = tmp_path / "log"
    code = (
        "import os, sys, time; from pathlib import Path;"
        "from benchmarks.serve.guard import Guarded;"
        f"g = Guarded([sys.executable, '-c', {SCRIPT!r}], os.environ, Path({str(log)!r}));"
        "time.sleep(300)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=root)
    pid = pid_in(log)
    parent.kill()
    parent.wait()
    assert gone(pid)
