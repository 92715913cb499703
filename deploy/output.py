"""What verbs print: lines that no terminal has to wrap, or one JSON value.

There are no colours, so `NO_COLOR` has nothing to switch off.
"""

import argparse
import json
from typing import Any

from handlers.lines import folded, note, say

__all__ = ["add_json", "folded", "note", "say", "show"]


def add_json(parser: argparse.ArgumentParser) -> None:
    """The option that each verb with a table has."""
    parser.add_argument(
        "--json", action="store_true", help="print one JSON value; progress goes to standard error"
    )


def show(value: Any) -> None:
    """Print a value as JSON."""
    print(json.dumps(value, indent=2))
