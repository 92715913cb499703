"""OpenSSF Model Signing 1.0: the specification's conformance cases for signing with a key.

The cases carry the names that the specification's own suite gives them. The suite's data are made
here: a key, models of a few bytes, and bundles by signing or by spoiling one. Its cases for
certificates and for Sigstore's keyless signatures are of methods that `deploy` does not offer;
bundles of the first kind are refused (`certificate-verify-as-key`).
"""

import base64
import datetime
import hashlib
import json
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from model_signing import hashing, signing, verifying

from deploy.errors import BadInput, Untrusted
from deploy.signing import signature
from tests.unit.deploy.signing import made
from tests.unit.deploy.signing.made import Pair

Files = dict[str, bytes]
SIMPLE: Files = {"one": b"first\n", "two": b"second", "left-out": b""}
KEPT = ["one", "two"]
GIT: Files = {".git/HEAD": b"ref", ".gitignore": b"", ".gitattributes": b"", ".github/x.yml": b"on"}
UNICODE = unicodedata.normalize("NFC", "模型-é.bin")

# Name of the case -> the model, what its signer leaves out, what must be signed.
ROUND_TRIPS: dict[str, tuple[Files, list[str], list[str]]] = {
    "key-simple": (SIMPLE, ["left-out"], KEPT),
    "key-simple-deterministic": (SIMPLE, ["left-out"], KEPT),
    "key-ignore-paths": (SIMPLE, ["left-out"], KEPT),
    "key-ignore-unsigned": (SIMPLE, ["left-out"], KEPT),
    "key-p256": (SIMPLE, ["left-out"], KEPT),
    "key-p384": (SIMPLE, ["left-out"], KEPT),
    "key-p521": (SIMPLE, ["left-out"], KEPT),
    "key-sig-inside-model": (SIMPLE, ["left-out"], KEPT),
    "key-single-file": ({"model.bin": b"\xef" * 256}, [], ["."]),
    "key-multi-file": ({"a.json": b"{}", "b": b"\1", "sub/c": b"\2"}, [], ["a.json", "b", "sub/c"]),
    "key-assets-subdir": ({"w": b"1", "assets/vocab": b"2"}, [], ["assets/vocab", "w"]),
    "key-binary-content": ({"b.bin": bytes(range(256)) * 4}, [], ["b.bin"]),
    "key-empty-file": ({"empty": b"", "full": b"1"}, [], ["empty", "full"]),
    "key-deeply-nested": ({"a/b/c/d/e/w": b"1"}, [], ["a/b/c/d/e/w"]),
    "key-deeply-nested-with-git": ({"a/b/c/w": b"1", **GIT}, [], ["a/b/c/w"]),
    "key-default-ignores": ({"m": b"1", **GIT}, [], ["m"]),
    "key-git-and-ignore-combined": ({"m": b"1", "x.tmp": b"2", **GIT}, ["x.tmp"], ["m"]),
    "key-dotfile-included": ({".config": b"1", "m": b"2"}, [], [".config", "m"]),
    "key-files-in-hidden-dir": ({".cache/w": b"1", "m": b"2"}, [], [".cache/w", "m"]),
    "key-ignore-paths-exact-match": (
        {"left-out": b"1", "m": b"2", "sub/left-out": b"3"},
        ["left-out"],
        ["m", "sub/left-out"],
    ),
    "key-nested-git-not-excluded": (
        {"m": b"1", "sub/.gitignore": b"2"},
        [],
        ["m", "sub/.gitignore"],
    ),
    "key-multi-git-dirs": (
        {"m": b"1", ".git/HEAD": b"2", "sub/m": b"3", "sub/.git/HEAD": b"4"},
        ["sub/.git"],
        ["m", "sub/m"],
    ),
    "key-multi-gitignore": (
        {"m": b"1", ".gitignore": b"2", "sub/d": b"3", "sub/.gitignore": b"4"},
        ["sub/.gitignore"],
        ["m", "sub/d"],
    ),
    "key-special-chars-path": (
        {"a (copy).bin": b"1", "with spaces/m": b"2"},
        [],
        ["a (copy).bin", "with spaces/m"],
    ),
    "key-unicode-filename": ({UNICODE: b"1", "w": b"2"}, [], ["w", UNICODE]),
}
# Bundles that are signed and verified: the suite's positive cases.
POSITIVE = ["key-ignore-paths", "key-multi-file", "key-simple", "key-single-file"]
CURVES: dict[str, ec.EllipticCurve] = {"key-p384": ec.SECP384R1(), "key-p521": ec.SECP521R1()}


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return made.pair(tmp_path_factory.mktemp("keys"))


