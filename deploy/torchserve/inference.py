"""Client of TorchServe's inference API."""

import logging
import mimetypes
from pathlib import Path
from typing import Any
from urllib.parse import quote

import requests

from deploy.errors import NoServer, Refused
from deploy.torchserve.management import to_error
from deploy.torchserve.tokens import Tokens

logger = logging.getLogger(__name__)

TIMEOUT = 120.0


class Inference:
    """Send inputs to the server at `address`."""

    def __init__(self, address: str, tokens: Tokens) -> None:
        self._address = address
        self._auth = tokens.auth("inference")

    def predict(
        self,
        name: str,
        body: bytes,
        content_type: str = "application/octet-stream",
        version: str | None = None,
        params: dict[str, str] | None = None,
    ) -> Any:
        """POST `body` to /predictions/`name` and return the decoded JSON (else text) answer.

        `params` such as {"top_k": "3"} travel as headers (X-Top-K: 3), since TorchServe drops
        the query string of /predictions.
        Raises Refused with the handler's own status, type and message, NoServer if none answers.
        """
        path = f"/predictions/{quote(name, safe='')}"
        if version is not None:
            path += f"/{quote(version, safe='')}"
        headers = {f"X-{key.replace('_', '-')}": value for key, value in (params or {}).items()}
        reply = self._call("POST", path, body, {"Content-Type": content_type, **headers})
        try:
            return reply.json()
        except ValueError:
            return reply.text

    def ping(self) -> str:
        """The health word of /ping: Healthy, Partial Healthy or Unhealthy."""
        try:
            return str(self._call("GET", "/ping").json().get("status", ""))
        except Refused as error:
            if error.status == 500:
                return "Unhealthy"
            raise

    def _call(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> requests.Response:
        try:
            reply = requests.request(
                method,
                self._address + path,
                data=body,
                headers=headers,
                auth=self._auth,
                timeout=TIMEOUT,
            )
        except requests.RequestException as error:
            raise NoServer(f"no TorchServe answers at {self._address}: {error}") from error
        logger.debug("%s %s: %d, %s", method, reply.url, reply.status_code, reply.elapsed)
        refusal = to_error(reply, self._address)
        if refusal is not None:
            raise refusal
        return reply


def content_type(path: Path) -> str:
    """The content type that a file's suffix stands for."""
    return mimetypes.guess_type(path.name)[0] or "application/octet-stream"
