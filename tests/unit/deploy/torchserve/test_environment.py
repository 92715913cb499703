"""Which variables reach a server."""

from pathlib import Path

import pytest

from deploy.errors import BadInput
from deploy.torchserve import config
from deploy.torchserve.environment import WITHHELD, passed

SECRETS = {
    "AWS_SECRET_ACCESS_KEY": "1",
    "DATABASE_URL": "postgres://me:2@host/db",
    "GITHUB_TOKEN": "3",
    "PGPASSWORD": "4",
    "MY_COOKIE": "5",
    "SENTRY_DSN": "https://6@host/1",
    "TORCH_HUB_TOKEN": "7",
    "PIP_INDEX_URL": "https://me:8@host",
    "OMP_API_KEY": "9",
}
NEEDED = {"PATH": "/bin", "HOME": "/root", "LANG": "C", "LC_ALL": "C", "OMP_NUM_THREADS": "1"}


def test_what_is_needed_passes_and_nothing_else() -> None:
    assert passed(SECRETS | NEEDED) == NEEDED


def test_the_settings_may_say_otherwise(tmp_path: Path) -> None:
    assert passed(NEEDED | {"A": "1"}, ".{2,}") == {"A": "1"}
    with pytest.raises(BadInput, match="no regular expression"):
        passed(NEEDED, "(")
    settings = tmp_path / "config.properties"
    settings.write_text("blacklist_env_vars=.*x\n")
    assert config.read(settings).withheld == ".*x"


def test_a_server_started_by_hand_withholds_the_same(root: Path) -> None:
    properties = config.properties(root / "config.properties")
    assert properties["blacklist_env_vars"] == WITHHELD