def written(folder: Path, files: Files) -> Path:
    """A model on the disk: its folder, or its file if it is one."""
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder / "model.bin" if list(files) == ["model.bin"] else folder


def payload(bundle: Path) -> dict[str, Any]:
    """The statement that a bundle holds."""
    found = json.loads(bundle.read_bytes())["dsseEnvelope"]["payload"]
    statement: dict[str, Any] = json.loads(base64.b64decode(found))
    return statement


def root_digest(resources: list[dict[str, str]]) -> str:
    """The digest of a model as the specification computes it, section 6.5.1."""
    return hashlib.sha256(b"".join(bytes.fromhex(one["digest"]) for one in resources)).hexdigest()


@pytest.mark.parametrize("case", ROUND_TRIPS)
def test_round_trips(case: str, release: Pair, tmp_path: Path) -> None:
    files, ignored, expected = ROUND_TRIPS[case]
    key = made.pair(tmp_path, "own", CURVES[case]) if case in CURVES else release
    model = written(tmp_path / "model", files)
    inside = case == "key-sig-inside-model"
    bundle = (model if inside else tmp_path) / "model.sig"
    signature.sign(model, bundle, key.private, [model / name for name in ignored])

    statement = payload(bundle)
    resources = statement["predicate"]["resources"]
    assert [one["name"] for one in resources] == expected
    for one in resources:
        data = files["model.bin" if one["name"] == "." else one["name"]]
        assert one["algorithm"] == "sha256"
        assert one["digest"] == hashlib.sha256(data).hexdigest()
    (subject,) = statement["subject"]
    assert subject["digest"] == {"sha256": root_digest(resources)} and subject["name"]
    assert statement["predicate"]["serialization"]["allow_symlinks"] is False
    material = json.loads(bundle.read_bytes())["verificationMaterial"]
    assert material["publicKey"] == {"hint": key.public.fingerprint}

    signature.verify(model, bundle, key.public)
    verifying.Config().use_elliptic_key_verifier(public_key=key.public_file).verify(model, bundle)
    if case == "key-simple-deterministic":
        again = tmp_path / "again.sig"
        signature.sign(model, again, key.private, [model / name for name in ignored])
        for part in ("resources", "subject"):
            first, second = (payload(one) for one in (bundle, again))
            assert (first.get(part) or first["predicate"][part]) == (
                second.get(part) or second["predicate"][part]
            )
    if case == "key-ignore-unsigned":
        (model / "added").write_bytes(b"later")
        with pytest.raises(Untrusted, match="added"):
            signature.verify(model, bundle, key.public)
        signature.verify(model, bundle, key.public, ignore_unsigned=True)


@pytest.mark.parametrize("case", ROUND_TRIPS)
def test_what_the_reference_signs_is_verified(case: str, release: Pair, tmp_path: Path) -> None:
    files, ignored, _ = ROUND_TRIPS[case]
    key = made.pair(tmp_path, "own", CURVES[case]) if case in CURVES else release
    model, bundle = written(tmp_path / "model", files), tmp_path / "model.sig"
    config = hashing.Config().set_ignored_paths(paths=[model / name for name in ignored])
    signer = signing.Config().use_elliptic_key_signer(private_key=key.private_file)
    signer.set_hashing_config(config).sign(model, bundle)
    signature.verify(model, bundle, key.public)


