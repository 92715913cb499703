"""Keys: where they come from, which are refused, and that they reach no argument and no disk."""

from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from deploy.errors import BadInput
from deploy.signing import keys
from tests.unit.deploy.signing import made


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (keys.KEY, keys.PASSPHRASE):
        monkeypatch.delenv(name, raising=False)


def numbers(key: ec.EllipticCurvePrivateKey) -> ec.EllipticCurvePrivateNumbers:
    return key.private_numbers()


def test_from_a_file_or_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = made.pair(tmp_path)
    assert numbers(keys.private(str(pair.private_file))) == numbers(pair.private)
    for value in (str(pair.private_file), made.pem(pair.private).decode()):
        monkeypatch.setenv(keys.KEY, value)
        assert numbers(keys.private("")) == numbers(pair.private)


def test_a_passphrase_comes_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = made.pair(tmp_path)
    plain = made.pair(tmp_path, "plain").private_file
    pair.private_file.write_bytes(made.pem(pair.private, b"between us"))
    with pytest.raises(BadInput, match="is encrypted: put its passphrase into MARPRESS_SIGNING_PA"):
        keys.private(str(pair.private_file))
    monkeypatch.setenv(keys.PASSPHRASE, "between us")
    assert numbers(keys.private(str(pair.private_file))) == numbers(pair.private)
    with pytest.raises(BadInput, match="is not encrypted: unset MARPRESS_SIGNING_PASSPHRASE"):
        keys.private(str(plain))
    monkeypatch.setenv(keys.PASSPHRASE, "guessed")
    with pytest.raises(BadInput, match="or its passphrase in MARPRESS_SIGNING_PASSPHRASE is wrong"):
        keys.private(str(pair.private_file))


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_a_key_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    file = made.pair(tmp_path).private_file
    file.chmod(mode)
    with pytest.raises(BadInput, match=f"others may read the key {file}: chmod 600 {file}"):
        keys.private(str(file))


def test_what_is_no_key_to_sign_with(tmp_path: Path) -> None:
    def refused(data: bytes, match: str) -> None:
        file = tmp_path / "key"
        file.write_bytes(data)
        file.chmod(0o600)
        with pytest.raises(BadInput, match=match):
            keys.private(str(file))

    refused(b"", "holds no private key as PEM")
    refused(b"-----BEGIN PRIVATE KEY-----\n", "openssl ecparam -name prime256v1 -genkey")
    refused(keys.of(made.pair(tmp_path).private.public_key()).pem, "holds no private key")
    refused(b" " * 70_000, "larger than 65536 bytes")
    refused(made.pem(ec.generate_private_key(ec.SECP256K1())), "not on P-256, P-384 or P-521")
    other = ed25519.Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    refused(other, "not on P-256, P-384 or P-521")
    with pytest.raises(BadInput, match="no key to sign with: name its file"):
        keys.private("")
    with pytest.raises(BadInput, match="gone cannot be read: No such file"):
        keys.private(str(tmp_path / "gone"))


def test_a_keys_text_is_refused_as_an_argument(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="others see arguments") as caught:
        keys.private(made.pem(made.pair(tmp_path).private).decode())
    assert "PRIVATE" not in str(caught.value)


def test_public_keys(tmp_path: Path) -> None:
    pair = made.pair(tmp_path)
    assert pair.public.name == "release"
    assert pair.public.pem == pair.public_file.read_bytes()
    with pytest.raises(BadInput, match=r"that is a private key: `openssl ec -in .* -pubout`"):
        keys.public(pair.private_file)
    (tmp_path / "x").write_bytes(b"-----BEGIN PUBLIC KEY-----")
    with pytest.raises(BadInput, match="holds no public key"):
        keys.public(tmp_path / "x")
    (tmp_path / "k1").write_bytes(keys.of(ec.generate_private_key(ec.SECP256K1()).public_key()).pem)
    with pytest.raises(BadInput, match="not on P-256"):
        keys.public(tmp_path / "k1")


def test_a_library_reads_the_key_from_no_disk(tmp_path: Path) -> None:
    pair = made.pair(tmp_path)
    before = len(list(Path("/dev/fd").iterdir()))
    with keys.as_path(pair.private) as path:
        assert path.read_bytes() == made.pem(pair.private)
    assert len(list(Path("/dev/fd").iterdir())) == before
