"""The rows of the compression benchmark as bars, one group per model, batch and threads."""

from html import escape
from typing import Any

_COLOURS = {
    "torchscript": "#b8b8b8",
    "compile": "#8f9bb3",
    "aoti": "#5b7db1",
    "onnxruntime": "#d9a441",
    "openvino": "#8d5fa8",
    "ours": "#1f8a5b",
    "served": "#0b4f33",
}
_BAR, _GAP, _LEFT, _HEIGHT, _TOP = 12, 26, 60, 200, 60
_PER_LINE, _LINE = 8, 280  # groups side by side, and how far apart lines of them are


def plot(rows: list[dict[str, Any]]) -> str:
    """An SVG of speeds over eager float32; failed contestants leave their place empty."""
    top = max((row[n] or 0 for row in rows for n in _COLOURS), default=1) * 1.05
    group = _BAR * len(_COLOURS) + _GAP
    lines = max(1, -(-len(rows) // _PER_LINE))
    width = _LEFT + group * min(_PER_LINE, max(1, len(rows))) + 20
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {_TOP + _LINE * lines}" '
        'font-family="sans-serif" font-size="11">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="{_LEFT}" y="18" font-size="14">Speed over eager float32</text>',
    ]
    for index, (name, colour) in enumerate(_COLOURS.items()):
        x = _LEFT + index * 95
        parts.append(f'<rect x="{x}" y="30" width="10" height="10" fill="{colour}"/>')
        parts.append(f'<text x="{x + 14}" y="39">{escape(name)}</text>')
    step = next(s for s in (1, 2, 5, 10, 20, 50, 100) if top / s < 8)
    for line in range(lines):
        for tick in range(0, int(top) + 1, step):
            y = _TOP + _LINE * line + _HEIGHT * (1 - tick / top)
            parts.append(f'<path d="M{_LEFT} {y:.1f}H{width - 10}" stroke="#ddd"/>')
            parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick}x</text>')
    for number, row in enumerate(rows):
        line, place = divmod(number, _PER_LINE)
        parts += _group(row, _LEFT + place * group + _GAP / 2, _TOP + _LINE * line + _HEIGHT, top)
    return "\n".join([*parts, "</svg>\n"])


def _group(row: dict[str, Any], x: float, ground: float, top: float) -> list[str]:
    """One row's bars from `x` on, standing on `ground`, and its name below."""
    parts = []
    for index, (name, colour) in enumerate(_COLOURS.items()):
        tall = _HEIGHT * (row[name] or 0) / top
        parts.append(
            f'<rect x="{x + index * _BAR:.1f}" y="{ground - tall:.1f}" '
            f'width="{_BAR - 1}" height="{tall:.1f}" fill="{colour}"/>'
        )
    middle = x + _BAR * len(_COLOURS) / 2
    threads = f"{row['threads']} thread{'s' * (row['threads'] > 1)}"
    for line, text in enumerate((row["model"], f"batch {row['batch']}", threads)):
        parts.append(
            f'<text x="{middle:.1f}" y="{ground + 16 + 14 * line:.1f}" '
            f'text-anchor="middle">{escape(text)}</text>'
        )
    return parts
