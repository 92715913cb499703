"""KServe's manifests: a ServingRuntime of our image, and an InferenceService that uses it."""

from collections.abc import Sequence
from pathlib import Path

import yaml

from deploy.emit import docker, parts
from deploy.emit.parts import Parts

IMAGE = "REGISTRY/{name}:{version}"
MODELS = "/mnt/models"


def emit(
    parts_: Parts, folder: Path, hosts: Sequence[str], image: str | None, storage: str | None
) -> None:
    """Write both manifests, and the folder that the image is built from.

    Args:
        parts_: the archive.
        folder: where to.
        hosts: names under which clients reach the service.
        image: the image's name once it is pushed; a place holder without.
        storage: KServe's storageUri of the archive; without one the image's own is served.
    """
    docker.emit(parts_, folder / "image", hosts)
    name = parts_.name.lower().replace("_", "-").replace(".", "-")
    image = image or IMAGE.format(name=name, version=parts_.version)
    archive = f"{MODELS}/{parts_.file}" if storage else f"/service/{parts_.file}"
    arguments = ["-m", "deploy", *parts.serve_arguments(parts_, archive, hosts)]
    runtime = {
        "apiVersion": "serving.kserve.io/v1alpha1",
        "kind": "ServingRuntime",
        "metadata": {"name": f"{name}-runtime"},
        "spec": {
            "supportedModelFormats": [{"name": "mar", "version": "1", "autoSelect": False}],
            "protocolVersions": ["v1", "v2"],
            "containers": [_container(image, arguments, parts_)],
        },
    }
    model = {
        "modelFormat": {"name": "mar"},
        "runtime": f"{name}-runtime",
        "protocolVersion": "v2",
        **({"storageUri": storage} if storage else {}),
    }
    service = {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": name},
        "spec": {"predictor": {"model": model}},
    }
    parts.write(
        folder,
        {"runtime.yaml": _text(runtime), "inference-service.yaml": _text(service)},
    )


def _container(image: str, arguments: list[str], parts_: Parts) -> dict[str, object]:
    cores = str(max(1, parts_.settings.workers))
    return {
        "name": "kserve-container",
        "image": image,
        "command": ["python"],
        "args": arguments,
        "ports": [{"containerPort": 8080, "protocol": "TCP"}],
        "readinessProbe": {"httpGet": {"path": "/v2/health/ready", "port": 8080}},
        "livenessProbe": {
            "httpGet": {"path": "/v2/health/live", "port": 8080},
            "initialDelaySeconds": parts_.settings.startup_timeout_s,
        },
        "resources": {
            "requests": {"cpu": cores, "memory": "2Gi"},
            "limits": {"cpu": cores, "memory": "4Gi"},
        },
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 1000,
            "allowPrivilegeEscalation": False,
        },
    }


def _text(value: object) -> str:
    return yaml.safe_dump(value, sort_keys=False)
