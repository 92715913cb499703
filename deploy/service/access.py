"""Who may ask: the names under which the service is reached, and a key where it needs one.

A page in a browser can have its own name point at 127.0.0.1 and so ask a service there (DNS
rebinding): its requests carry that name in their Host header, and are refused.
"""

import functools
import hmac
import ipaddress
import socket
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from deploy.errors import BadInput
from deploy.service.failure import Failure, bad_token
from deploy.service.request import Request

if TYPE_CHECKING:
    from deploy.service.app import App

# Health asks for no key: what restarts a service has none.
OPEN = ("/ping", "/v2/health/live", "/v2/health/ready")
SHORTEST_KEY = 16


def guard(app: "App", hosts: Collection[str] = (), key: str | None = None) -> None:
    """Refuse requests under other names than addresses, this machine's and `hosts` ("*": any); and,
    with a key, those without it."""
    names = {"localhost", socket.gethostname().lower(), *(host.lower() for host in hosts)}

    @app.guard
    def check(request: Request) -> None:
        host = _name(request.header("host"))
        if host and "*" not in names and host not in names and not _is_address(host):
            raise Failure(
                403,
                "ForbiddenException",
                f"this service is not known as {host[:80]!r}: start it with --allow-host NAME",
            )
        if key is not None and request.path not in OPEN:
            authorize(request, key)


def authorize(request: Request, key: str) -> None:
    """Raise Failure unless the request carries the key."""
    sent = request.header("authorization").removeprefix("Bearer ")
    if not hmac.compare_digest(sent.encode(), key.encode()):
        raise bad_token()


def read_key(path: Path) -> str:
    """The key in a file: its one line. Raises BadInput for one that others may read, or a short
    one."""
    try:
        mode, key = path.stat().st_mode, path.read_text("utf-8").strip()
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} cannot be read: {error}") from error
    if mode & 0o077:
        raise BadInput(f"{path} may be read by others: chmod 600 {path}")
    if len(key) < SHORTEST_KEY or not key.isascii() or not key.isprintable():
        raise BadInput(f"{path} must hold a key of one line, {SHORTEST_KEY} characters or more")
    return key


def is_loopback(host: str) -> bool:
    """Whether a service that listens at `host` is reached from this machine alone."""
    return host == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback)


def _name(host: str) -> str:
    """A Host header without its port."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower().removesuffix(".")


@functools.lru_cache(maxsize=256)
def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
