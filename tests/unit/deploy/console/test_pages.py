"""The console's HTML: whatever models, servers and callers say is text in it."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from deploy.console import answer, pages
from deploy.console.ask import Asked
from deploy.console.catalog import Model, Version
from deploy.console.live import Figures, Row

DASH = "\N{EN DASH}"
EVIL = """"><script>alert('1')</script><img src=x onerror="alert(2)">{{ 7*7 }}&amp;"""
ROW = Row(EVIL, EVIL, True, 2, 1234, 5, True, 0.5, 12.25, 123.4, None)


def version(text: str = EVIL, default: bool = True, **changes: object) -> Version:
    values = {
        "name": text,
        "version": text,
        "default": default,
        "ready": 1,
        "workers": 2,
        "kind": "text",
        "explains": True,
        "example": text,
        "facts": {text: text, "Budget": "held", "Signature": text},
        "passed": True,
        "signature": text,
        "signed": "wrong",
    }
    return Version(**{**values, **changes})  # type: ignore[arg-type]


class Tags(HTMLParser):
    """The elements and attributes of a page."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def all_pages() -> dict[str, bytes]:
    models = [Model(EVIL, [version(), version(EVIL + "2", default=False)], EVIL + "2")]
    found = answer.read(
        {
            "predictions": [{"label": EVIL, "probability": 0.5}],
            "text": EVIL,
            "segments": [{"start": 0, "end": 1, "text": EVIL}],
            "embedding": [1.0],
        }
    )
    words = [{"start": 0, "end": 9, "attribution": 1.0}, {"start": 9, "end": 20, "attribution": -1}]
    answer.explain(found, {"explanation": {"label": EVIL, "words": words}}, EVIL)
    asked = [
        Asked(EVIL, EVIL, 1.5, found),
        Asked(EVIL, EVIL, 1.5, answer.read([{EVIL: [1, 2, 3, 4], "score": 0.5}])),
        Asked(EVIL, EVIL, 1.5, refusal=EVIL),
    ]
    return {
        "page": pages.page(models, Figures([ROW], EVIL), EVIL, "token"),
        "models": pages.models_part(models),
        "live": pages.live_part(Figures([ROW], EVIL)),
        "answer": pages.answer_part(asked, EVIL),
        "refused": pages.refused(EVIL, EVIL),
    }


@pytest.mark.parametrize("name", ["page", "models", "live", "answer", "refused"])
def test_what_others_say_is_escaped(name: str) -> None:
    page = all_pages()[name]
    assert b"alert" in page  # it is there, as text
    tags = Tags(page).tags
    scripts = [attributes for tag, attributes in tags if tag == "script"]
    assert scripts == ([{"src": "/static/console.js", "defer": None}] if name == "page" else [])
    for tag, attributes in tags:
        assert not any(key.startswith("on") or key == "style" for key in attributes), tag
        assert attributes.get("src") in (None, "/static/console.js"), tag
    assert b"{{ 7*7 }}" in page


def test_the_page_loads_only_its_own_files() -> None:
    tags = Tags(all_pages()["page"]).tags
    loaded = {a[key] for tag, a in tags for key in ("src", "href") if a.get(key)}
    assert loaded == {"#ask-title", *(f"/static/{name}" for name in pages.STATIC)}
    for name in pages.STATIC:
        text = pages.static(name).decode()
        assert not re.search(
            r"https?://(?!www\.w3\.org/2000/svg)|@import|\beval\(|localStorage", text
        )


def test_every_field_has_a_name() -> None:
    tags = Tags(all_pages()["page"]).tags
    labelled = {a["for"] for tag, a in tags if tag == "label" and a.get("for")}
    fields = {a["id"] for tag, a in tags if tag in ("select", "textarea")}
    assert fields and fields <= labelled


def test_versions_stand_side_by_side() -> None:
    one = version("a", facts={"Quality": "99 %", "Size": "1 MB"})
    other = version("b", default=False, facts={"Quality": "98 %", "Budget": "missed"}, passed=False)
    text = pages.models_part([Model("m", [one, other], "b")]).decode()
    cells = re.findall(r"<th scope=\"row\">(\w+)</th>|<td[^>]*>([^<]*)</td>", text)
    shown = [name or value for name, value in cells]
    wanted = ["Quality", "99 %", "98 %", "Size", "1 MB", DASH, "Budget", DASH, "missed"]
    assert shown[shown.index("Quality") :] == wanted
    assert '<td class="bad">missed</td>' in text
    assert 'aria-label="Make b b the default"' in text and "Roll m back to b" in text
    assert "Make a a the default" not in text


def test_a_server_without_models_says_how_to_get_one() -> None:
    text = pages.page([], Figures([]), "http://127.0.0.1:8080", "token").decode()
    assert "python -m deploy register" in text and 'id="ask"' not in text


def test_figures_that_are_not_there_are_dashes() -> None:
    nothing = Row("m", "1", False, None, 0, 0, False, None, None, None, None)
    cells = re.findall(r"<td[^>]*>(.*?)</td>", pages.live_part(Figures([nothing])).decode())
    dash = '<span class="soft">\N{EN DASH}</span>'
    assert cells == [DASH, dash, dash, "0", "0", dash, dash]
    cells = re.findall(r"<td[^>]*>(.*?)</td>", pages.live_part(Figures([ROW])).decode())
    assert cells == ["2", "12.2", "123", "5", "1,234", "0.50", dash]


def test_the_files_travel_with_the_package() -> None:
    text = (Path(pages.__file__).parents[2] / "pyproject.toml").read_text()
    assert '"deploy.console" = ["templates/*", "static/*"]' in text


def test_half_a_character_is_shown_as_a_question_mark() -> None:
    asked = [Asked("m", "1", 1.0, answer.read({"text": "a\ud800b"}))]
    assert b"<blockquote>a?b</blockquote>" in pages.answer_part(asked, "")
