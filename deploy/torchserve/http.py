"""One HTTP request to a server of ours, with nothing but its key."""

import ipaddress
from typing import Any
from urllib.parse import urlsplit

import requests


def request(method: str, url: str, *, auth: Any = None, **options: Any) -> requests.Response:
    """As requests.request, but ~/.netrc never replaces the key, and no proxy sees loopback.

    Raises requests.RequestException.
    """
    with requests.Session() as session:
        session.trust_env = not is_loopback(url)
        # An auth of its own, even an empty one, keeps requests from asking ~/.netrc.
        return session.request(method, url, auth=auth or _without_key, **options)


def is_loopback(url: str) -> bool:
    """Whether an address means this machine."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _without_key(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request
