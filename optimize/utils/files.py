"""Atomic file writes: write to a temporary path beside the target, then rename."""

import errno
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from optimize.errors import StorageError

logger = logging.getLogger(__name__)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, renamed to `path` when the block succeeds.

    Works for files and folders. On failure the temporary path is removed and `path` is unchanged.

    Raises:
        StorageError: the disk is full or the folder cannot be written to.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield aside
        if aside.is_dir() and path.exists():
            shutil.rmtree(path)
        aside.replace(path)
        logger.debug("wrote %s", path)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise StorageError(f"no space left to write {path}; free some and run again") from error
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            raise StorageError(
                f"cannot write {path}: {error.strerror}; choose another --output"
            ) from error
        raise
    finally:
        if aside.is_dir():
            shutil.rmtree(aside, ignore_errors=True)
        elif aside.exists():
            aside.unlink()


def write(path: Path, save: Callable[[Path], Any]) -> None:
    """Call `save` with a temporary path, then rename it to `path`."""
    with replacing(path) as aside:
        save(aside)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON with a final newline; NaN raises ValueError."""
    text = json.dumps(value, indent=2, allow_nan=False) + "\n"
    write(path, lambda aside: aside.write_text(text, encoding="utf-8"))
