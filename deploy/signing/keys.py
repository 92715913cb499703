"""Keys that sign archives: elliptic curves, as PEM, from a file or the environment.

The curves are those of OpenSSF Model Signing: P-256, P-384 and P-521. A key's fingerprint is its
`hint`: the SHA-256 of the public key as PEM.
"""

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deploy.errors import BadInput

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import (
        EllipticCurvePrivateKey,
        EllipticCurvePublicKey,
    )

KEY = "MARPRESS_SIGNING_KEY"
PASSPHRASE = "MARPRESS_SIGNING_PASSPHRASE"
CURVES = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}
INSTALL = "signatures need the extra `signing`: pip install 'marpress[signing]'"
_MAX_BYTES = 64 * 1024
_BEGIN = "-----BEGIN "


@dataclass(frozen=True)
class PublicKey:
    """A key that signatures are checked with; `name` is its file's, for people."""

    name: str
    pem: bytes
    fingerprint: str


def private(source: str) -> "EllipticCurvePrivateKey":
    """The private key in the PEM file `source`; without one, what the environment names.

    MARPRESS_SIGNING_KEY holds the PEM text or a path, MARPRESS_SIGNING_PASSPHRASE the passphrase
    of an encrypted key. Raises BadInput: no key, one that others can read, or of another kind.
    """
    load, types = _library()
    if _BEGIN in source:
        raise BadInput(f"--sign takes a file: others see arguments. Put the text into {KEY}")
    where = source or os.environ.get(KEY, "")
    if not where:
        raise BadInput(f"no key to sign with: name its file, --sign KEY.pem, or set {KEY}")
    if _BEGIN in where:
        data, named = where.encode(), KEY
    else:
        path = Path(where)
        _refuse_shared(path)
        data, named = _read(path), where
    passphrase = os.environ.get(PASSPHRASE)
    try:
        key = load.load_pem_private_key(data, passphrase.encode() if passphrase else None)
    except TypeError:
        advice = f"unset {PASSPHRASE}" if passphrase else f"put its passphrase into {PASSPHRASE}"
        state = "is not encrypted" if passphrase else "is encrypted"
        raise BadInput(f"the key in {named} {state}: {advice}") from None
    except ValueError:
        raise BadInput(
            f"{named} holds no private key as PEM, or its passphrase in {PASSPHRASE} is wrong: "
            f"{_HOW}"
        ) from None
    if not isinstance(key, types.EllipticCurvePrivateKey) or key.curve.name not in CURVES:
        raise BadInput(f"the key in {named} is not on {_or(CURVES.values())}: {_HOW}")
    checked: EllipticCurvePrivateKey = key
    return checked


_HOW = "make one with `openssl ecparam -name prime256v1 -genkey -noout -out key.pem`"


def public(path: Path) -> PublicKey:
    """The public key in a PEM file. Raises BadInput."""
    load, types = _library()
    data = _read(path)
    try:
        key = load.load_pem_public_key(data)
    except ValueError:
        advice = f"openssl ec -in {path} -pubout"
        hint = f" (that is a private key: `{advice}`)" if b"PRIVATE KEY" in data else ""
        raise BadInput(f"{path} holds no public key as PEM{hint}") from None
    if not isinstance(key, types.EllipticCurvePublicKey) or key.curve.name not in CURVES:
        raise BadInput(f"the key in {path} is not on {_or(CURVES.values())}")
    return of(key, path.name.removesuffix(".pem").removesuffix(".pub"))


def of(key: "EllipticCurvePublicKey", name: str = "") -> PublicKey:
    """A public key of the library as ours."""
    from cryptography.hazmat.primitives import serialization

    pem = key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return PublicKey(name, pem, hashlib.sha256(pem).hexdigest())


@contextmanager
def as_path(key: "EllipticCurvePrivateKey") -> Iterator[Path]:
    """A path that reads as the key once, for a library that takes no other: nothing on a disk."""
    from cryptography.hazmat.primitives import serialization

    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    reading, writing = os.pipe()
    try:
        os.write(writing, pem)  # a pipe holds 64 KiB
        os.close(writing)
        yield Path(f"/dev/fd/{reading}")
    finally:
        os.close(reading)


def short(fingerprint: str) -> str:
    """A fingerprint as people compare it: its first 16 digits."""
    return fingerprint[:16]


def _library() -> Any:
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ec
    except ImportError as error:
        raise BadInput(INSTALL) from error
    return serialization, ec


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise BadInput(f"the key {path} cannot be read: {error.strerror}") from error
    if len(data) > _MAX_BYTES:
        raise BadInput(f"{path} is no key: it is larger than {_MAX_BYTES} bytes")
    return data


def _refuse_shared(path: Path) -> None:
    """Raise BadInput for a private key that other users may read."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise BadInput(f"the key {path} cannot be read: {error.strerror}") from error
    if stat.S_ISREG(mode) and mode & 0o077:
        raise BadInput(f"others may read the key {path}: chmod 600 {path}")


def _or(names: object) -> str:
    *most, last = list(names)  # type: ignore[call-overload]
    return f"{', '.join(most)} or {last}"
