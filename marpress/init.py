"""The command `marpress init`: a working folder, and a first recipe for a model of one's own."""

import argparse
import sys
from pathlib import Path
from typing import TextIO

from marpress import workplace

TEXT = """\
Write config.properties, recipes/ and model_store/; what is there already stays.
With --data and --model, or asked in a terminal, also a recipe for a model of
your own, NAME.yaml: data and model are looked at and tried together first."""
_RECIPE = ("data", "model", "checkpoint", "task", "target", "max_drop", "goal", "name")


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    made = argparse.ArgumentParser(
        prog="marpress init",
        description=TEXT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("folder", type=Path, nargs="?", default=Path(), help="default: this one")
    recipe = made.add_argument_group("a recipe for a model of your own")
    recipe.add_argument(
        "--data", help="pictures by class, a table, arrays, or file.py:function that loads them"
    )
    recipe.add_argument(
        "--model", help="file.py:function, TorchScript, a Hugging Face folder, timm/NAME"
    )
    recipe.add_argument("--checkpoint", metavar="FILE", help="the model's weights")
    recipe.add_argument("--task", help="default: what the data look like")
    recipe.add_argument("--target", metavar="NAME", help="the column or array to predict")
    recipe.add_argument(
        "--max-drop", type=float, metavar="SHARE", help="what may be lost (default: 0.01)"
    )
    recipe.add_argument(
        "--for", dest="goal", choices=("speed", "size"), help="what matters most (default: speed)"
    )
    recipe.add_argument("--name", help="of the recipe and its model (default: the data's)")
    made.add_argument("--no-recipe", action="store_true", help="ask nothing, write no recipe")
    return made


def run(words: list[str]) -> int:
    """Write the folder and the recipe; returns the exit code."""
    args = parser().parse_args(words)
    asks = not args.no_recipe and _is_terminal(sys.stdin) and _is_terminal(sys.stdout)
    flags = any(getattr(args, name) is not None for name in _RECIPE)
    if flags and not asks and not (args.data and args.model):
        print("error: a recipe needs both --data and --model", file=sys.stderr)
        return 2
    from optimize.errors import OptimizeError, StorageError
    from optimize.utils import files
    from optimize.utils.terminal import note

    try:
        for path in workplace.write(args.folder):
            print(path)
        return _recipe(args, asks) if flags or asks else 0
    except OptimizeError as error:
        note(f"error: {error}")
        return error.exit_code
    except ModuleNotFoundError as error:
        note(
            f"error: {error.name} is not installed here: pip install 'marpress[images]', [text] or "
            "[speech], as your data are"
        )
        return 7
    except OSError as error:
        note(f"error: {files.environment(error) or error}")
        return StorageError.exit_code
    except (EOFError, KeyboardInterrupt):
        note("\nno recipe was written")
        return 130


def _is_terminal(stream: TextIO | None) -> bool:
    """Whether somebody sits there; a stream that was closed before the start is None."""
    return stream is not None and stream.isatty()


def _recipe(args: argparse.Namespace, asks: bool) -> int:
    from optimize.draft import questions
    from optimize.draft.asked import Asked
    from optimize.draft.draft import draft
    from optimize.utils.terminal import say

    given = Asked(
        args.data or "",
        args.model or "",
        args.checkpoint,
        args.task,
        args.target,
        0.01 if args.max_drop is None else args.max_drop,
        args.goal or "speed",
        args.name,
    )
    answers: Asked | None = given
    if asks and not (given.data and given.model):
        more = args.max_drop is None and args.goal is None
        answers = questions.ask(given, args.folder, input, say, more=more)
    if answers is None:
        return 0
    path = draft(answers, args.folder, say)
    say(f"recipe {path}")
    say(f"next   python -m marpress run {path}")
    return 0
