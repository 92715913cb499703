"""The command `marpress`: every command of `python -m optimize` and of `python -m deploy`."""

import argparse
import importlib
import sys
import textwrap
from collections.abc import Sequence

import marpress
from marpress import completion, init

OPTIMIZE = ("run", "export", "report", "compare", "schema")
DEPLOY = (
    *("archive", "verify", "evidence", "adopt", "java", "start", "stop", "status", "register"),
    *("describe", "list", "scale", "default", "unregister", "predict", "token", "serve"),
    *("serve-archive", "flask", "console", "tune", "emit"),
)


def _listed(names: tuple[str, ...]) -> str:
    return textwrap.fill(
        ", ".join(names), 78, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False
    )


DESCRIPTION = f"""\
commands:
  init [FOLDER]   write config.properties, recipes/ and model_store/ into a folder,
                  and a recipe for your own model and data
{_listed(OPTIMIZE)}
                  make a model small and prove it: as python -m optimize COMMAND
{_listed(DEPLOY)}
                  archive and serve it: as python -m deploy COMMAND
  completion SHELL
                  print a script with which bash, zsh or fish completes all of this

`marpress COMMAND --help` says what a command takes, and its exit codes.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    command = words[0] if words else ""
    if command == "init":
        return init.run(words[1:])
    if command == "completion":
        return _completion(words[1:])
    if command in OPTIMIZE:
        return _hand_over("optimize", words)
    if command in DEPLOY:
        return _hand_over("deploy", words)
    parser = argparse.ArgumentParser(
        prog="marpress",
        usage="marpress [-h] [--version] COMMAND ...",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"marpress {marpress.__version__}")
    parser.add_argument(
        "command", choices=("init", *OPTIMIZE, *DEPLOY, "completion"), help=argparse.SUPPRESS
    )
    parser.parse_args(words)  # ends here: with help, the version, or what is wrong
    return 2


def _completion(words: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="marpress completion",
        description="Print a script for a shell's completion, as in: "
        'eval "$(marpress completion bash)"',
    )
    parser.add_argument("shell", choices=completion.SHELLS)
    print(completion.script(parser.parse_args(words).shell))
    return 0


def _hand_over(package: str, words: list[str]) -> int:
    """Run a package's own command line."""
    code: int = importlib.import_module(f"{package}.__main__").main(words, prog="marpress")
    return code


if __name__ == "__main__":
    sys.exit(main())
