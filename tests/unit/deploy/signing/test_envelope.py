"""Envelopes of DSSE: openssl takes their signature, and only the key's owner can make them."""

import base64
import json
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from deploy.errors import BadInput, Untrusted
from deploy.signing import envelope
from tests.unit.deploy.signing import made

PAYLOAD = b'{"_type": "https://in-toto.io/Statement/v1"}'


@pytest.mark.parametrize(
    ("curve", "digest"),
    [(ec.SECP256R1(), "sha256"), (ec.SECP384R1(), "sha384"), (ec.SECP521R1(), "sha512")],
)
def test_openssl_verifies_it(tmp_path: Path, curve: ec.EllipticCurve, digest: str) -> None:
    """The text that is signed is put together here from the specification, not by our library."""
    pair = made.pair(tmp_path, curve=curve)
    data = envelope.sign(PAYLOAD, pair.private)
    assert envelope.verified(data, pair.public) == PAYLOAD
    found = json.loads(data)
    assert found["payloadType"] == "application/vnd.in-toto+json"
    assert base64.b64decode(found["payload"]) == PAYLOAD
    (one,) = found["signatures"]
    assert one["keyid"] == pair.public.fingerprint == envelope.keyid(data)
    text = b"DSSEv1 28 application/vnd.in-toto+json %d %s" % (len(PAYLOAD), PAYLOAD)
    (tmp_path / "text").write_bytes(text)
    (tmp_path / "der").write_bytes(base64.b64decode(one["sig"]))
    command = ["openssl", "dgst", f"-{digest}", "-verify", pair.public_file]
    command += ["-signature", tmp_path / "der", tmp_path / "text"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == "Verified OK\n"


def test_another_key_or_payload_is_refused(tmp_path: Path) -> None:
    pair, other = made.pair(tmp_path), made.pair(tmp_path, "other")
    data = envelope.sign(PAYLOAD, pair.private)
    with pytest.raises(Untrusted, match="not signed by other"):
        envelope.verified(data, other.public)
    found = json.loads(data)
    found["payload"] = base64.b64encode(PAYLOAD.replace(b"v1", b"v2")).decode()
    with pytest.raises(Untrusted, match="not signed by release"):
        envelope.verified(json.dumps(found).encode(), pair.public)
    found = json.loads(data)
    found["signatures"][0]["keyid"] = other.public.fingerprint  # it is a hint, and no more
    assert envelope.verified(json.dumps(found).encode(), pair.public) == PAYLOAD


@pytest.mark.parametrize(
    "change",
    [
        {"payloadType": "application/json"},
        {"signatures": []},
        {"signatures": [{"keyid": "x"}]},
        {"signatures": None},
        {"payload": 3},
        {"payload": "*** no base64 ***"},
        {"signatures": [{"sig": "*", "keyid": ""}]},
        {"signatures": [{"sig": "AAAA", "keyid": ""}, {"sig": "AAAA", "keyid": ""}]},
    ],
)
def test_what_is_no_envelope(tmp_path: Path, change: dict[str, object]) -> None:
    pair = made.pair(tmp_path)
    found = json.loads(envelope.sign(PAYLOAD, pair.private))
    with pytest.raises((BadInput, Untrusted)):
        envelope.verified(json.dumps({**found, **change}).encode(), pair.public)


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b"[" * 100_000, b"\xff", b" " * 17_000_000])
def test_what_is_no_json_of_one(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(BadInput, match="no signed statement"):
        envelope.verified(data, made.pair(tmp_path).public)
