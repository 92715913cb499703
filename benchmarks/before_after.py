"""The README's picture: every recipe's file and latency, before and after compression."""

from html import escape
from typing import Any

from optimize.report.report import size

PICTURE = "docs/images/before-after.svg"
_WIDTH, _LEFT, _COLUMN, _GAP, _ROW, _TOP = 720, 130, 265, 40, 52, 64
_BEFORE, _AFTER, _INK, _FAINT = "#b8c0cc", "#1f7a5c", "#1d2733", "#5b6675"


def draw(entries: dict[str, dict[str, Any]]) -> str:
    """An SVG with two bars, before and after, for each recipe's file size and latency.

    Args:
        entries: `recipe_results.read()`; latencies are medians of batch 1 on one thread, in ms.
    """
    height = _TOP + _ROW * len(entries) + 14
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
        f'width="{_WIDTH}" height="{height}" font-family="system-ui, sans-serif" '
        'role="img" aria-labelledby="title">',
        '<title id="title">File size and latency before and after compression</title>',
        f'<rect width="{_WIDTH}" height="{height}" rx="8" fill="#fff"/>',
        _text(_LEFT, 26, "file", bold=True),
        _text(_LEFT + _COLUMN + _GAP, 26, "one answer, one thread", bold=True),
    ]
    for column in range(2):
        x = _LEFT + column * (_COLUMN + _GAP)
        for at, color, word in ((0, _BEFORE, "before"), (74, _AFTER, "after")):
            lines.append(f'<rect x="{x + at}" y="38" width="10" height="10" fill="{color}"/>')
            lines.append(_text(x + at + 15, 47, word, color=_FAINT, points=12))
    for number, (name, entry) in enumerate(entries.items()):
        y = _TOP + number * _ROW
        lines.append(_text(14, y + 23, name.replace("_", " "), bold=True))
        sizes = [float(entry[key]["bytes"]) for key in ("original", "final")]
        times = [
            entry[key]["latency_ms"]["batch1_threads1"]["p50"] for key in ("original", "final")
        ]
        lines += _pair(_LEFT, y, sizes, [size(int(value)) for value in sizes], "smaller")
        lines += _pair(
            _LEFT + _COLUMN + _GAP, y, times, [f"{value:.3g} ms" for value in times], "faster"
        )
    return "\n".join([*lines, "</svg>"]) + "\n"


def _pair(x: int, y: int, values: list[float], told: list[str], gain: str) -> list[str]:
    """The bar before, and under it the one after with what it gained."""
    lines = []
    room = _COLUMN - 75
    first, last = values
    words = (told[0], f"{told[1]}, {first / last:.1f}x {gain}")
    for step, (value, word) in enumerate(zip(values, words, strict=True)):
        length, top = max(room * value / first, 2), y + 4 + 18 * step
        color = _AFTER if step else _BEFORE
        lines.append(
            f'<rect x="{x}" y="{top}" width="{length:.1f}" height="14" rx="2" fill="{color}"/>'
        )
        lines.append(_text(x + length + 6, top + 11.5, word, bold=step == 1, points=12))
    return lines


def _text(
    x: float, y: float, words: str, bold: bool = False, color: str = _INK, points: int = 14
) -> str:
    weight = ' font-weight="600"' if bold else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{points}"{weight} fill="{color}">'
        f"{escape(words)}</text>"
    )
