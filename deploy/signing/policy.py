"""Whose archives are served: `require_signature` and `trusted_keys` of config.properties."""

from dataclasses import dataclass
from pathlib import Path

from deploy.errors import BadInput, Untrusted
from deploy.signing import beside, keys, signature
from deploy.signing.signature import Signed

REQUIRE, TRUSTED = "require_signature", "trusted_keys"


@dataclass(frozen=True)
class Policy:
    """Which signatures are asked for; `source` is the file that says so."""

    required: bool = False
    trusted: tuple[keys.PublicKey, ...] = ()
    source: Path = Path("config.properties")

    def admit(self, archive: Path, sha256: str | None = None) -> Signed:
        """What is known of an archive's signature, before it is served.

        `sha256` is of the bytes that are served, where the caller has read them: the signature
        must be of those. Raises Untrusted if the policy asks for a signature that is not there.
        """
        found = signature.look(archive, self.trusted, sha256)
        if not self.required or found.state == "trusted":
            return found
        if found.state == "unchecked":
            raise BadInput(f"{archive}: {keys.INSTALL}")
        what = "is unsigned" if found.state == "unsigned" else f"is signed {found}"
        names = ", ".join(f"{key.name} ({keys.short(key.fingerprint)})" for key in self.trusted)
        raise Untrusted(
            f"{archive} {what}, and {self.source} asks for a signature of {names}: get "
            f"{archive.name} and {archive.name}{beside.SIGNATURE} again from whoever "
            "signs for you, or build it with --sign KEY"
        )


def of(properties: dict[str, str], source: Path) -> Policy:
    """The policy that a config.properties states; the paths in it are relative to its folder.

    Raises BadInput for a value that is neither true nor false, or keys that cannot be read.
    """
    said = properties.get(REQUIRE, "false").lower()
    if said not in ("true", "false"):
        raise BadInput(f"{source}: {REQUIRE}={said} must be true or false")
    paths = [part.strip() for part in properties.get(TRUSTED, "").split(",") if part.strip()]
    if said == "true" and not paths:
        raise BadInput(f"{source}: {REQUIRE}=true needs {TRUSTED}=FILE.pem,...: the public keys")
    if not paths:
        return Policy(source=source)
    trusted = tuple(keys.public(source.parent / path) for path in paths)
    return Policy(said == "true", trusted, source)
