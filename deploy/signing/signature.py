"""An archive's signature: OpenSSF Model Signing (OMS) 1.0, with a key, beside the archive.

The file NAME.mar.sig is a Sigstore bundle that `python -m model_signing verify key` takes as it is:
https://github.com/ossf/model-signing-spec. It names the archive's SHA-256, not its file name, so a
copy under another name keeps it.
"""

import base64
import contextlib
import io
import json
import logging
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from deploy.errors import BadInput, Untrusted
from deploy.signing import beside, envelope, keys

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

logger = logging.getLogger(__name__)

BUNDLE = "application/vnd.dev.sigstore.bundle"
STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://model_signing/signature/v1.0"
MAX_BYTES = 16 * 2**20

State = Literal["unsigned", "trusted", "unknown", "unchecked", "wrong"]


@dataclass(frozen=True)
class Signed:
    """What is known of an archive's signature.

    Attributes:
        state: `trusted`: by a key that is trusted; `unknown`: by another key, so nothing is known;
            `unchecked`: the packages to check it are missing; `wrong`: it is not the archive's.
        fingerprint: of the key that the signature names.
        name: of the key, where it is trusted.
        why: what is wrong.
    """

    state: State
    fingerprint: str = ""
    name: str = ""
    why: str = ""

    def line(self, width: int = 0) -> str:
        """A line of its own: `unsigned`, or `signed` and by whom, from column `width`."""
        return "unsigned" if self.state == "unsigned" else f"{'signed ':<{width}}{self}"

    def as_json(self) -> dict[str, str]:
        """For programs: the state, the key's fingerprint, and the line for people."""
        return {"state": self.state, "key": self.fingerprint, "text": str(self)}

    def __str__(self) -> str:
        """One line for people."""
        key = keys.short(self.fingerprint)
        return {
            "unsigned": "unsigned",
            "trusted": f"by {self.name} (key {key})",
            "unknown": f"by an unknown key {key}: not checked",
            "unchecked": f"by key {key}, not checked: {keys.INSTALL}",
            "wrong": f"WRONG: {self.why}",
        }[self.state]


def sign(
    path: Path, target: Path, key: "EllipticCurvePrivateKey", ignore: Iterable[Path] = ()
) -> None:
    """Write the signature of a file, or of a folder but for `ignore`, to `target`, in one step.

    Raises BadInput for what cannot be signed: links, or nothing at all.
    """
    signing, _, hashing = _library()
    ignored = [*ignore, target] if path.is_dir() else []
    config = hashing.Config().set_ignored_paths(paths=ignored, ignore_git_paths=True)
    try:
        with keys.as_path(key) as pem, tempfile.TemporaryDirectory(prefix="sign-") as folder:
            made = Path(folder) / "signature"
            signer = signing.Config().use_elliptic_key_signer(private_key=pem)
            signer.set_hashing_config(config).sign(path, made)
            data = made.read_bytes()
    except (ValueError, OSError) as error:
        raise BadInput(f"{path} cannot be signed: {error}") from error
    if not _resources(data):
        raise BadInput(f"{path} cannot be signed: it holds no file")
    beside.write(target, data)


def verify(path: Path, target: Path, key: keys.PublicKey, ignore_unsigned: bool = False) -> str:
    """Check that `key` signed, by the signature `target`, the file or folder at `path` as it is.

    Returns the SHA-256 of a single file as it was signed, for whoever opens that file later to
    compare; "" for a folder, or a file that was signed by another hash. With `ignore_unsigned` a
    folder may hold further files. Raises Untrusted.
    """
    _, verifying, _ = _library()
    data = _read(target)
    _check_shape(data, target)
    said = io.StringIO()
    with tempfile.TemporaryDirectory(prefix="verify-") as folder:
        # What is checked is what was read: whoever replaces the signature meanwhile gains nothing.
        copy, pem = Path(folder) / "signature", Path(folder) / "key.pem"
        copy.write_bytes(data)
        pem.write_bytes(key.pem)
        try:
            with contextlib.redirect_stdout(said):
                checker = verifying.Config().use_elliptic_key_verifier(public_key=pem)
                checker.set_ignore_unsigned_files(ignore_unsigned).verify(path, copy)
        except Exception as error:  # of any kind: the library promises none
            text = (
                str(error).strip().replace(str(copy), str(target)) or "the signature is not right"
            )
            raise Untrusted(
                f"{path} is not what {key.name or 'that key'} signed: {text}"
            ) from error
    if said.getvalue():
        logger.info("%s: %s", target, said.getvalue().strip())
    return _resources(data).get(".", "")


