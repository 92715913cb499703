"""The model store keeps an archive and what lies beside it together."""

import json
from pathlib import Path

import pytest

from deploy.archive import mar, store
from deploy.archive.verify import Archive
from deploy.signing import beside, keys, signature
from tests.integration import quadrant
from tests.unit.deploy.evidence import stated
from tests.unit.deploy.signing import made


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> made.Pair:
    return made.pair(tmp_path_factory.mktemp("keys"))


def state(archive: Path, key: keys.PublicKey) -> str:
    return signature.look(archive, [key]).state


def changed(artifact: Path) -> Path:
    """Other labels: another version."""
    card = json.loads((artifact / "model.json").read_text())
    card["labels"] = [f"{label}." for label in card["labels"]]
    quadrant.write(artifact / "model.json", card)
    return artifact


def test_each_version_keeps_its_own_signature(release: made.Pair, tmp_path: Path) -> None:
    artifact, folder = stated.make(tmp_path / "artifacts"), tmp_path / "store"
    one = mar.seal(artifact, folder, key=release.private)
    two = mar.seal(changed(artifact), folder, key=release.private)
    assert one.version != two.version
    first, current = store.versioned(folder, "quadrant", one.version), folder / "quadrant.mar"
    for path in (first, current):
        assert state(path, release.public) == "trusted"
        assert beside.statement(path).is_file()
    # Without a key: nothing of the version before stays beside the new one.
    three = mar.seal(changed(artifact), folder)
    assert state(three.path, release.public) == "unsigned"
    assert not beside.statement(three.path).exists()
    assert state(store.versioned(folder, "quadrant", two.version), release.public) == "trusted"
    # Back to the first.
    back = store.make_current(
        Archive(first, "quadrant", one.version, one.bytes, one.sha256), folder
    )
    assert back.path == current and state(current, release.public) == "trusted"
    assert state(store.versioned(folder, "quadrant", three.version), release.public) == "unsigned"
    assert not list(folder.glob(".*"))


def test_a_signature_changes_nothing_of_the_archive(release: made.Pair, tmp_path: Path) -> None:
    artifact = stated.make(tmp_path / "artifacts")
    plain = mar.seal(artifact, tmp_path / "plain")
    signed = mar.seal(artifact, tmp_path / "signed", key=release.private)
    assert plain.sha256 == signed.sha256 and plain.version == signed.version
    names = {path.name for path in (tmp_path / "signed").iterdir()}
    assert names == {"quadrant.mar", "quadrant.mar.sig", "quadrant.mar.intoto.json"}
    # Made again, to the same bytes, it stays signed; and the signature is the same one.
    before = beside.signature(signed.path).read_bytes()
    again = mar.seal(artifact, tmp_path / "signed")
    assert again.sha256 == signed.sha256
    assert beside.signature(again.path).read_bytes() == before
    assert state(again.path, release.public) == "trusted"


def test_what_a_killed_process_left_beside_is_swept(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    folder.mkdir()
    pid = 2**22 + 1  # beyond the largest
    left = [folder / f".quadrant.mar.{pid}{suffix}" for suffix in ("", ".sig", ".intoto.json")]
    left.append(folder / f".quadrant.mar.sig.{pid}")
    for path in left:
        path.touch()
    mar.seal(quadrant.make(tmp_path / "artifacts"), folder)
    assert [path.name for path in folder.iterdir()] == ["quadrant.mar"]
