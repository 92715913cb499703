"""model-config.yaml of anyone's archive: what of it needs another server."""

from pathlib import Path
from typing import Any

import yaml

from deploy.errors import BadInput

# Settings under which requests are not answered batch by batch by one process.
REFUSED = {
    "continuousBatching": "keeps requests in its batch until they are done",
    "sequenceBatching": "binds the requests of a sequence to one worker",
    "sequenceMaxIdleMSec": "binds the requests of a sequence to one worker",
    "asyncCommunication": "answers requests out of order",
}
MAX_BYTES = 2**20


def check(path: Path, what: str) -> dict[str, Any]:
    """The values of a model-config.yaml. Raises BadInput for what this service cannot follow."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise BadInput(f"{what}: {path.name} is over {MAX_BYTES} bytes")
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BadInput(f"{what}: {path.name} cannot be read: {reason[:200]}") from error
    if not isinstance(values, dict):
        raise BadInput(f"{what}: {path.name} must hold key: value lines")
    for key, does in REFUSED.items():
        if values.get(key):
            raise BadInput(
                f"{what} asks for {key}, which {does}: this service has no such batches. Take the "
                "line out if the handler can do without, or stay with TorchServe"
            )
    parallel = values.get("parallelType")
    if parallel not in (None, "") or values.get("torchrun"):
        raise BadInput(
            f"{what} spreads its model over several processes (parallelType, torchrun): a worker "
            "here is one process. Serve it with TorchServe, or with a server made for such models"
        )
    return values
