"""The table that adopt prints: at most 80 columns, long cells over several lines."""

import textwrap
from collections.abc import Sequence

WIDTH = 80


def text(rows: Sequence[tuple[str, str, str]], heads: tuple[str, str, str]) -> str:
    """Three columns; the first and last as wide as they need, the middle one wraps."""
    first = min(26, max(len(heads[0]), *(len(row[0]) for row in rows)))
    last = max(len(heads[2]), *(len(row[2]) for row in rows))
    middle = WIDTH - first - last - 4
    lines = [f"{heads[0]:<{first}}  {heads[1]:<{middle}}  {heads[2]}".rstrip()]
    lines.append(f"{'-' * first}  {'-' * middle}  {'-' * last}")
    for name, what, verdict in rows:
        left = textwrap.wrap(name, first) or [""]
        right = textwrap.wrap(what, middle, break_on_hyphens=False) or [""]
        for index in range(max(len(left), len(right))):
            a = left[index] if index < len(left) else ""
            b = right[index] if index < len(right) else ""
            c = verdict if index == 0 else ""
            lines.append(f"{a:<{first}}  {b:<{middle}}  {c}".rstrip())
    return "\n".join(lines)
