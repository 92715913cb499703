"""A model repository for Triton Inference Server, with its Python backend."""

import shutil
from pathlib import Path

from deploy.emit import parts, triton_model
from deploy.emit.parts import Parts

CONFIG = """\
# Serves {name} version {version}; the Python of Triton's container needs requirements.txt.
name: "{name}"
backend: "python"
max_batch_size: {batch}
input [
  {{ name: "BODY" data_type: TYPE_STRING dims: [ 1 ] }},
  {{ name: "CONTENT_TYPE" data_type: TYPE_STRING dims: [ 1 ] optional: true }},
  {{ name: "HEADERS" data_type: TYPE_STRING dims: [ 1 ] optional: true }}
]
output [
  {{ name: "BODY" data_type: TYPE_STRING dims: [ 1 ] }},
  {{ name: "STATUS" data_type: TYPE_INT32 dims: [ 1 ] }},
  {{ name: "CONTENT_TYPE" data_type: TYPE_STRING dims: [ 1 ] }}
]
dynamic_batching {{ max_queue_delay_microseconds: {delay} }}
instance_group [ {{ kind: KIND_CPU count: {workers} }} ]
parameters: {{ key: "archive" value: {{ string_value: "{file}" }} }}
parameters: {{ key: "allow_ops" value: {{ string_value: "{allow}" }} }}
"""


def emit(parts_: Parts, folder: Path) -> None:
    """Write NAME/config.pbtxt and NAME/1 with the backend's model.py, the archive and our code."""
    model = folder / parts_.name
    version = model / "1"
    version.mkdir(parents=True)
    shutil.copyfile(str(triton_model.__file__), version / "model.py")
    shutil.copyfile(parts_.path, version / parts_.file)
    parts.copy_code(version)
    settings = parts_.settings
    config = CONFIG.format(
        name=parts_.name,
        version=parts_.version,
        batch=settings.batch_size,
        delay=1000 * settings.max_batch_delay_ms,
        workers=settings.workers,
        file=parts_.file,
        allow=",".join(parts_.allow_ops),
    )
    parts.write(
        folder,
        {f"{parts_.name}/config.pbtxt": config, "requirements.txt": parts.pinned(parts_)},
    )
