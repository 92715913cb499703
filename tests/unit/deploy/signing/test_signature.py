"""An archive's signature: the reference tool takes ours, we take its, and nothing else passes."""

import json
import sys
from pathlib import Path

import pytest

from deploy.errors import BadInput, Untrusted
from deploy.signing import beside, keys, signature
from tests.unit.deploy.signing import made
from tests.unit.deploy.signing.made import Pair


@pytest.fixture
def release(tmp_path: Path) -> Pair:
    return made.pair(tmp_path)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "colours.mar"
    path.write_bytes(b"an archive" * 1000)
    return path


def sign(archive: Path, pair: Pair) -> Path:
    target = beside.signature(archive)
    signature.sign(archive, target, pair.private)
    return target


def test_the_reference_tool_verifies_what_we_sign(archive: Path, release: Pair) -> None:
    target = sign(archive, release)
    verify = ["verify", "key", archive, "--signature", target, "--public_key", release.public_file]
    done = made.reference(*verify)
    assert (done.returncode, done.stdout.strip()) == (0, "Verification succeeded")
    archive.write_bytes(archive.read_bytes() + b"x")
    assert made.reference(*verify).returncode != 0


def test_we_verify_what_the_reference_tool_signs(archive: Path, release: Pair) -> None:
    target = beside.signature(archive)
    done = made.reference(
        "sign", "key", archive, "--signature", target, "--private_key", release.private_file
    )
    assert done.returncode == 0, done.stderr
    found = signature.look(archive, [release.public])
    assert found.state == "trusted" and found.name == "release"
    archive.write_bytes(archive.read_bytes() + b"x")
    assert signature.look(archive, [release.public]).state == "wrong"


def test_a_copy_under_another_name_keeps_it(archive: Path, release: Pair) -> None:
    sign(archive, release)
    other = archive.with_name("colours-1.0.mar")
    archive.rename(other)
    beside.signature(archive).rename(beside.signature(other))
    assert signature.look(other, [release.public]).state == "trusted"


def test_what_is_known_of_it(archive: Path, release: Pair, tmp_path: Path) -> None:
    stranger = made.pair(tmp_path, "stranger")
    assert str(signature.look(archive, [release.public])) == "unsigned"
    target = sign(archive, release)
    short = release.public.fingerprint[:16]
    shown = str(signature.look(archive, [stranger.public, release.public]))
    assert shown == f"by release (key {short})"
    shown = str(signature.look(archive, [stranger.public]))
    assert shown == f"by an unknown key {short}: not checked"
    assert signature.look(archive, []).state == "unknown"
    # Of these bytes, whatever lies there by now.
    assert signature.look(archive, [release.public], "0" * 64).state == "wrong"
    target.write_bytes(target.read_bytes()[:-3])
    assert str(signature.look(archive, [release.public])).startswith("WRONG: ")
    target.write_bytes(b" " * (signature.MAX_BYTES + 1))
    assert "larger than" in signature.look(archive, [release.public]).why


def test_each_flipped_bit_of_the_signature_is_noticed(archive: Path, release: Pair) -> None:
    """Of the bytes that say something: the envelope's payload and signature."""
    target = sign(archive, release)
    good = json.loads(target.read_bytes())
    for part in ("payload", "sig"):
        wrapped = good["dsseEnvelope"]
        holder = wrapped if part == "payload" else wrapped["signatures"][0]
        text = holder[part]
        for at in range(0, len(text) - 4, 29):
            holder[part] = text[:at] + ("A" if text[at] != "A" else "B") + text[at + 1 :]
            target.write_text(json.dumps(good))
            with pytest.raises(Untrusted):
                signature.verify(archive, target, release.public)
        holder[part] = text
    target.write_text(json.dumps(good))
    signature.verify(archive, target, release.public)


def test_nothing_is_left_of_a_signing_that_fails(release: Pair, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot be signed"):
        signature.sign(tmp_path / "gone.mar", tmp_path / "gone.mar.sig", release.private)
    assert not list(tmp_path.glob("*gone*")) and not list(tmp_path.glob(".*"))


def test_without_the_packages_it_says_what_to_install(
    archive: Path, release: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    sign(archive, release)
    trusted = [release.public]
    monkeypatch.setitem(sys.modules, "model_signing", None)
    found = signature.look(archive, trusted)
    assert found.state == "unchecked" and "pip install 'marpress[signing]'" in str(found)
    with pytest.raises(BadInput, match="signatures need the extra"):
        sign(archive, release)
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives", None)
    with pytest.raises(BadInput, match="signatures need the extra"):
        keys.private(str(release.private_file))


def test_what_it_says_of_itself_is_shown_only_where_it_is_plain(
    archive: Path, release: Pair
) -> None:
    target = sign(archive, release)
    bundle = json.loads(target.read_bytes())
    bundle["verificationMaterial"]["publicKey"]["hint"] = "\x1b[2J\ud800"
    target.write_text(json.dumps(bundle))
    assert signature.look(archive, []).line().isprintable()
    bundle["dsseEnvelope"]["signatures"][0]["sig"] = "AAAA"
    target.write_text(json.dumps(bundle))
    found = signature.look(archive, [release.public])
    assert found.state == "wrong"
    assert found.why
    assert "\n" not in str(found)