@pytest.mark.parametrize(
    ("case", "links", "files"),
    [
        ("key-empty-model-rejected", {}, {".gitignore": b""}),
        ("key-symlink-cycle", {"cycle": "."}, SIMPLE),
        ("key-symlink-default-rejected", {"link": "one"}, SIMPLE),
        ("key-symlink-outside-root", {"link": "/nowhere/at/all"}, SIMPLE),
    ],
)
def test_what_cannot_be_signed(
    case: str, links: dict[str, str], files: Files, release: Pair, tmp_path: Path
) -> None:
    model = written(tmp_path / "model", files)
    for name, target in links.items():
        (model / name).symlink_to(target)
    with pytest.raises(BadInput, match="cannot be signed"):
        signature.sign(model, tmp_path / "model.sig", release.private)
    assert not (tmp_path / "model.sig").exists()


@pytest.fixture
def simple(release: Pair, tmp_path: Path) -> tuple[Path, Path]:
    """The simple model and its bundle."""
    model, bundle = written(tmp_path / "model", SIMPLE), tmp_path / "model.sig"
    signature.sign(model, bundle, release.private, [model / "left-out"])
    signature.verify(model, bundle, release.public)
    return model, bundle


@pytest.mark.parametrize("case", [*POSITIVE, "key-simple-ignore-unsigned-files"])
def test_good_bundles(case: str, release: Pair, tmp_path: Path) -> None:
    """The suite's client signs them first; a single file's digest comes back to be compared."""
    unsigned = case == "key-simple-ignore-unsigned-files"
    files, ignored, _ = ROUND_TRIPS["key-simple" if unsigned else case]
    model, bundle = written(tmp_path / "model", files), tmp_path / "model.sig"
    signature.sign(model, bundle, release.private, [model / name for name in ignored])
    if unsigned:
        (model / "extra.bin").write_bytes(b"added")
    again = signature.verify(model, bundle, release.public, ignore_unsigned=unsigned)
    assert again == ("" if model.is_dir() else hashlib.sha256(files["model.bin"]).hexdigest())


@pytest.mark.parametrize(
    ("case", "change", "ignore_unsigned"),
    [
        ("key-simple-tampered-content_fail", {"one": b"other\n"}, False),
        ("key-tampered-with-ignore-unsigned_fail", {"one": b"other\n"}, True),
        ("key-simple-missing-file_fail", {"two": None}, False),
        ("key-missing-file-with-ignore-unsigned_fail", {"two": None}, True),
        ("key-simple-extra-file_fail", {"injected.bin": b"later"}, False),
    ],
)
def test_changed_models(
    case: str,
    change: dict[str, bytes | None],
    ignore_unsigned: bool,
    release: Pair,
    simple: tuple[Path, Path],
) -> None:
    model, bundle = simple
    for name, data in change.items():
        if data is None:
            (model / name).unlink()
        else:
            (model / name).write_bytes(data)
    with pytest.raises(Untrusted, match="is not what release signed"):
        signature.verify(model, bundle, release.public, ignore_unsigned)


def test_another_key(simple: tuple[Path, Path], tmp_path: Path) -> None:
    """key-simple-wrong-key_fail: whether the bundle names the key or not."""
    other = made.pair(tmp_path, "other").public
    model, bundle = simple
    with pytest.raises(Untrusted, match="does not match"):
        signature.verify(model, bundle, other)
    found = json.loads(bundle.read_bytes())
    found["verificationMaterial"]["publicKey"] = {"hint": other.fingerprint}
    bundle.write_text(json.dumps(found))
    with pytest.raises(Untrusted, match="is not what other signed"):
        signature.verify(model, bundle, other)


