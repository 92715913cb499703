"""The command `marpress completion SHELL`: a script with which a shell completes our commands.

shtab makes it from the parsers, once: the shell then completes by itself and starts no Python,
which would take seconds for torch alone. Names of models and artifacts are listed by `ls`.
"""

import argparse
import importlib
from collections.abc import Mapping
from typing import Any

from marpress import init

SHELLS = ("bash", "zsh", "fish")
_PACKAGES = ("optimize", "deploy")
# bash's compgen and zsh's _arguments expand what they are given, so that a file named $(COMMAND)
# would run it at a Tab: only plain names are listed. No dollar signs here: fish would read them as
# variables.
_PLAIN = "[A-Za-z0-9_.][A-Za-z0-9_.+-]*"
_ARCHIVES = f"ls model_store 2>/dev/null | LC_ALL=C grep -xE '{_PLAIN}[.]mar'"
_MODELS = f"{_ARCHIVES} | sed 's/[.]mar//'"
_ARTIFACTS = f"ls artifacts 2>/dev/null | LC_ALL=C grep -xE '{_PLAIN}'"
# `python -m deploy ...` in a clone completes as `marpress ...` does; other uses as before.
_BASH = """
_marpress_module() {
  if [[ ${COMP_WORDS[1]-} == -m && ${COMP_WORDS[2]-} =~ ^(marpress|optimize|deploy)$ ]] &&
    ((COMP_CWORD >= 3)); then
    COMP_WORDS=(marpress "${COMP_WORDS[@]:3}")
    COMP_CWORD=$((COMP_CWORD - 2))
    _shtab_marpress
  fi
}
complete -o bashdefault -o default -F _marpress_module python python3
"""


def parser() -> argparse.ArgumentParser:
    """All commands of `marpress` in one parser, for shtab."""
    whole = argparse.ArgumentParser(prog="marpress")
    commands = whole.add_subparsers()
    own = init.parser()
    commands.add_parser("init", parents=[own], add_help=False, help="begin a working folder")
    shells = commands.add_parser("completion", help="print a shell's completion script")
    shells.add_argument("shell", choices=SHELLS)
    for package in _PACKAGES:
        try:
            theirs = importlib.import_module(f"{package}.__main__")._parser("marpress")
        except ModuleNotFoundError:  # an extra that is not installed: its commands cannot run
            continue
        for action in theirs._actions:
            if isinstance(action, argparse._SubParsersAction):
                said = {choice.dest: choice.help for choice in action._choices_actions}
                for name, sub in action.choices.items():
                    commands.add_parser(name, parents=[sub], add_help=False, help=said.get(name))
    for name, sub in commands.choices.items():
        for action in sub._actions:
            _complete(name, action)
    return whole


def script(shell: str) -> str:
    """The script for one of SHELLS."""
    import shtab

    text: str = shtab.complete(parser(), shell)
    return text + (_BASH if shell == "bash" else "")


def _complete(command: str, action: argparse.Action) -> None:
    """Say how an argument is completed, where its choices do not."""
    import shtab

    if command == "export" and action.dest == "to":
        from optimize.export.formats.registry import NAMES

        action.choices = NAMES
        return
    if command == "init" and action.dest == "task":
        from optimize.tasks import registry

        action.choices = registry.names()
        return
    ways = _by_name(shtab)
    how = ways.get((command, action.dest), ways.get(("", action.dest)))
    if how is not None and action.choices is None:
        action.complete = how  # type: ignore[attr-defined]


def _by_name(shtab: Any) -> Mapping[tuple[str, str], Any]:
    """By command and argument; a command of "" stands for all others."""
    models, artifacts = shtab.cmd(_MODELS), shtab.cmd(_ARTIFACTS)
    return {
        ("", "recipe"): shtab.glob("*.yaml", "*.yml"),
        ("", "artifact"): shtab.DIRECTORY,
        ("", "artifacts"): shtab.DIRECTORY,
        ("", "folder"): shtab.DIRECTORY,
        ("", "output"): shtab.DIRECTORY,
        ("", "workdir"): shtab.DIRECTORY,
        ("", "model_store"): shtab.DIRECTORY,
        ("", "requests"): shtab.DIRECTORY,
        ("", "config"): shtab.FILE,
        ("", "checkpoint"): shtab.FILE,
        ("", "data"): shtab.FILE,
        ("init", "model"): shtab.FILE,
        ("init", "name"): None,
        ("predict", "file"): shtab.FILE,
        ("", "header_file"): shtab.FILE,
        ("", "key"): shtab.glob("*.pem"),
        ("", "sign"): shtab.glob("*.pem"),
        ("", "archive"): shtab.glob("*.mar", "*.tar.gz"),
        ("", "name"): models,
        ("verify", "file"): models,
        ("register", "url"): shtab.cmd(_ARCHIVES),
        ("archive", "name"): artifacts,
        ("serve", "name"): artifacts,
        ("tune", "name"): artifacts,
    }
