"""What commands print: lines that no terminal has to wrap, and JSON with nothing beside it.

There are no colours, so `NO_COLOR` has nothing to switch off.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from handlers.lines import folded, note, say

__all__ = ["folded", "json_alone", "note", "say"]


@contextmanager
def json_alone() -> Iterator[Callable[[Any], None]]:
    """Gives what prints one value as JSON; all else that is written to standard output meanwhile,
    by other packages and child processes too, goes to standard error."""
    sys.stdout.flush()
    kept, stdout = os.dup(1), sys.stdout
    found: list[Any] = []
    try:
        os.dup2(2, 1)
        sys.stdout = sys.stderr
        yield found.append
    finally:
        sys.stderr.flush()
        sys.stdout = stdout
        os.dup2(kept, 1)
        os.close(kept)
        for value in found:
            print(json.dumps(value, indent=2), flush=True)