Spoil = Callable[[dict[str, Any], dict[str, Any]], Any]
SPOILT: dict[str, tuple[Spoil, str]] = {
    "key-simple-wrong-mediatype_fail": (
        lambda bundle, _: bundle.update(mediaType="application/json"),
        "mediaType",
    ),
    "key-simple-wrong-payload-type_fail": (
        lambda bundle, _: bundle["dsseEnvelope"].update(payloadType="application/octet-stream"),
        "payloadType",
    ),
    "key-simple-no-signature_fail": (
        lambda bundle, _: bundle["dsseEnvelope"].update(signatures=[]),
        "number of signatures",
    ),
    "malformed-missing-envelope_fail": (lambda bundle, _: bundle.pop("dsseEnvelope"), "missing"),
    "key-simple-wrong-statement-type_fail": (
        lambda _, told: told.update(_type="https://in-toto.io/Statement/v0.1"),
        "statement's type",
    ),
    "malformed-wrong-predicate_fail": (
        lambda _, told: told.update(predicateType="https://example.com/other/v1.0"),
        "predicateType",
    ),
    "key-simple-empty-resources_fail": (
        lambda _, told: told["predicate"].update(resources=[]),
        "resources",
    ),
    "key-simple-missing-serialization_fail": (
        lambda _, told: told["predicate"].pop("serialization"),
        "serialization",
    ),
}


@pytest.mark.parametrize("signed_again", [False, True])
@pytest.mark.parametrize("case", SPOILT)
def test_spoilt_bundles(
    case: str, signed_again: bool, release: Pair, simple: tuple[Path, Path]
) -> None:
    """The suite spoils them alone; the key's owner signing what is spoilt must not help either."""
    spoil, word = SPOILT[case]
    model, path = simple
    bundle, told = json.loads(path.read_bytes()), payload(path)
    spoil(bundle, told)
    wrapped = bundle.get("dsseEnvelope", {})
    data = json.dumps(told).encode()
    if told != payload(path):
        wrapped["payload"] = base64.b64encode(data).decode()
    if signed_again and wrapped.get("signatures"):
        kind = wrapped["payloadType"].encode()
        data = base64.b64decode(wrapped["payload"])
        text = b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(data), data)
        own = release.private.sign(text, ec.ECDSA(hashes.SHA256()))
        wrapped["signatures"][0]["sig"] = base64.b64encode(own).decode()
    path.write_text(json.dumps(bundle))
    with pytest.raises(Untrusted, match=word):
        signature.verify(model, path, release.public)


@pytest.mark.parametrize(
    ("case", "data"),
    [
        ("malformed-empty-bundle_fail", lambda good: b""),
        ("key-simple-truncated-bundle_fail", lambda good: good[:100]),
        ("key-simple-corrupted-bundle_fail", lambda good: b'{"garbage": true}'),
        ("not in the suite: nested", lambda good: b"[" * 100_000),
        ("not in the suite: no text", lambda good: bytes(range(256))),
        ("not in the suite: a list", lambda good: b"[]"),
    ],
)
def test_bundles_made_by_hand(
    case: str, data: Callable[[bytes], bytes], release: Pair, simple: tuple[Path, Path]
) -> None:
    model, bundle = simple
    bundle.write_bytes(data(bundle.read_bytes()))
    with pytest.raises(Untrusted, match="no signature of OpenSSF Model Signing"):
        signature.verify(model, bundle, release.public)


def test_a_certificates_bundle_is_no_keys(
    release: Pair, simple: tuple[Path, Path], tmp_path: Path
) -> None:
    """certificate-verify-as-key_fail: the certificate is of the very key."""
    model, bundle = simple
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "release")])
    now = datetime.datetime.now(datetime.UTC)
    usage = x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.CODE_SIGNING])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(release.private.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(usage, critical=False)
        .sign(release.private, hashes.SHA256())
    )
    file = tmp_path / "certificate.pem"
    file.write_bytes(certificate.public_bytes(Encoding.PEM))
    signing.Config().use_certificate_signer(
        private_key=release.private_file, signing_certificate=file, certificate_chain=[file]
    ).sign(model, bundle)
    with pytest.raises(Untrusted, match="publicKey"):
        signature.verify(model, bundle, release.public)


def test_how_many_cases_there_are() -> None:
    """29 round trips, 5 good bundles and 18 bad ones."""
    assert len(ROUND_TRIPS) + 4 == 29 and len(POSITIVE) + 1 == 5
    assert 5 + 1 + len(SPOILT) + 3 + 1 == 18
