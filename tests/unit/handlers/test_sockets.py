"""Unix sockets have paths of 107 bytes at most, and TMPDIR may be longer than that."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

LISTEN = """\
from multiprocessing.connection import Listener
from multiprocessing.util import get_temp_dir
from handlers import sockets

sockets.shorten()
with Listener(family="AF_UNIX") as listener:
    print(listener.address)
print(get_temp_dir())
"""


def listen(temp: Path, root: Path) -> list[str]:
    ran = subprocess.run(
        [sys.executable, "-c", LISTEN],
        cwd=root,
        env={**os.environ, "TMPDIR": str(temp)},
        capture_output=True,
        text=True,
        check=True,
    )
    return ran.stdout.splitlines()


def test_sockets_lie_in_tmp_where_tmpdir_is_too_long(tmp_path: Path, root: Path) -> None:
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    address, folder = listen(deep, root)
    assert address.startswith("/tmp/pymp-")
    assert not Path(folder).exists()  # it went with the process
    assert not list(deep.iterdir())


def test_a_short_tmpdir_is_used(root: Path) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="m") as short:
        address, _ = listen(Path(short), root)
        assert address.startswith(f"{short}/pymp-")
