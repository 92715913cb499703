"""Command line: `python -m optimize run RECIPE`, and `export`, `report`, `compare` ARTIFACT."""

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from optimize.errors import OptimizeError, StorageError
from optimize.utils import files
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
    return parser


def _run(arguments: argparse.Namespace) -> None:
    from optimize.run import run
    from optimize.tasks.registry import read_recipe
    from optimize.training import distributed

    def say(line: str) -> None:
        print(line, flush=True)

    if arguments.command in ("report", "compare"):
        _show(arguments, say)
        return
    if arguments.command == "export":
        from optimize.export import command

        command.run(
            arguments.artifact,
            [name.strip() for name in arguments.to.split(",") if name.strip()],
            precisions=[name.strip() for name in arguments.precision.split(",") if name.strip()],
            recipe=arguments.recipe,
            overrides=arguments.set,
            timed=not arguments.no_latency,
            say=say,
        )
        return
    checked = read_recipe(arguments.recipe, arguments.set)
    logger.debug("%s", cleaned(repr(checked)))
    with distributed.joined():
        run(checked, arguments.output, resume=arguments.resume, say=say)


def _show(arguments: argparse.Namespace, say: Callable[[str], None]) -> None:
    from optimize.report import compare, page, report

    if arguments.command == "compare":
        lines = compare.compare(*map(compare.whole, arguments.artifacts))
    elif arguments.html:
        folder = arguments.artifact
        lines = [f"{page.write(folder, compare.whole(folder))}: open it in a browser"]
    else:
        lines = report.summary(compare.whole(arguments.artifact))
    for line in lines:
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
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except (OSError, RuntimeError) as error:
        sentence = files.environment(error)
        if sentence is None:
            raise
        if isinstance(error, OSError) and error.filename is None:
            _mute()  # most likely our output's disk is full: do not try again at the end
        print(f"error: {sentence}", file=sys.stderr)
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
