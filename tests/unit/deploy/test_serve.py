"""Which sample `serve` sends."""

from pathlib import Path

import pytest

from deploy import serve
from deploy.errors import BadInput
from tests.integration import quadrant


def test_a_labelled_sample_is_preferred(tmp_path: Path) -> None:
    assert serve._sample(tmp_path) == (None, None)
    (tmp_path / "a.png").touch()
    (tmp_path / "b.png").touch()
    assert serve._sample(tmp_path) == (tmp_path / "a.png", None)
    quadrant.write(tmp_path / "labels.json", {"b.png": "cat"})
    assert serve._sample(tmp_path) == (tmp_path / "b.png", "cat")
    (tmp_path / "labels.json").write_text("{")
    with pytest.raises(BadInput, match=r"labels\.json"):
        serve._sample(tmp_path)
