import json
from pathlib import Path

import pytest

from deploy.tune import settings
from deploy.tune.settings import Settings, candidates

CARD = {
    "name": "shapes",
    "model": {"file": "model.pt", "threads": 1, "batch_sizes": [1]},
    "serving": {
        "workers": 1,
        "batch_size": 1,
        "max_batch_delay_ms": 1,
        "response_timeout_s": 30,
    },
}


@pytest.mark.parametrize("cores", [1, 2, 4, 16])
def test_candidates_use_the_cores_and_no_more_than_twice(cores: int) -> None:
    found = candidates(cores)
    assert len(found) == len(set(found))
    assert Settings(cores, 1, 4, 0) in found and Settings(1, cores, 1, 0) in found
    assert all(cores <= 2 * one.workers * one.threads <= 4 * cores for one in found)
    assert all(one.max_batch_delay_ms == 0 for one in found if one.batch_size == 1)


def test_what_is_written_is_what_is_read_and_nothing_else_changes(tmp_path: Path) -> None:
    path = tmp_path / "model.json"
    path.write_text(json.dumps(CARD))
    chosen = Settings(2, 3, 4, 0)
    settings.write(path, chosen)
    card = json.loads(path.read_text())
    assert settings.of_card(card) == chosen
    assert card["model"]["batch_sizes"] == [1, 2, 3, 4]
    assert card["serving"]["response_timeout_s"] == 30
    assert card["name"] == "shapes" and card["model"]["file"] == "model.pt"
    assert [p.name for p in tmp_path.iterdir()] == ["model.json"]
