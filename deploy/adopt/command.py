"""The verb `python -m deploy adopt`: take anyone's archive into the model store."""

import argparse
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from deploy import output
from deploy.adopt import beside, compare, recorded, table
from deploy.adopt.adopt import Adopted, adopt
from deploy.adopt.compare import CLOSE, DIFFERS, SAME, Compared
from deploy.adopt.recorded import Recorded
from deploy.archive import adopted
from deploy.archive.verify import Archive, verify
from deploy.errors import BadInput, Unproven
from deploy.summary import size

VERDICTS = (SAME, CLOSE, DIFFERS)


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
    output.add_json(parser)
    parser.add_argument(
        "--compare",
        metavar="URL",
        help="then send recorded requests to the old server at URL and to this one",
    )
    parser.add_argument(
        "--with",
        dest="ours",
        metavar="URL",
        help="the new server (default: the archive is served here while it is compared)",
    )
    parser.add_argument(
        "--requests", metavar="DIR", help="a file for each request's body, such as samples/"
    )
    parser.add_argument(
        "--header",
        action="append",
        default=[],
        metavar="@FILE",
        help="for the old server, such as its Authorization: a file of 'NAME: VALUE', or that text",
    )
    parser.add_argument("--rtol", type=float, default=1e-3, help="of numbers (default: 0.001)")
    parser.add_argument("--atol", type=float, default=1e-5, help="of numbers (default: 0.00001)")


def run(args: argparse.Namespace) -> None:
    """Scan and seal one archive, say what was found, and compare if asked. Raises DeployError."""
    if args.compare is not None and args.requests is None:
        raise BadInput("--compare needs --requests DIR: a folder with a file for each request")
    for url in filter(None, (args.compare, args.ours)):
        compare.check_address(url)
    sent = headers(args.header)
    asked = recorded.read(Path(args.requests)) if args.requests is not None else []
    sealed = _sealed(Path(args.archive)) if args.compare is not None else None
    told: dict[str, Any] = {}
    if sealed is None:
        done = adopt(
            Path(args.archive),
            Path(args.model_store),
            args.install,
            args.allow_ops,
            args.allow_imports,
        )
        told = _described(done)
        if not args.json:
            output.say(_text(done))
        sealed = done.archive
        if sealed is None:
            if args.json:
                output.show(told)
            done.check()
    compared = []
    if args.compare is not None and sealed is not None:
        compared = _compared(args, sealed, asked, sent)
    if args.json:
        output.show({**told, "compared": [c.as_dict() for c in compared]})
    elif compared:
        output.say(_comparison(compared))
    _check(compared)


def _sealed(path: Path) -> Archive | None:
    """An archive that is sealed already and needs no adoption."""
    try:
        return verify(path, allow_ops=None)
    except BadInput:
        return None


def _compared(
    args: argparse.Namespace, sealed: Archive, asked: list[Recorded], sent: dict[str, str]
) -> list[Compared]:
    old = compare.address(args.compare, sealed.name), sent
    with ExitStack() as stack:
        url = args.ours
        if url is None:
            options = ["--allow-ops", ",".join(args.allow_ops)] if args.allow_ops else []
            url = stack.enter_context(beside.service(sealed.path, options))
        return compare.run(
            asked, old, (compare.address(url, sealed.name), {}), args.rtol, args.atol
        )


def headers(given: list[str]) -> dict[str, str]:
    """Headers by name; @FILE names a file of them, as curl's -H does: keys belong in files."""
    lines = []
    for text in given:
        path = Path(text.removeprefix("@"))
        try:
            lines += path.read_text().splitlines() if text.startswith("@") else [text]
        except (OSError, UnicodeDecodeError) as error:
            raise BadInput(f"--header {text}: the file cannot be read: {error}") from error
    found = {}
    for text in filter(str.strip, lines):
        name, colon, value = text.partition(":")
        if not colon or not name.strip():
            raise BadInput("--header must be @FILE or 'NAME: VALUE'")
        found[name.strip()] = value.strip()
    return found


def _comparison(compared: list[Compared]) -> str:
    rows = [(c.name, c.why or _statuses(c), c.verdict) for c in compared]
    counts = {verdict: sum(c.verdict == verdict for c in compared) for verdict in VERDICTS}
    told = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    table_ = table.text(rows, ("request", "old server and this one", "verdict"))
    return f"\n{table_}\n\n{len(compared)} requests: {told}"


def _statuses(compared: Compared) -> str:
    off = f", numbers within {compared.largest:.1e}" if compared.largest else ""
    return f"status {compared.old}{off}"


def _check(compared: list[Compared]) -> None:
    wrong = [c.name for c in compared if c.verdict == DIFFERS]
    if wrong:
        shown = ", ".join(wrong[:5])
        raise Unproven(f"{len(wrong)} of {len(compared)} answers differ: {shown}")


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
