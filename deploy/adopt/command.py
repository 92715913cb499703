"""The verb `python -m deploy adopt`: take anyone's archive into the model store."""

import argparse
import json
from pathlib import Path
from typing import Any

from deploy.adopt import table
from deploy.adopt.adopt import Adopted, adopt
from deploy.archive import adopted
from deploy.summary import size


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's own arguments; --allow-ops is shared with the other verbs."""
    parser.add_argument("archive", metavar="OLD.mar", help=".mar, .tar.gz, or unpacked folder")
    parser.add_argument(
        "--store",
        dest="model_store",
        default=argparse.SUPPRESS,
        metavar="DIR",
        help="the same as --model-store",
    )
    parser.add_argument(
        "--install",
        action="store_true",
        help="install its requirements.txt into an environment of its own under the store",
    )
    parser.add_argument(
        "--allow-imports",
        type=lambda text: tuple(filter(None, text.split(","))),
        default=(),
        metavar="NAME,...",
        help="names that its pickles may import although loading them could do anything",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def run(args: argparse.Namespace) -> None:
    """Scan and seal one archive, and say what was found. Raises DeployError."""
    done = adopt(
        Path(args.archive),
        Path(args.model_store),
        args.install,
        args.allow_ops,
        args.allow_imports,
    )
    print(json.dumps(_described(done), indent=2) if args.json else _text(done))
    done.check()


def _text(done: Adopted) -> str:
    rows = [(found.file, found.what, found.verdict) for found in done.findings]
    lines = [table.text(rows, ("file", "what it is", "verdict")), ""]
    handler = done.handler.file or f"TorchServe's {done.handler.name}"
    lines.append(f"handler  {handler}")
    if done.requirements:
        state = f"{len(done.absent)} of {len(done.requirements)} not installed"
        if done.packages is not None:
            state = "installed for this archive"
        lines.append(f"packages {', '.join(done.requirements)} ({state})")
    if done.archive is not None:
        sealed = done.archive
        lines += [
            f"path     {sealed.path}",
            f"model    {sealed.name} version {sealed.version}",
            f"size     {sealed.bytes} bytes ({size(sealed.bytes)})",
            f"sha256   {sealed.sha256}",
            f"evidence {adopted.STATUS}",
        ]
    if done.absent and done.archive is not None:
        lines.append("next     its packages: adopt it again with --install, or install them here")
    return "\n".join(lines)


def _described(done: Adopted) -> dict[str, Any]:
    sealed = done.archive
    return {
        "source": {
            "file": done.source.name,
            "format": done.source.format,
            "bytes": done.source.bytes,
            "sha256": done.source.sha256,
        },
        "model": {"name": done.manifest.name, "version": done.manifest.version},
        "handler": {
            "kind": done.handler.kind,
            "file": done.handler.file,
            "name": done.handler.name,
        },
        "findings": [found.as_dict() for found in done.findings],
        "requirements": done.requirements,
        "not_installed": done.absent,
        "packages": None if done.packages is None else str(done.packages),
        "adopted": sealed is not None,
        "archive": None
        if sealed is None
        else {
            "path": str(sealed.path),
            "bytes": sealed.bytes,
            "sha256": sealed.sha256,
            "evidence": adopted.STATUS,
        },
    }
