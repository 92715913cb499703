"""Client of TorchServe's management API, with errors that say what to do."""

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import requests

from deploy.errors import (
    BadInput,
    Conflict,
    ModelNotFound,
    NoServer,
    Refused,
    TokenRefused,
    UrlRefused,
    WorkerDied,
)
from deploy.torchserve import http, logs
from deploy.torchserve.tokens import INVALID_KEY, Tokens

logger = logging.getLogger(__name__)

# Starting a worker imports torch, loads the model and warms it up.
TIMEOUT = 300.0


class Management:
    """Register, describe, scale and remove models of the server at `address`.

    `log_dir` is where that server writes its logs; with it, errors show the end of a dead
    worker's log.
    """

    def __init__(self, address: str, tokens: Tokens, log_dir: Path | None = None) -> None:
        self._address = address
        self._auth = tokens.auth("management")
        self._log_dir = log_dir

    def register(
        self,
        url: str,
        initial_workers: int | None = None,
        synchronous: bool = True,
        settings: Mapping[str, int] | None = None,
    ) -> str:
        """Register an archive: the file name of one in the model store, or an allowed URL.

        Without `initial_workers` the archive's own model-config decides. With it the model is
        scaled afterwards, since TorchServe lets the archive win. `settings` are batch_size and
        max_batch_delay, which win over the archive's. Returns TorchServe's message.
        Raises UrlRefused, Conflict, WorkerDied.
        """
        params: dict[str, Any] = {"url": url, "synchronous": _flag(synchronous)}
        params |= settings or {}
        if initial_workers is not None:
            params["initial_workers"] = initial_workers
        try:
            message = self._start_workers("POST", "/models", params)
        except WorkerDied as error:
            self._remove_failed(error.detail)
            raise
        done = re.fullmatch(r'Model "(.+)" Version: (.+) registered with (\d+) .*', message)
        if done and initial_workers is not None and int(done[3]) != initial_workers:
            return self.scale(done[1], initial_workers, done[2])
        return message

    def refused(self, entry: dict[str, Any]) -> dict[str, str]:
        """`{"refused": reason}` for a described version without a ready worker, if its files
        differ from what was sealed; {} otherwise."""
        ready = any(worker.get("status") == "READY" for worker in entry.get("workers", []))
        if ready or self._log_dir is None:
            return {}
        why = logs.refusal(self._log_dir, entry["modelName"], entry["modelVersion"])
        return {"refused": why} if why else {}

    def describe(
        self, name: str, version: str | None = None, customized: bool = False
    ) -> list[dict[str, Any]]:
        """One entry per version: the default without `version`, every one for `version="all"`.

        With `customized` a worker adds the handler's own description.
        """
        params = {"customized": "true"} if customized else {}
        answer = self._call("GET", _path(name, version), params)
        return list(answer)

    def models(self) -> dict[str, str]:
        """All registered models: name -> archive."""
        archives: dict[str, str] = {}
        params: dict[str, Any] = {"limit": 100}
        while True:
            page = self._call("GET", "/models", params)
            archives.update({m["modelName"]: m["modelUrl"] for m in page["models"]})
            if "nextPageToken" not in page:
                return archives
            params["next_page_token"] = page["nextPageToken"]

    def scale(self, name: str, workers: int, version: str | None = None) -> str:
        """Run exactly `workers` workers and wait until it is so. Raises WorkerDied."""
        params = {"min_worker": workers, "max_worker": workers, "synchronous": "true"}
        return self._start_workers("PUT", _path(name, version), params)

    def set_default(self, name: str, version: str) -> str:
        """Make `version` answer requests that name none."""
        return str(self._call("PUT", _path(name, version) + "/set-default").get("status", ""))

    def unregister(self, name: str, version: str | None = None) -> str:
        """Remove a model, or one version of it that is not the default."""
        return str(self._call("DELETE", _path(name, version)).get("status", ""))

    def _start_workers(self, method: str, path: str, params: dict[str, Any]) -> str:
        mark = logs.mark(self._log_dir)
        try:
            return str(self._call(method, path, params).get("status", ""))
        except Refused as error:
            if error.status >= 500 and "workers" in error.detail:
                message = f"{error.detail}. {logs.since(mark)}".rstrip(" .")
                raise WorkerDied(message, error.status, error.kind, error.detail) from error
            raise

    def _remove_failed(self, detail: str) -> None:
        """Remove the model that TorchServe sometimes keeps, without workers, after a failed start.

        It would answer 409 to the next attempt.
        """
        match = re.search(r"for model (\S+) version: (\S+)", detail)
        if match is None:
            return
        name, version = match.groups()
        try:
            if not self.describe(name, version)[0]["workers"]:
                self.unregister(name, version)
        except Refused:
            pass  # it is gone already, as it should be

    def _call(self, method: str, path: str, params: dict[str, Any] | None = None) -> Any:
        try:
            reply = http.request(
                method,
                self._address + path,
                params=params,
                auth=self._auth,
                timeout=TIMEOUT,
            )
        except requests.Timeout as error:
            raise NoServer(
                f"the server at {self._address} did not answer within {TIMEOUT:.0f} s"
            ) from error
        except requests.RequestException as error:
            raise NoServer(
                f"no TorchServe answers at {self._address}: start one with `python -m deploy start`"
            ) from error
        logger.debug("%s %s: %d, %s", method, reply.url, reply.status_code, reply.elapsed)
        refusal = to_error(reply, self._address)
        if refusal is not None:
            raise refusal
        return reply.json()


def to_error(reply: requests.Response, address: str) -> Refused | None:
    """Turn TorchServe's error reply into the exception that says what to do, or None."""
    if reply.ok:
        return None
    try:
        body = reply.json()
        kind, detail = str(body.get("type", "")), str(body.get("message", ""))
    except (ValueError, AttributeError):
        kind, detail = "", reply.text.strip()
    status = reply.status_code
    args = (status, kind, detail)
    if kind == INVALID_KEY:
        return TokenRefused(
            f"the server at {address} refused the token: it is wrong or expired. Use the "
            "key_file.json in the folder that TorchServe was started in",
            *args,
        )
    if kind == "MethodNotAllowedException" or status == 405:
        return Refused(
            f"the server at {address} refused: {detail}. The model API is off unless "
            "config.properties says enable_model_api=true",
            *args,
        )
    if "allowed URL" in detail or "Relative path" in detail:
        return UrlRefused(
            f"{detail}. Only archives in the model store may be registered: copy the .mar "
            "there and register its file name",
            *args,
        )
    if kind in {"ModelNotFoundException", "ModelVersionNotFoundException"}:
        return ModelNotFound(f"{detail}. `python -m deploy list` shows what is there", *args)
    if kind == "ConflictStatusException" or status == 409:
        return Conflict(
            f"{detail}. Archive it under another --version, or unregister that one first", *args
        )
    return Refused(f"TorchServe answered {status}: {detail or kind or 'no message'}", *args)


def _path(name: str, version: str | None) -> str:
    if not name:
        raise BadInput("a model name is needed")
    path = f"/models/{quote(name, safe='')}"
    return path if version is None else f"{path}/{quote(version, safe='')}"


def _flag(value: bool) -> str:
    return "true" if value else "false"
