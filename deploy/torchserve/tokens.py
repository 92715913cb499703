"""TorchServe's token authorization: read its key file, renew what has expired.

TorchServe writes key_file.json into its working directory with three keys: `management`
and `inference`, which expire (60 minutes by default), and `API`, which does not and renews
the other two through `GET /token?type=...` on the management address.
"""

import json
import logging
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import requests
from requests.auth import AuthBase

from deploy.errors import NoServer, TokenRefused
from deploy.torchserve import http

logger = logging.getLogger(__name__)

Kind = Literal["management", "inference"]
KEY_FILE = "key_file.json"
# The type of TorchServe's error reply to a key that is wrong or has expired.
INVALID_KEY = "InvalidKeyException"
# Renew a little early: a token must not expire between this check and its use.
MARGIN = timedelta(seconds=30)


class Tokens:
    """The keys of one running server. `key_file` None means a server without tokens."""

    def __init__(self, key_file: Path | None, management: str) -> None:
        self._key_file = key_file
        self._management = management

    def header(self, kind: Kind) -> dict[str, str]:
        """The Authorization header for one API, renewed first when it is about to expire."""
        if self._key_file is None:
            return {}
        entry = self._read()[kind]
        if _expiry(entry["expiration time"]) - MARGIN <= datetime.now(UTC):
            self.renew(kind)
            entry = self._read()[kind]
        return {"Authorization": f"Bearer {entry['key']}"}

    def auth(self, kind: Kind) -> "TokenAuth":
        """The key of one API, for the `auth` argument of requests."""
        return TokenAuth(self, kind)

    def renew(self, kind: Kind) -> None:
        """Have TorchServe replace one key; the old one stops working at once.

        Raises TokenRefused if the API key is not this server's, NoServer if none answers.
        """
        if self._key_file is None:
            return
        key = self._read()["API"]["key"]
        try:
            reply = http.request(
                "GET",
                f"{self._management}/token",
                params={"type": kind},
                headers={"Authorization": f"Bearer {key}"},
                timeout=10,
            )
        except requests.RequestException as error:
            raise NoServer(f"no TorchServe answers at {self._management}: {error}") from error
        if reply.status_code != 200:
            raise TokenRefused(
                f"{self._key_file} is not the key file of the server at {self._management}: "
                "another TorchServe started in this folder, or this one elsewhere",
                reply.status_code,
            )
        logger.debug("the %s key of %s is renewed", kind, self._management)

    def _read(self) -> dict[str, Any]:
        assert self._key_file is not None
        # TorchServe rewrites the file in place, so a reader can meet it half written.
        for attempt in range(5):
            try:
                keys = json.loads(self._key_file.read_text(encoding="utf-8"))
                if {"management", "inference", "API"} <= keys.keys():
                    return dict(keys)
            except FileNotFoundError:
                break
            except (OSError, ValueError, AttributeError):
                pass
            time.sleep(0.05 * (attempt + 1))
        raise NoServer(
            f"{self._key_file} is missing or no key file: TorchServe writes it into the folder "
            "it was started in; start one with `python -m deploy start`"
        )


class TokenAuth(AuthBase):
    """Signs requests to one API; a key that the server refuses is renewed, once per request.

    Another client may have renewed the key between our reading and sending it. The second send
    follows requests' own `HTTPDigestAuth.handle_401`. Raises NoServer, TokenRefused.
    """

    def __init__(self, tokens: Tokens, kind: Kind) -> None:
        self._tokens = tokens
        self._kind = kind

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers.update(self._tokens.header(self._kind))
        request.register_hook("response", self._renew_and_resend)
        return request

    def _renew_and_resend(self, reply: requests.Response, **options: Any) -> requests.Response:
        if not _refuses_key(reply):
            return reply
        reply.close()
        self._tokens.renew(self._kind)
        request = reply.request.copy()
        request.headers.update(self._tokens.header(self._kind))
        # The adapter runs no hooks, so that a second refusal is returned as it is.
        again: requests.Response = reply.connection.send(request, **options)
        again.history.append(reply)
        again.request = request
        return again


def _refuses_key(reply: requests.Response) -> bool:
    """Whether TorchServe refused the key, rather than the request."""
    if reply.status_code < 400:
        return False
    try:
        return bool(reply.json()["type"] == INVALID_KEY)
    except (ValueError, KeyError, TypeError):
        return False


def _expiry(text: str) -> datetime:
    """Parse java.time.Instant's text, which has up to nine decimals of a second."""
    moment, _, _ = text.rstrip("Z").partition(".")
    return datetime.fromisoformat(moment).replace(tzinfo=UTC)