def look(archive: Path, trusted: Sequence[keys.PublicKey], sha256: str | None = None) -> Signed:
    """What is known of an archive's signature, checked with the trusted keys. Raises nothing.

    `sha256` is of the archive's bytes as they are used, where the caller has it.
    """
    target = beside.signature(archive)
    if not target.is_file():
        return Signed("unsigned")
    try:
        found = _check_shape(_read(target), target)
        fingerprint = _hint(found)
        named = [key for key in trusted if key.fingerprint == fingerprint]
        if fingerprint and not named:
            return Signed("unknown", fingerprint)
        for key in named or trusted:  # signatures before 1.1 name no key
            try:
                digest = verify(archive, target, key)
            except Untrusted as error:
                cause = " ".join(str(error.__cause__ or error).split())
                why = cause or "the signature is not the key's"
            else:
                if sha256 not in (None, digest):
                    return Signed("wrong", key.fingerprint, key.name, "it is of another file")
                return Signed("trusted", key.fingerprint, key.name)
        return Signed("wrong", fingerprint, why=why) if trusted else Signed("unknown")
    except Untrusted as error:
        return Signed("wrong", why=str(error))
    except BadInput:
        return Signed("unchecked", fingerprint)


def _read(target: Path) -> bytes:
    try:
        with target.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise Untrusted(f"the signature {target} cannot be read: {error.strerror}") from error
    if len(data) > MAX_BYTES:
        raise Untrusted(f"the signature {target} is larger than {MAX_BYTES} bytes")
    return data


def _check_shape(data: bytes, target: Path) -> dict[str, Any]:
    """The bundle, if it is what the specification asks of one signed with a key (4, 5, 8.1, 8.3).

    Raises Untrusted, which says what is wrong: the library checks the same, with less to say.
    """
    try:
        bundle = json.loads(data)
        wrapped, material = bundle["dsseEnvelope"], bundle["verificationMaterial"]
        statement = json.loads(base64.b64decode(wrapped["payload"], validate=True))
        predicate = statement["predicate"]
        faults = {
            "its mediaType": not str(bundle["mediaType"]).startswith(BUNDLE),
            "its payloadType": wrapped["payloadType"] != envelope.PAYLOAD_TYPE,
            "its number of signatures": len(wrapped["signatures"]) != 1,
            "its material, which is no key": not isinstance(material["publicKey"], dict),
            "its statement's type": statement["_type"] != STATEMENT,
            "its predicateType": statement["predicateType"] != PREDICATE,
            "its subject": len(statement["subject"]) != 1,
            "its resources": not predicate["resources"],
            "its serialization": not isinstance(predicate["serialization"], dict),
        }
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        missing = f": {error} is missing" if isinstance(error, KeyError) else ""
        raise Untrusted(f"{target} is no signature of OpenSSF Model Signing{missing}") from error
    for what, wrong in faults.items():
        if wrong:
            raise Untrusted(
                f"{target} is no signature of OpenSSF Model Signing 1.0 with a key: {what}"
            )
    checked: dict[str, Any] = bundle
    return checked


def _hint(bundle: dict[str, Any]) -> str:
    found = bundle["verificationMaterial"]["publicKey"].get("hint")
    # It is shown, and anybody may have written it.
    return found if isinstance(found, str) and found.isascii() and found.isprintable() else ""


def _resources(data: bytes) -> dict[str, str]:
    """Path -> SHA-256 of a signature that was checked, or made here."""
    statement = json.loads(base64.b64decode(json.loads(data)["dsseEnvelope"]["payload"]))
    found = statement["predicate"].get("resources", [])
    return {str(one["name"]): str(one["digest"]) for one in found if one["algorithm"] == "sha256"}


def _library() -> Any:
    try:
        from model_signing import hashing, signing, verifying
    except ImportError as error:
        raise BadInput(keys.INSTALL) from error
    return signing, verifying, hashing
