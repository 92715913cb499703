"""Keys made for a test, and OpenSSF's reference tool."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from deploy.signing import keys


@dataclass(frozen=True)
class Pair:
    """A key and its two files."""

    private: ec.EllipticCurvePrivateKey
    private_file: Path
    public_file: Path

    @property
    def public(self) -> keys.PublicKey:
        return keys.public(self.public_file)


def pair(folder: Path, name: str = "release", curve: ec.EllipticCurve | None = None) -> Pair:
    """A fresh key in `folder`, in the file that its owner alone may read, and its public one."""
    key = ec.generate_private_key(curve or ec.SECP256R1())
    made = Pair(key, folder / f"{name}.pem", folder / f"{name}.pub.pem")
    made.private_file.write_bytes(pem(key))
    made.private_file.chmod(0o600)
    made.public_file.write_bytes(keys.of(key.public_key()).pem)
    return made


def pem(key: ec.EllipticCurvePrivateKey, passphrase: bytes | None = None) -> bytes:
    """A private key as PEM."""
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if passphrase is not None:
        encryption = serialization.BestAvailableEncryption(passphrase)
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
    )


def reference(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run `python -m model_signing`."""
    command = [sys.executable, "-m", "model_signing", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)
