"""A folder whose path is short enough for the sockets of `multiprocessing`."""

import multiprocessing.util
import os
import shutil
import tempfile
from multiprocessing import process

_LONGEST = 107 - len("/listener-12345678")  # bytes of sun_path (unix(7)), less a socket's name


def shorten() -> None:
    """Have multiprocessing keep its sockets in /tmp where TMPDIR's path is too long for them.

    A worker of a `DataLoader` that cannot open a socket says so on standard error alone, and its
    parent waits for ever. Call this before the first process starts: the folder is kept.

    Raises:
        OSError: neither TMPDIR nor /tmp takes a folder.
    """
    held = getattr(process.current_process(), "_config")  # noqa: B009 - private, so not typed
    folder = held.get("tempdir") or tempfile.gettempdir() + "/pymp-12345678"
    if len(os.fsencode(folder)) <= _LONGEST:
        return
    short = tempfile.mkdtemp(prefix="pymp-", dir="/tmp")
    multiprocessing.util.Finalize(None, shutil.rmtree, args=(short, True), exitpriority=-100)
    held["tempdir"] = short
