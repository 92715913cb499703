"""The key of the management address, in a file as TorchServe writes its own.

With it `python -m deploy register`, `unregister`, `default`, `list` and the others work on the
service as they do on a TorchServe.
"""

import json
import os
import secrets
from pathlib import Path

from deploy.errors import BadInput
from deploy.torchserve.tokens import KEY_FILE

NEVER = "9999-12-31T23:59:59Z"


def write(workdir: Path, inference: str | None = None) -> str:
    """Make the management key and write `workdir`/key_file.json, readable by its owner only.

    `inference`: the key that clients of the other address must send, for verbs that are some.
    """
    key = secrets.token_urlsafe(24)
    entry = {"key": key, "expiration time": NEVER}
    client = {**entry, "key": inference or key}
    keys = {"management": entry, "inference": client, "API": {"key": key}}
    path = workdir / KEY_FILE
    aside = workdir / f".{KEY_FILE}.{os.getpid()}"
    try:
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump(keys, file, indent=2)
        aside.replace(path)
    except OSError as error:
        raise BadInput(f"{path} cannot be written: {error.strerror}; choose --workdir") from error
    return key


def remove(workdir: Path, key: str) -> None:
    """Delete the key file, unless another server has written its own since."""
    path = workdir / KEY_FILE
    try:
        if json.loads(path.read_text("utf-8"))["management"]["key"] == key:
            path.unlink()
    except (OSError, ValueError, KeyError):
        pass
