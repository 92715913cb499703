"""Which archives are served: what config.properties says, and what each kind of signature gets."""

import sys
from pathlib import Path

import pytest

from deploy.errors import BadInput, Untrusted
from deploy.signing import beside, signature
from deploy.torchserve import config
from tests.unit.deploy.signing import made
from tests.unit.deploy.signing.made import Pair


@pytest.fixture
def release(tmp_path: Path) -> Pair:
    return made.pair(tmp_path)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "colours.mar"
    path.write_bytes(b"content")
    return path


def settings(tmp_path: Path, *lines: str) -> Path:
    path = tmp_path / "config.properties"
    path.write_text("\n".join(lines))
    return path


def test_without_a_policy_everything_is_admitted_and_told(
    archive: Path, release: Pair, tmp_path: Path
) -> None:
    anyone = config.trust(settings(tmp_path))
    assert anyone.admit(archive).state == "unsigned"
    signature.sign(archive, beside.signature(archive), release.private)
    assert anyone.admit(archive).state == "unknown"
    known = config.trust(settings(tmp_path, "trusted_keys=release.pub.pem"))
    assert known.admit(archive).state == "trusted"
    archive.write_bytes(b"changed")
    assert known.admit(archive).state == "wrong"
    assert config.trust(tmp_path / "none", optional=True).admit(archive).state == "unknown"


def test_what_is_not_signed_by_a_trusted_key_is_refused(
    archive: Path, release: Pair, tmp_path: Path
) -> None:
    made.pair(tmp_path, "second")
    keys = "trusted_keys=second.pub.pem, release.pub.pem"
    path = settings(tmp_path, "require_signature=true", keys)
    trust = config.trust(path)
    with pytest.raises(Untrusted, match=f"is unsigned, and {path} asks for a signature of second"):
        trust.admit(archive)
    target = beside.signature(archive)
    signature.sign(archive, target, made.pair(tmp_path, "stranger").private)
    with pytest.raises(Untrusted, match="signed by an unknown key") as caught:
        trust.admit(archive)
    assert "build it with --sign KEY" in str(caught.value) and caught.value.exit_code == 6
    signature.sign(archive, target, release.private)
    assert trust.admit(archive).name == "release"
    with pytest.raises(Untrusted, match="WRONG"):
        trust.admit(archive, sha256="0" * 64)
    archive.write_bytes(b"changed")
    with pytest.raises(Untrusted, match="WRONG"):
        trust.admit(archive)


def test_nothing_is_admitted_that_cannot_be_checked(
    archive: Path, release: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signature.sign(archive, beside.signature(archive), release.private)
    path = settings(tmp_path, "require_signature=true", "trusted_keys=release.pub.pem")
    trust = config.trust(path)
    monkeypatch.setitem(sys.modules, "model_signing", None)
    with pytest.raises(BadInput, match=r"marpress\[signing\]"):
        trust.admit(archive)


@pytest.mark.parametrize(
    ("lines", "match"),
    [
        (["require_signature=yes"], "must be true or false"),
        (["require_signature=true"], r"needs trusted_keys=FILE\.pem"),
        (["require_signature=true", "trusted_keys= , "], "needs trusted_keys"),
        (["trusted_keys=gone.pem"], r"gone\.pem cannot be read"),
        (["trusted_keys=release.pem"], "that is a private key"),
    ],
)
def test_a_policy_that_cannot_be_kept(
    lines: list[str], match: str, release: Pair, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match=match):
        config.trust(settings(tmp_path, *lines))
