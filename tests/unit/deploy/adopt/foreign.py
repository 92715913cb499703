"""Archives as torch-model-archiver makes them, of small models and anybody's handlers."""

import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

ARCHIVER = "from model_archiver.model_packaging import generate_model_archive as run; run()"

# Every kind of answer that TorchServe's worker takes from a handler, by the header `kind`.
ANSWERS = """
import torch
from ts.utils.util import PredictionException

ANSWERS = {
    "list": [1, 2.5, None],
    "dict": {"label": "caf\\u00e9", "score": 0.5},
    "text": "caf\\u00e9",
    "bytes": b"\\x00\\x01",
    "number": 7,
    "set": {1, 2},
}


def handle(data, context):
    if data is None:
        return None
    kinds = [context.get_request_header(i, "kind") or "" for i in range(len(data))]
    kind = kinds[0]
    if kind == "refused":
        raise PredictionException("no such animal", 418)
    if kind == "refused 500":
        raise PredictionException("broken")
    if kind == "fails":
        raise ValueError("secret detail")
    if kind == "memory":
        raise MemoryError
    if kind == "tuple":
        return tuple(data)
    if kind == "short":
        return []
    if kind == "typed":
        context.set_response_content_type(0, "text/csv")
        return ["a,b"]
    if kind == "status":
        context.set_response_status(code=422, idx=0)
        return [{"error": "unprocessable"}]
    if kind == "all":
        context.set_all_response_status(503)
        return ["later"]
    if kind == "tensor":
        return [torch.arange(3)]
    if kind == "row":
        return [{name: [type(value).__name__, str(value)] for name, value in data[0].items()}]
    if kind == "context":
        known = context.system_properties
        return [[context.model_name, sorted(known), context.manifest["model"]["modelName"]]]
    return [ANSWERS[kind] for kind in kinds]
"""


def write(
    folder: Path,
    name: str,
    handler: str,
    files: dict[str, bytes | str],
    suffix: str = ".mar",
    **model: Any,
) -> Path:
    """A deflated zip with a manifest like the archiver's; `model` adds to or replaces its model."""
    manifest = {
        "createdOn": "01/02/2023 10:11:12",
        "runtime": model.pop("runtime", "python"),
        "model": {"modelName": name, "handler": handler, "modelVersion": "1.0", **model},
        "archiverVersion": "0.8.2",
    }
    path = folder / f"{name}{suffix}"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for entry, content in files.items():
            packed.writestr(entry, content)
        packed.writestr("MAR-INF/MANIFEST.json", json.dumps(manifest, indent=2))
    return path


def archiver(folder: Path, name: str, handler: str, form: str, *options: str) -> Path:
    """The same by torch-model-archiver itself, in one of its formats."""
    suffix = {"tgz": ".tar.gz", "no-archive": "", "default": ".mar", "zip-store": ".mar"}[form]
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        command = [sys.executable, "-c", ARCHIVER, "--model-name", name, "--version", "1.0"]
        command += ["--handler", handler, "--export-path", str(folder), "--archive-format", form]
        subprocess.run(
            [*command, *options], check=True, env={"TMPDIR": scratch, "PATH": "/usr/bin:/bin"}
        )
    return folder / f"{name}{suffix}"
