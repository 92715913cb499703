"""The console's page and its parts in HTML; whatever a server or a model says is escaped."""

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from deploy.console.ask import Asked
from deploy.console.catalog import Model
from deploy.console.live import Figures

STATIC = {
    "console.js": "text/javascript; charset=utf-8",
    "console.css": "text/css; charset=utf-8",
    "icon.svg": "image/svg+xml",
}

_TEMPLATES = Environment(
    loader=PackageLoader("deploy.console"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def page(models: Sequence[Model], figures: Figures, address: str, token: str) -> bytes:
    """The whole page."""
    known = {"address": address, "token": token, "at": _now()}
    return _rendered("page.html", models=models, figures=figures, **known)


def models_part(models: Sequence[Model]) -> bytes:
    """The models with their versions."""
    return _rendered("models.html", models=models)


def live_part(figures: Figures) -> bytes:
    """The figures' table."""
    return _rendered("live.html", figures=figures, at=_now())


def answer_part(asked: Sequence[Asked], verdict: str) -> bytes:
    """The answers, side by side."""
    return _rendered("answer.html", asked=asked, verdict=verdict)


def entered() -> bytes:
    """What lets the browser go on to the page, as a request of the console's own."""
    return _rendered("entered.html")


def refused(title: str, message: str) -> bytes:
    """A page that says why there is no other, and what to do."""
    return _rendered("refused.html", title=title, message=message)


@cache
def static(name: str) -> bytes:
    """A file that the page asks for, one of STATIC."""
    return resources.files("deploy.console").joinpath("static", name).read_bytes()


def _rendered(template: str, **values: Any) -> bytes:
    # JSON can hold halves of characters, which UTF-8 cannot.
    return _TEMPLATES.get_template(template).render(values).encode("utf-8", "replace")


def _now() -> str:
    return datetime.now(UTC).astimezone().strftime("%H:%M:%S")
