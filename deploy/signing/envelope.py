"""Signed statements: in-toto's payload in an envelope of DSSE v1, one signature.

https://github.com/secure-systems-lab/dsse/blob/master/envelope.md
"""

import json
from typing import TYPE_CHECKING, Any

from deploy.errors import BadInput, Untrusted
from deploy.signing import keys

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

PAYLOAD_TYPE = "application/vnd.in-toto+json"
MAX_BYTES = 16 * 2**20
_NONE = "that is no signed statement: an envelope of DSSE with in-toto's type"


def sign(payload: bytes, key: "EllipticCurvePrivateKey") -> bytes:
    """The envelope, JSON, that holds `payload` signed with `key`; its keyid is the fingerprint.

    ECDSA draws a number at random: two envelopes of one payload differ in their signature.
    """
    dsse, signer = _library()
    public = key.public_key()
    named = signer.SSlibKey.from_crypto(public, keyid=keys.of(public).fingerprint)
    envelope = dsse.Envelope(payload, PAYLOAD_TYPE, {})
    envelope.sign(signer.CryptoSigner(key, named))
    return (json.dumps(envelope.to_dict(), indent=2) + "\n").encode()


def verified(data: bytes, key: keys.PublicKey) -> bytes:
    """The payload of an envelope that `key` signed.

    Raises BadInput for what is no envelope of a statement, Untrusted for one that `key` did not
    sign.
    """
    dsse, signer = _library()
    from cryptography.hazmat.primitives.serialization import load_pem_public_key
    from securesystemslib.exceptions import VerificationError

    public: Any = load_pem_public_key(key.pem)
    try:
        envelope = dsse.Envelope.from_dict(_checked(data))
    except ValueError:
        raise BadInput(_NONE) from None
    # A keyid is a hint, which anybody may write: each signature is tried with this key.
    named = [signer.SSlibKey.from_crypto(public, keyid=name) for name in envelope.signatures]
    try:
        envelope.verify(named, 1)
    except VerificationError:
        raise Untrusted(
            f"the statement is not signed by {key.name or keys.short(key.fingerprint)}: ask "
            "whoever made the archive for their public key, and for the archive again"
        ) from None
    payload: bytes = envelope.payload
    return payload


def keyid(data: bytes) -> str:
    """The key that an envelope names, not yet checked; "" for none. Raises BadInput as above."""
    named = str(_checked(data)["signatures"][0]["keyid"])
    return named if named.isascii() and named.isprintable() else ""


def _checked(data: bytes) -> dict[str, Any]:
    try:
        if len(data) > MAX_BYTES:
            raise ValueError
        found = json.loads(data)
        texts = [found["payload"], found["payloadType"]]
        texts += [
            text
            for one in found["signatures"]
            for text in (one["sig"], one.setdefault("keyid", ""))
        ]
        if not texts[2:] or not all(isinstance(text, str) for text in texts):
            raise ValueError
        if found["payloadType"] != PAYLOAD_TYPE:
            raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise BadInput(_NONE) from None
    checked: dict[str, Any] = found
    return checked


def _library() -> Any:
    try:
        from securesystemslib import dsse, signer
    except ImportError as error:
        raise BadInput(keys.INSTALL) from error
    return dsse, signer
