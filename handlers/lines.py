"""Lines of text as commands print them: no terminal has to wrap them."""

import re
import shutil
import sys
import textwrap

_WHOLE = 1_000_000


def folded(line: str) -> str:
    """A line at most as wide as the terminal, or as `COLUMNS` says; broken at words.

    In a file or a pipe it stays whole, for programs that look for it. What follows is indented
    under the text of a row such as `gate     passed: ...`.
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
    """Print a line, folded, at once."""
    print("\n".join(map(folded, line.split("\n"))), flush=True)


def note(line: str) -> None:
    """The same to standard error, for progress beside JSON."""
    print("\n".join(map(folded, line.split("\n"))), file=sys.stderr, flush=True)
