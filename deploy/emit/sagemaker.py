"""A build folder whose image follows SageMaker's contract, and the model.tar.gz beside it.

SageMaker runs the image with the argument `serve`, unpacks model.tar.gz at /opt/ml/model, and asks
`/ping` and `/invocations` at the port in SAGEMAKER_BIND_TO_PORT, 8080 by default.
"""

import gzip
import io
import tarfile
from collections.abc import Sequence
from pathlib import Path

from deploy.emit import docker, parts
from deploy.emit.parts import Parts

HOST = "model.aws.local"  # the name that SageMaker's requests carry
SCRIPT = """\
#!/bin/sh
# SageMaker calls this as `serve`. What it unpacked goes first, else the image's own archive.
archive=/service/{file}
for found in /opt/ml/model/*.mar; do
  if [ -f "$found" ]; then archive="$found"; fi
done
cd /service
exec python -m deploy {arguments}
"""


def emit(parts_: Parts, folder: Path, hosts: Sequence[str] = ()) -> None:
    """Write the build folder and model.tar.gz."""
    arguments = parts.serve_arguments(parts_, '"$archive"', [HOST, *hosts])
    arguments[arguments.index("8080")] = '"${SAGEMAKER_BIND_TO_PORT:-8080}"'
    more = ["COPY --chmod=755 serve /usr/local/bin/serve"]
    docker.build(parts_, folder, docker.dockerfile(parts_, ["serve"], more))
    script = SCRIPT.format(file=parts_.file, arguments=" ".join(arguments))
    parts.write(folder, {"serve": script})
    (folder / "serve").chmod(0o755)
    _pack(parts_, folder / "model.tar.gz")


def _pack(parts_: Parts, target: Path) -> None:
    """The same bytes for the same archive."""
    data = parts_.path.read_bytes()
    with gzip.GzipFile(target, "wb", mtime=0) as zipped, tarfile.open(None, "w", zipped) as packed:
        info = tarfile.TarInfo(parts_.file)
        info.size = len(data)
        packed.addfile(info, io.BytesIO(data))
