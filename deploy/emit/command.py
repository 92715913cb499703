"""The verb `python -m deploy emit`: files with which another server serves the same archive."""

import argparse
from pathlib import Path

from deploy import output, scratch
from deploy.emit import docker, kserve, parts, sagemaker, triton

TARGETS = ("triton", "kserve", "sagemaker", "docker")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's own arguments; --model-store and --allow-ops are shared with the other verbs."""
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("name", metavar="NAME|FILE", help="a model of the model store, or a .mar")
    parser.add_argument("--output", metavar="DIR", help="default: emitted/NAME-TARGET")
    parser.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="a name under which clients will reach the service (kserve, sagemaker, docker)",
    )
    parser.add_argument("--image", help="the image's name once it is pushed (kserve)")
    output.add_json(parser)
    parser.add_argument("--storage-uri", metavar="URI", help="where the archive lies (kserve)")


def run(args: argparse.Namespace) -> None:
    """Write the folder. Raises BadInput; nothing is left half-written."""
    found = parts.read(args.name, Path(args.model_store), args.allow_ops)
    folder = Path(args.output or f"emitted/{found.name}-{args.target}")
    with scratch.folder("emit") as made:
        written = made / "files"
        written.mkdir()
        if args.target == "triton":
            triton.emit(found, written)
        elif args.target == "kserve":
            kserve.emit(found, written, args.allow_host, args.image, args.storage_uri)
        elif args.target == "sagemaker":
            sagemaker.emit(found, written, args.allow_host)
        else:
            docker.emit(found, written, args.allow_host)
        parts.publish(written, folder)
    following = _next(args.target, folder, found)
    if args.json:
        about = {"model": found.name, "version": found.version, "target": args.target}
        output.show({"path": str(folder), **about, "next": following})
        return
    output.say(f"path     {folder}")
    output.say(f"model    {found.name} version {found.version}")
    output.say(f"next     {following}")


def _next(target: str, folder: Path, found: parts.Parts) -> str:
    if target == "triton":
        return f"tritonserver --model-repository={folder}"
    if target == "kserve":
        return f"docker build {folder}/image, push it, and kubectl apply -f {folder}"
    if target == "sagemaker":
        return f"docker build {folder}, push it, and upload {folder}/model.tar.gz"
    return f"docker build -t {found.name.lower()} {folder}"
