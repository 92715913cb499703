"""The project's version and extras, in a checkout; tests/integration/test_wheel.py: installed."""

from pathlib import Path

import pytest

from optimize.utils import distribution


def test_a_checkout_is_read() -> None:
    text = distribution.PROJECT.read_text(encoding="utf-8")
    assert f'version = "{distribution.version()}"' in text
    assert distribution.requirements("text") == ["tokenizers"]
    assert distribution.requirements("nothing") == []


@pytest.mark.parametrize("content", ['[project]\nname = "another"\nversion = "9"\n', "no = = toml"])
def test_another_projects_file_is_not_taken_for_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    (tmp_path / "pyproject.toml").write_text(content)
    monkeypatch.setattr(distribution, "PROJECT", tmp_path / "pyproject.toml")
    assert distribution._checkout() is None
