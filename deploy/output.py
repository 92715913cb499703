"""What verbs print: lines that no terminal has to wrap, or one JSON value.

There are no colours, so `NO_COLOR` has nothing to switch off.
"""

import argparse
import json
import re
import shutil
import sys
import textwrap
from typing import Any

_WHOLE = 1_000_000


def folded(line: str) -> str:
    """A line at most as wide as the terminal, or as `COLUMNS` says; broken at words.

    In a file or a pipe it stays whole, for programs that look for it. What follows is indented
    under the text of a row such as `model    fashion version 1`.
    """
    width = shutil.get_terminal_size((_WHOLE, 24)).columns
    label = re.match(r" *\S+ {2,}", line)
    text = line[len(label[0]) :] if label else line
    if len(line) <= width or " " not in text:  # a path is found again where it stays whole
        return line
    indent = len(label[0]) if label else len(line) - len(line.lstrip()) + 2
    return textwrap.fill(
        line,
        width,
        subsequent_indent=" " * min(indent, width // 2),
        break_long_words=False,
        break_on_hyphens=False,
    )


def say(line: str) -> None:
    """Print lines, folded."""
    print("\n".join(map(folded, line.split("\n"))), flush=True)


def note(line: str) -> None:
    """The same to standard error: errors, and progress beside JSON."""
    print("\n".join(map(folded, line.split("\n"))), file=sys.stderr, flush=True)


def add_json(parser: argparse.ArgumentParser) -> None:
    """The option that each verb with a table has."""
    parser.add_argument(
        "--json", action="store_true", help="print one JSON value; progress goes to standard error"
    )


def show(value: Any) -> None:
    """Print a value as JSON."""
    print(json.dumps(value, indent=2))
