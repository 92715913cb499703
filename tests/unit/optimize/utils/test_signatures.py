"""What this user signed is told from everything else, by a key that nobody else can read."""

import stat
from pathlib import Path

import pytest

from optimize.utils import signatures


@pytest.fixture(autouse=True)
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path / "config"


def test_only_the_same_content_for_the_same_purpose_passes() -> None:
    signature = signatures.sign(b"content", "stage 1")
    signatures.check(b"content", "stage 1", signature)
    for content, purpose, given in (
        (b"contents", "stage 1", signature),
        (b"content", "stage 2", signature),
        (b"content", "stage 1", None),
        (b"content", "stage 1", "ä" * 64),
    ):
        with pytest.raises(signatures.Untrusted, match="not signed with your key"):
            signatures.check(content, purpose, given)


def test_the_key_is_the_users_alone(config: Path) -> None:
    signature = signatures.sign(b"content", "")
    key = config / "marpress" / "stages.key"
    assert signatures.key_file() == key
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert signatures.sign(b"content", "") == signature
    assert [path.name for path in key.parent.iterdir()] == [key.name]


def test_a_key_that_others_can_read_signs_nothing(config: Path) -> None:
    signature = signatures.sign(b"content", "")
    key = config / "marpress" / "stages.key"
    key.chmod(0o644)
    with pytest.raises(signatures.Untrusted, match="no key"):
        signatures.check(b"content", "", signature)
    again = signatures.sign(b"content", "")
    assert again not in (None, signature)
    assert stat.S_IMODE(key.stat().st_mode) == 0o600


def test_without_a_place_for_a_key_nothing_is_signed(config: Path) -> None:
    config.touch()
    assert signatures.sign(b"content", "") is None


def test_a_relative_folder_is_ignored_as_the_specification_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", "here")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert signatures.key_file() == tmp_path / ".config" / "marpress" / "stages.key"
