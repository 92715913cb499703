"""Read TorchServe's config.properties: addresses, ports and where things lie."""

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from deploy.errors import BadInput
from deploy.signing import policy
from deploy.torchserve.environment import WITHHELD

ADDRESSES = {"inference": 8080, "management": 8081, "metrics": 8082}
GRPC = {"grpc_inference": 7070, "grpc_management": 7071}


@dataclass(frozen=True)
class Config:
    """The part of config.properties that a client or a launcher needs.

    `withheld` matches the names of the shell's variables that a server does not get.
    """

    path: Path
    inference: str
    management: str
    metrics: str
    ports: dict[str, int]
    tokens: bool
    withheld: str


def read(path: Path) -> Config:
    """Read `path`. Raises BadInput for a missing file or an address that is no URL."""
    values = properties(path)
    addresses: dict[str, str] = {}
    ports: dict[str, int] = {}
    for name, port in ADDRESSES.items():
        key = f"{name}_address"
        addresses[name] = values.get(key, f"http://127.0.0.1:{port}").rstrip("/")
        try:
            parts = urlsplit(addresses[name])
            if parts.scheme not in {"http", "https"} or parts.hostname is None:
                raise ValueError("no host")
            ports[name] = parts.port or port
        except ValueError as error:
            raise BadInput(
                f"{path}: {key}={addresses[name]!r} must look like http://127.0.0.1:{port}"
            ) from error
    for name, port in GRPC.items():
        value = values.get(f"{name}_port", str(port))
        if not value.isdecimal():
            raise BadInput(f"{path}: {name}_port={value!r} must be a port number")
        ports[name] = int(value)
    return Config(
        path=path,
        ports=ports,
        tokens=values.get("disable_token_authorization", "false").lower() != "true",
        withheld=values.get("blacklist_env_vars", WITHHELD),
        **addresses,
    )


def trust(path: Path, optional: bool = False) -> policy.Policy:
    """Whose archives are served, as `path` says; where it is `optional` it may be missing.

    Raises BadInput.
    """
    return policy.of({} if optional and not path.is_file() else properties(path), path)


def properties(path: Path) -> dict[str, str]:
    """Parse the `key=value` lines of a .properties file, as TorchServe's launcher does."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} cannot be read: {error}") from error
    values = {}
    for line in text.splitlines():
        key, separator, value = line.strip().partition("=")
        if separator and not key.startswith(("#", "!")):
            values[key.strip()] = value.strip()
    return values
