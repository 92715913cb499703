"""What escapes from a step of the pipeline, in a sentence."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from optimize.errors import ModelError, OptimizeError, StorageError
from optimize.utils import blame, files

_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)


@contextmanager
def explained(step: str, advice: str = "") -> Iterator[None]:
    """Turn whatever escapes into a `ModelError`, but for errors that explain themselves.

    Args:
        step: what was done, for instance `stage prune`.
        advice: what to do about it; {layer} in it becomes the layer's name.

    Raises:
        StorageError: torch could not write a file.
        ModelError: says the step, the layer, the error's first line, the lines of the user's own
            files that it came through, and what to do.
    """
    try:
        yield
    except OptimizeError:
        raise
    except (
        Exception,
        SystemExit,
    ) as error:  # the model's code is the user's, and can raise anything
        lines = blame.user_lines(error)
        if isinstance(error, OSError) and (error.errno in _DISK or not lines):
            raise
        if isinstance(error, RuntimeError) and (full := files.environment(error)):
            raise StorageError(full) from error
        raise ModelError(_sentence(step, advice, error, lines)) from error


def _sentence(step: str, advice: str, error: BaseException, lines: str) -> str:
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        return f"{step}: memory ran out; free some, or take a smaller model or batch"
    layer = blame.layer(error)
    place = f" in layer {layer}" if layer else ""
    said = f"{step} failed{place}: {blame.first_line(error)}"
    advised = advice.format(layer=layer or "NAME")
    sentence = f"{said}; {advised}" if advised else said
    return "\n  ".join([sentence, *lines.splitlines()])
