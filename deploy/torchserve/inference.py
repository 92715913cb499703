"""Client of TorchServe's inference API."""

import logging
import mimetypes
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import requests

from deploy.errors import BadInput, NoServer, Refused
from deploy.torchserve import http
from deploy.torchserve.management import to_error
from deploy.torchserve.tokens import Tokens

logger = logging.getLogger(__name__)

TIMEOUT = 120.0
RETRIES = 2


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
        explain: bool = False,
    ) -> Any:
        """POST `body` to /predictions/`name` and return the decoded JSON (else text) answer.

        With `explain` to /explanations/`name`, for a model that can explain its answers.

        `params`, such as {"top_k": "3"}, are sent as headers (see `parameter_headers`).
        A request that was with a worker when it died is asked again: predictions change
        nothing. Raises Refused with the handler's own status, type and message, NoServer if none
        answers.
        """
        path = f"/{'explanations' if explain else 'predictions'}/{quote(name, safe='')}"
        if version is not None:
            path += f"/{quote(version, safe='')}"
        headers = {"Content-Type": content_type, **parameter_headers(params or {})}
        for _ in range(RETRIES):
            try:
                reply = self._call("POST", path, body, headers)
                break
            except Refused as error:
                if not _worker_died(error):
                    raise
                logger.debug("the worker died with the request: it is asked again")
                time.sleep(0.1)
        else:
            reply = self._call("POST", path, body, headers)
        try:
            return reply.json()
        except (ValueError, RecursionError):  # no JSON, or nested too deeply to read
            return reply.text

    def ping(self) -> str:
        """The status of /ping: Healthy, Partial Healthy or Unhealthy."""
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
            reply = http.request(
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


def _worker_died(error: Refused) -> bool:
    """Whether the request was with a worker when that ended; TorchServe says so with 500 or 507."""
    by_server = error.kind == "InternalServerException"
    return by_server and (error.status == 507 or "Worker died" in error.detail)


def content_type(path: Path) -> str:
    """The content type that a file's suffix stands for."""
    return mimetypes.guess_type(path.name)[0] or "application/octet-stream"


def parse_parameters(pairs: Iterable[str]) -> dict[str, str]:
    """The `--param KEY=VALUE` arguments as a dict. Raises BadInput for one without "="."""
    params = {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not separator:
            raise BadInput(f"--param {pair!r} must be KEY=VALUE")
        params[key] = value
    return params


def parameter_headers(params: Mapping[str, str]) -> dict[str, str]:
    """Parameters as headers (top_k as X-top-k): TorchServe drops a query of /predictions."""
    return {f"X-{key.replace('_', '-')}": value for key, value in params.items()}
