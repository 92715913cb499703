"""A folder to build an image from: the archive, this program, a Dockerfile."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from deploy.emit import parts as parts_
from deploy.emit.parts import Parts

PYTHON = "python:3.11-slim"
HEALTH = (
    "import urllib.request as u; u.urlopen('http://127.0.0.1:8080/ping', timeout=5)"  # 500: raises
)


def emit(parts: Parts, folder: Path, hosts: Sequence[str] = ()) -> None:
    """Write the build folder."""
    arguments = parts_.serve_arguments(parts, f"/service/{parts.file}", hosts)
    text = dockerfile(parts, ["python", "-m", "deploy", *arguments])
    build(parts, folder, text)


def build(parts: Parts, folder: Path, text: str) -> None:
    """The files that a Dockerfile of `dockerfile` copies, and itself."""
    parts_.copy_code(folder / "app")
    shutil.copyfile(parts.path, folder / parts.file)
    ignored = "**/__pycache__\n"
    files = {"Dockerfile": text, "requirements.txt": parts_.pinned(parts), ".dockerignore": ignored}
    parts_.write(folder, files)


def dockerfile(parts: Parts, command: Sequence[str], more: Sequence[str] = ()) -> str:
    """A Dockerfile whose image runs a command as a user without rights."""
    lines = [
        f"# Serves {parts.name} version {parts.version} at port 8080.",
        f"FROM {PYTHON}",
        "WORKDIR /service",
        "COPY requirements.txt .",
        "# PyTorch's own index has the builds for CPUs; the default one is gigabytes larger.",
        "RUN pip install --no-cache-dir \\",
        "    --extra-index-url https://download.pytorch.org/whl/cpu -r requirements.txt",
        "COPY app/ app/",
        f"COPY {parts.file} {parts.file}",
        *more,
        "ENV PYTHONPATH=/service/app PYTHONUNBUFFERED=1 OMP_NUM_THREADS=1",
        "RUN useradd --system --no-create-home server",
        "USER server",
        "EXPOSE 8080",
        f"HEALTHCHECK --start-period=120s CMD {json.dumps(['python', '-c', HEALTH])}",
        f"CMD {json.dumps([*command])}",
    ]
    return "\n".join(lines) + "\n"
