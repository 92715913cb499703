"""`require_signature`: every way to serve an archive refuses one that no trusted key has signed.

No server answers here: what is admitted gets as far as that, exit code 4, and what is not does not.
"""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.__main__ import main
from deploy.archive import mar
from deploy.errors import Untrusted
from deploy.service.control import _register
from deploy.service.failure import Failure
from deploy.service.models import Models
from deploy.signing import beside, signature
from deploy.torchserve import config
from deploy.torchserve.rollout import check_unchanged, digest
from tests.integration import quadrant
from tests.integration.torchserve import workplace
from tests.unit.deploy.signing import made


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A folder to serve from whose settings ask for a signature, with an unsigned archive."""
    with workplace(require_signature="true", trusted_keys="release.pub.pem") as workdir:
        made.pair(workdir)
        made.pair(workdir, "stranger")
        mar.seal(quadrant.make(workdir / "artifacts"), workdir / "model_store")
        yield workdir


@pytest.fixture
def archive(place: Path) -> Iterator[Path]:
    path = place / "model_store" / "quadrant.mar"
    yield path
    beside.remove(path)


def sign(place: Path, archive: Path, name: str = "release") -> None:
    key = made.keys.private(str(place / f"{name}.pem"))
    signature.sign(archive, beside.signature(archive), key)


def run(place: Path, *words: str) -> int:
    options = ("--workdir", place, "--config", place / "config.properties")
    stores = ("--model-store", place / "model_store", "--artifacts", place / "artifacts")
    return main([*words, *map(str, (*options, *stores))])


@pytest.mark.parametrize(
    "words",
    [
        ("register", "quadrant.mar"),
        ("start", "--models", "all"),
        ("start", "--models", "quadrant.mar"),
        ("serve", "quadrant"),
        ("flask", "model_store/quadrant.mar", "--port", "0", "--management-port", "0"),
        ("flask", "model_store/quadrant.mar", "--once", "artifacts/quadrant/samples/0.png"),
    ],
)
@pytest.mark.parametrize("by", ["nobody", "stranger"])
def test_unsigned_and_foreign_archives_are_refused(
    place: Path,
    archive: Path,
    words: tuple[str, ...],
    by: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if by == "stranger":
        sign(place, archive, by)
    words = tuple(str(place / word) if "/" in word else word for word in words)
    assert run(place, *words) == 6
    told = capsys.readouterr().err
    assert ("is unsigned" if by == "nobody" else "an unknown key") in told
    assert "asks for a signature of release (" in told and "--sign KEY" in told
    assert [path.name for path in archive.parent.glob("*.mar")] == ["quadrant.mar"]


def test_a_signed_one_is_admitted(
    place: Path, archive: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sign(place, archive)
    assert run(place, "register", "quadrant.mar") == 4
    assert "start one with `python -m deploy start`" in capsys.readouterr().err
    picture = str(place / "artifacts" / "quadrant" / "samples" / "0.png")
    assert run(place, "flask", str(archive), "--once", picture) == 0


def test_a_changed_file_is_refused(place: Path, archive: Path, tmp_path: Path) -> None:
    """Valid in itself: sealed from other files, put in the place of the signed one."""
    sign(place, archive)
    good = archive.read_bytes()
    other = mar.seal(quadrant.make(tmp_path, passed=True, workers=2), tmp_path / "store").path
    try:
        archive.write_bytes(other.read_bytes())
        assert run(place, "register", "quadrant.mar") == 6
        models = Models(trust=config.trust(place / "config.properties"))
        with pytest.raises(Untrusted, match="WRONG"):
            asyncio.run(models.register(archive))
        assert models.names() == []
    finally:
        archive.write_bytes(good)


def test_the_management_route_refuses_too(place: Path, archive: Path) -> None:
    models = Models(trust=config.trust(place / "config.properties"))
    with pytest.raises(Failure, match="is unsigned") as caught:
        asyncio.run(_register(models, archive.parent, {"url": "quadrant.mar"}))
    assert caught.value.status == 400


def test_an_archive_that_is_replaced_while_it_is_loaded(archive: Path) -> None:
    sha256 = digest(archive)
    check_unchanged(archive, sha256)
    good = archive.read_bytes()
    try:
        archive.write_bytes(good + b"x")
        with pytest.raises(Untrusted, match="was changed while it was loaded"):
            check_unchanged(archive, sha256)
    finally:
        archive.write_bytes(good)


def test_archive_signs(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = ("--model-store", str(tmp_path), "--artifacts", str(place / "artifacts"))
    settings = ("--config", str(place / "config.properties"))
    key = str(place / "release.pem")
    assert main(["archive", "quadrant", *store, *settings]) == 0
    assert capsys.readouterr().out.endswith("\nunsigned\n")
    assert main(["archive", "quadrant", "--sign", key, *store, *settings]) == 0
    assert "\nsigned   by release (key " in capsys.readouterr().out
    assert main(["archive", "quadrant", "--sign", str(place / "gone.pem"), *store]) == 2


def test_archive_signs_with_a_key_of_the_environment(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(made.keys.KEY, (place / "release.pem").read_text())
    store = ["--model-store", str(tmp_path), "--artifacts", str(place / "artifacts")]
    assert main(["archive", "quadrant", *store, "--sign"]) == 0
    assert "\nsigned   by your key (key " in capsys.readouterr().out
    assert beside.signature(tmp_path / "quadrant.mar").is_file()
