"""Pieces of HTML that the report page is made of, and figures as people read them."""

from html import escape
from typing import Any


def section(title: str, lead: str, body: str) -> str:
    told = f'<p class="soft">{lead}</p>' if lead else ""
    return f"<section><h2>{title}</h2>{told}{body}</section>"


def table(head: list[str], rows: list[list[str]], kind: str = "") -> str:
    """A table of cells that are HTML already; the first column names the row."""
    top = "".join(f"<th>{cell}</th>" for cell in head)
    body = "".join(
        f'<tr><th scope="row">{row[0]}</th>' + "".join(f"<td>{c}</td>" for c in row[1:]) + "</tr>"
        for row in rows
    )
    return (
        f'<div class="scroll"><table class="{kind}"><thead><tr>{top}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def percent(share: float) -> str:
    """0.925 as 92.50%."""
    return f"{share * 100:.2f}%"


def milliseconds(value: float) -> str:
    """Three digits that count: 0.0762 ms, 12.3 ms."""
    digits = 1 if value >= 10 else 2 if value >= 1 else 3 if value >= 0.1 else 4
    return f"{value:.{digits}f} ms"


def count(value: float) -> str:
    for unit in ("", "k", "M"):
        if value < 1000:
            return f"{value:.0f}{unit}" if not unit else f"{value:.1f}{unit}"
        value /= 1000
    return f"{value:.1f}G"


def times(before: float, after: float, better: str, worse: str) -> str:
    """`21.4x faster`, coloured."""
    ratio = before / after if after else 0.0
    if 0.995 <= ratio <= 1.005:
        return "as before"
    good = ratio > 1
    text = f"{ratio:.1f}x {better}" if good else f"{1 / (ratio or 1):.1f}x {worse}"
    return f'<span class="{"good" if good else "bad"}">{text}</span>'


def cell(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: ""}[value]
    if isinstance(value, float):
        return escape(f"{value:.4g}")
    if isinstance(value, dict):
        return escape(", ".join(f"{k} {v}" for k, v in value.items()))
    return escape(str(value))
