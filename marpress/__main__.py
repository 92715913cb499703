"""The command `marpress`: every command of `python -m optimize` and of `python -m deploy`."""

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

import marpress
from marpress import workplace

OPTIMIZE = ("run", "export", "report", "compare")
DEPLOY = (
    *("archive", "java", "start", "stop", "status", "register", "describe", "list", "scale"),
    *("default", "unregister", "predict", "token", "serve", "flask"),
)

DESCRIPTION = f"""\
commands:
  init [FOLDER]   write config.properties, recipes/ and model_store/ into a folder
  {", ".join(OPTIMIZE)}
                  make a model small and prove it: as python -m optimize COMMAND
  {", ".join(DEPLOY[:9])},
  {", ".join(DEPLOY[9:])}
                  archive and serve it: as python -m deploy COMMAND

`marpress COMMAND --help` says what a command takes, and its exit codes.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    command = words[0] if words else ""
    if command in OPTIMIZE:
        return _main("optimize", words)
    if command in DEPLOY:
        return _main("deploy", words)
    return _own(words)


def _main(package: str, words: list[str]) -> int:
    """Hand over to a package's own command line."""
    code: int = importlib.import_module(f"{package}.__main__").main(words, prog="marpress")
    return code


def _own(words: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="marpress",
        usage="marpress [-h] [--version] COMMAND ...",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"marpress {marpress.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    init = commands.add_parser("init", help=argparse.SUPPRESS)
    init.add_argument("folder", type=Path, nargs="?", default=Path(), help="default: this one")
    arguments = parser.parse_args(words)
    for path in workplace.write(arguments.folder):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
