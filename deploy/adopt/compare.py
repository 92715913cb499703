"""The same requests to the old server and to this one: status and body, numbers within bounds."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import quote, urlsplit

import requests

from deploy.adopt.recorded import Recorded
from deploy.errors import BadInput, NoServer
from deploy.torchserve import http

TIMEOUT = 120.0
SAME, CLOSE, DIFFERS = "same", "close", "differs"


@dataclass(frozen=True)
class Answered:
    """A server's answer."""

    status: int
    body: bytes


@dataclass(frozen=True)
class Compared:
    """One request's two statuses, a verdict (same, close or differs), and where they differ.

    `largest` is the largest difference between two numbers, relative to the old one.
    """

    name: str
    old: int
    ours: int
    verdict: str
    why: str = ""
    largest: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass
class _Difference:
    why: str = ""
    largest: float = 0.0


def address(url: str, name: str) -> str:
    """Where a model is asked: /predictions/NAME of a server, or the URL itself if it has a path."""
    if urlsplit(url).path.strip("/"):
        return url
    return f"{url.rstrip('/')}/predictions/{quote(name, safe='')}"


def check_address(url: str) -> None:
    """Raise BadInput for what is no server's address."""
    try:
        parts = urlsplit(url)
        known = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError:
        known = False
    if not known:
        raise BadInput(f"{url[:80]!r} is no server's address: write http://HOST:PORT")


def ask(url: str, request: Recorded, headers: Mapping[str, str]) -> Answered:
    """Send a request. Raises NoServer if nothing answers."""
    try:
        reply = http.request(
            "POST",
            url,
            data=request.body,
            headers={**request.headers, **headers},
            timeout=TIMEOUT,
        )
    except (requests.RequestException, UnicodeError) as error:
        why = "connection refused" if "Connection refused" in str(error) else str(error)[:200]
        raise NoServer(f"no server answers at {url}: {why}") from error
    return Answered(reply.status_code, reply.content)


def compare(
    name: str, old: Answered, ours: Answered, rtol: float = 1e-3, atol: float = 1e-5
) -> Compared:
    """Two answers to one request.

    JSON is compared by value: objects by their keys, in any order, lists by position, and numbers
    within `atol + rtol * |old|`. Other bodies are compared by their bytes. Of two refusals (a
    status of 400 or more) the status counts alone.
    """
    statuses = (old.status, ours.status)
    if old.status != ours.status:
        why = f"status {_status(old)}, here {_status(ours)}"
        return Compared(name, *statuses, DIFFERS, why)
    if old.status >= 400 or old.body == ours.body:
        return Compared(name, *statuses, SAME)
    try:
        first, second = json.loads(old.body), json.loads(ours.body)
    except (ValueError, RecursionError):
        sizes = f"{len(old.body)} bytes, here {len(ours.body)} others"
        return Compared(name, *statuses, DIFFERS, sizes)
    found = _Difference()
    _walk(first, second, "", rtol, atol, found)
    verdict = DIFFERS if found.why else CLOSE if found.largest else SAME
    return Compared(name, *statuses, verdict, found.why, found.largest)


def _status(answer: Answered) -> str:
    """The status, and of a refusal in JSON the message: that a key is wrong, say."""
    if answer.status < 400:
        return str(answer.status)
    try:
        told = json.loads(answer.body)
    except (ValueError, RecursionError):
        return str(answer.status)
    about = told if isinstance(told, dict) else {}
    said = str(about.get("message") or about.get("error") or "")[:120]
    return f"{answer.status} ({said})" if said else str(answer.status)


def _walk(old: Any, ours: Any, at: str, rtol: float, atol: float, found: _Difference) -> None:
    if found.why:
        return
    if isinstance(old, dict) and isinstance(ours, dict):
        if old.keys() != ours.keys():
            odd = sorted(map(str, old.keys() ^ ours.keys()))[:3]
            found.why = f"{at or 'the object'} has other keys: {', '.join(odd)}"[:200]
        for key in old.keys() & ours.keys():
            _walk(old[key], ours[key], f"{at}.{key}" if at else str(key), rtol, atol, found)
    elif isinstance(old, list) and isinstance(ours, list):
        if len(old) != len(ours):
            found.why = f"{at or 'the list'} has {len(old)} items, here {len(ours)}"
        for index, pair in enumerate(zip(old, ours, strict=False)):
            _walk(*pair, f"{at}[{index}]", rtol, atol, found)
    elif _is_number(old) and _is_number(ours):
        first, second = _float(old), _float(ours)
        off = abs(first - second)
        if old == ours or (math.isnan(first) and math.isnan(second)):
            return
        if not math.isfinite(off) or off > atol + rtol * abs(first):
            found.why = f"{at or 'the number'} is {old}, here {ours}"[:200]
        else:
            found.largest = max(found.largest, off / max(abs(first), atol))
    elif type(old) is not type(ours) or old != ours:
        found.why = f"{at or 'the value'} is {str(old)[:60]!r}, here {str(ours)[:60]!r}"


def _float(value: int | float) -> float:
    """An integer beyond all floats is infinite."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def run(
    requests_: Sequence[Recorded],
    old: tuple[str, Mapping[str, str]],
    ours: tuple[str, Mapping[str, str]],
    rtol: float = 1e-3,
    atol: float = 1e-5,
) -> list[Compared]:
    """Put every request to both servers, each an address and its own headers. Raises NoServer."""
    return [
        compare(one.name, ask(old[0], one, old[1]), ask(ours[0], one, ours[1]), rtol, atol)
        for one in requests_
    ]
