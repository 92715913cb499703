"""Command line: `python -m optimize run RECIPE`, and `export`, `report`, `compare` ARTIFACT."""

import argparse
import json
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from optimize.errors import ExtraMissing, OptimizeError, StorageError
from optimize.utils import files, terminal
from optimize.utils.urls import cleaned

logger = logging.getLogger("optimize")

EXIT_CODES = """exit codes: 0 the gate passed; 2 a bad recipe or command; 3 the accuracy budget was
missed (the artifact is kept); 4 data missing or damaged; 5 a model that a stage cannot handle;
6 the saved file does not answer as the module; 7 no space, no permission, or another run is at
work in the folder; 8 an exported file failed its check and was deleted; 130 interrupted (finished
stages are kept: continue with --resume)"""


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=prog, epilog=EXIT_CODES)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--verbose", action="store_true", help="log each step and every traceback to standard error"
    )
    common.add_argument(
        "--json", action="store_true", help="print one JSON value; progress goes to standard error"
    )
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", parents=[common], help="run a recipe", epilog=EXIT_CODES)
    run.add_argument("recipe", type=Path, help="a YAML recipe, as in recipes/")
    run.add_argument("--output", type=Path, help="artifact folder (default artifacts/NAME)")
    run.add_argument("--resume", action="store_true", help="keep finished stages")
    run.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override a setting"
    )
    show = commands.add_parser("report", parents=[common], help="print an artifact's report")
    show.add_argument("artifact", type=Path, help="an artifact's folder")
    show.add_argument("--html", action="store_true", help="write report.html anew")
    against = commands.add_parser(
        "compare", parents=[common], help="print two artifacts side by side"
    )
    against.add_argument("artifacts", type=Path, nargs=2, metavar="ARTIFACT")
    against.set_defaults(html=False)
    export = commands.add_parser(
        "export",
        parents=[common],
        help="write an artifact in other runtimes' formats",
        epilog=EXIT_CODES,
    )
    export.add_argument("artifact", type=Path, help="an artifact's folder")
    export.add_argument("--to", required=True, metavar="FORMAT,...", help="see docs/formats.md")
    export.add_argument("--precision", default="", metavar="NAME,...", help="default: all")
    export.add_argument("--recipe", type=Path, help="default recipes/NAME.yaml")
    export.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as in run")
    export.add_argument("--no-latency", action="store_true", help="measure no latency")
    commands.add_parser(
        "schema", parents=[common], help="print the JSON Schema of recipes, for editors"
    )
    return parser


def _run(arguments: argparse.Namespace) -> None:
    if not arguments.json or arguments.command == "schema":
        _do(arguments, terminal.say, lambda value: None)
        return
    with terminal.json_alone() as show:
        _do(arguments, terminal.note, show)


def _do(
    arguments: argparse.Namespace, say: Callable[[str], None], show: Callable[[Any], None]
) -> None:
    """Run one command; it says lines, and shows one value that JSON can hold."""
    if arguments.command == "schema":
        from optimize.tasks import registry

        try:
            print(json.dumps(registry.json_schema(), indent=1))
        except ModuleNotFoundError as error:
            raise ExtraMissing(
                f"the schema is of all tasks, and {error.name} is not installed: pip install "
                "'marpress[images,text,speech]', or take recipes/recipe.schema.json, which "
                "`marpress init` writes"
            ) from error
    elif arguments.command in ("report", "compare"):
        _show(arguments, say, show)
    elif arguments.command == "export":
        _export(arguments, say, show)
    else:
        _make(arguments, say, show)


def _make(
    arguments: argparse.Namespace, say: Callable[[str], None], show: Callable[[Any], None]
) -> None:
    from optimize.errors import BudgetMissed
    from optimize.pipeline.job import folder_of
    from optimize.report import report
    from optimize.run import run
    from optimize.tasks.registry import read_recipe
    from optimize.training import distributed

    checked = read_recipe(arguments.recipe, arguments.set)
    logger.debug("%s", cleaned(repr(checked)))
    folder = folder_of(checked, arguments.output)
    with distributed.joined():
        try:
            run(checked, arguments.output, resume=arguments.resume, say=say)
        except BudgetMissed:
            if distributed.leads():
                show(report.read(folder))
            raise
        if distributed.leads():
            show(report.read(folder))


def _export(
    arguments: argparse.Namespace, say: Callable[[str], None], show: Callable[[Any], None]
) -> None:
    from optimize.errors import ExportRefused
    from optimize.export import command
    from optimize.report import report

    def names(text: str) -> list[str]:
        return [name.strip() for name in text.split(",") if name.strip()]

    asked = names(arguments.to)

    def shown() -> dict[str, Any]:
        exports = report.read(arguments.artifact)["exports"]
        return {name: entry for name, entry in exports.items() if entry["format"] in asked}

    try:
        command.run(
            arguments.artifact,
            asked,
            precisions=names(arguments.precision),
            recipe=arguments.recipe,
            overrides=arguments.set,
            timed=not arguments.no_latency,
            say=say,
        )
    except ExportRefused:
        show(shown())
        raise
    show(shown())


def _show(
    arguments: argparse.Namespace, say: Callable[[str], None], show: Callable[[Any], None]
) -> None:
    from optimize.report import compare, page, report

    if arguments.command == "compare":
        both = [compare.whole(folder) for folder in arguments.artifacts]
        found, lines = compare.as_json(*both), compare.compare(*both)
    else:
        found = compare.whole(arguments.artifact)
        lines = report.summary(found)
        if arguments.html:
            lines = [f"{page.write(arguments.artifact, found)}: open it in a browser"]
    show(found)
    for line in lines if arguments.html or not arguments.json else []:
        say(line)


def _log_to_stderr() -> None:
    """Show what this program logs, and other packages' warnings; for `--verbose`."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.captureWarnings(True)
    for package in ("optimize", "handlers"):
        logging.getLogger(package).setLevel(logging.DEBUG)


def main(argv: Sequence[str] | None = None, prog: str = "python -m optimize") -> int:
    """Run the command; returns its exit code."""
    arguments = _parser(prog).parse_args(argv)
    if arguments.verbose:
        _log_to_stderr()
    try:
        _run(arguments)
    except BrokenPipeError:  # the reader of our output went away
        _mute()
        return 141
    except OptimizeError as error:
        logger.debug("where it was raised:", exc_info=error)
        terminal.note(f"error: {error}")
        return error.exit_code
    except (OSError, RuntimeError) as error:
        sentence = files.environment(error)
        if sentence is None:
            raise
        if isinstance(error, OSError) and error.filename is None:
            _mute()  # most likely our output's disk is full: do not try again at the end
        terminal.note(f"error: {sentence}")
        return StorageError.exit_code
    except KeyboardInterrupt:
        exporting = arguments.command == "export"
        kept = (
            "files that passed are kept" if exporting else "finished stages are kept: add --resume"
        )
        print(f"\ninterrupted; {kept}", file=sys.stderr)
        return 130
    return 0


def _mute() -> None:
    """Write no more to standard output: the interpreter would flush it once more at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
