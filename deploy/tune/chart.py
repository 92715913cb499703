"""Every way that was tried as a point: answers with many clients over latency with few."""

from collections.abc import Sequence
from html import escape

from deploy.tune.search import Tried, pareto

_WIDTH, _HEIGHT, _LEFT, _TOP, _BOTTOM = 640, 360, 60, 40, 50
_RIGHT = 200


def chart(tried: Sequence[Tried], chosen: Tried) -> str:
    """An SVG; the ways that no other beats are joined, the chosen one is filled."""
    few, many = chosen.points[0].clients, chosen.points[-1].clients
    right = 1.1 * max(one.points[0].p50_ms for one in tried) or 1.0
    top = 1.1 * max(one.points[-1].worth for one in tried) or 1.0

    def place(one: Tried) -> tuple[float, float]:
        x = _LEFT + one.points[0].p50_ms / right * (_WIDTH - _LEFT - _RIGHT)
        return x, _TOP + (1 - one.points[-1].worth / top) * (_HEIGHT - _TOP - _BOTTOM)

    ground = _HEIGHT - _BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        'font-family="sans-serif" font-size="11">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="{_LEFT}" y="20" font-size="14">Answers a second, late ones in part, '
        f"{many} clients</text>",
        f'<text x="{_LEFT}" y="{_HEIGHT - 12}">median latency with {few} client(s), ms</text>',
    ]
    for tick in range(5):
        y = _TOP + tick / 4 * (ground - _TOP)
        x = _LEFT + tick / 4 * (_WIDTH - _LEFT - _RIGHT)
        parts.append(f'<path d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}" stroke="#ddd"/>')
        parts.append(
            f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{top * (1 - tick / 4):.0f}'
            f'</text><text x="{x:.1f}" y="{ground + 16}" text-anchor="middle">'
            f"{right * tick / 4:.1f}</text>"
        )
    front = sorted(pareto(tried), key=place)
    line = "L".join(f"{x:.1f} {y:.1f}" for x, y in map(place, front))
    parts.append(f'<path d="M{line}" fill="none" stroke="#1f8a5b"/>')
    for one in tried:
        x, y = place(one)
        fill = "#1f8a5b" if one is chosen else "white"
        parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" stroke="#1f8a5b" fill="{fill}">'
            f"<title>{escape(one.settings.describe())}</title></circle>"
        )
    x, y = place(chosen)
    parts.append(
        f'<text x="{x + 8:.1f}" y="{y - 8:.1f}">{escape(chosen.settings.describe())}</text>'
    )
    return "\n".join([*parts, "</svg>\n"])
