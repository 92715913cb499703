"""Five questions in a terminal, each with a default where the data or the field have one."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from optimize.draft import data, model
from optimize.draft.asked import Asked, Goal
from optimize.errors import OptimizeError, RecipeError
from optimize.tasks import registry

T = TypeVar("T")
Read = Callable[[str], str]
Say = Callable[[str], None]
_POINT = 0.01


def ask(given: Asked, folder: Path, read: Read, say: Say, *, more: bool) -> Asked | None:
    """The answers that are missing; None if the user wants no recipe.

    Args:
        given: what the command line says; "" where it says nothing.
        folder: the recipe's.
        read: asks a question and returns the line.
        say: prints a line.
        more: whether to ask for the budget and the goal too.
    """

    def until(question: str, check: Callable[[str], T], default: str = "") -> T:
        while True:
            try:
                return check(read(question).strip() or default)
            except OptimizeError as error:
                say(f"  {error}")

    def seen(text: str) -> str:
        if text:
            data.look(text, folder, task=given.task, target=given.target)
        return text

    where = given.data
    if not where:
        say(f"1/5 Your data: {data.TAKEN}")
        where = until("    data (Enter: write no recipe) > ", seen)
        if not where:
            return None
    guess = given.task or data.look(where, folder, target=given.target).task
    task = given.task
    if task is None:
        say(f"2/5 What the model does: {', '.join(registry.names())}")
        task = until(f"    task{f' (Enter: {guess})' if guess else ''} > ", _task, guess or "")
    chosen, checkpoint = given.model, given.checkpoint
    if not chosen:
        say(f"3/5 Your model: {model.TAKEN}; and, after a space, a file of weights")

        def looked(text: str) -> tuple[str, str | None]:
            name, _, weights = text.partition(" ")
            file = weights.strip() or checkpoint
            model.look(name, file, folder, task, registry.load(task).architectures)
            return name, file

        chosen, checkpoint = until("    model > ", looked)
    answers = dataclasses.replace(given, data=where, task=task, model=chosen, checkpoint=checkpoint)
    if not more:
        return answers
    say("4/5 How much the compressed model may lose, in points of accuracy")
    answers = dataclasses.replace(answers, max_drop=until("    points (Enter: 1) > ", _points, "1"))
    say("5/5 What matters most: speed or size")
    return dataclasses.replace(answers, goal=until("    (Enter: speed) > ", _goal, "speed"))


def _task(text: str) -> str:
    if text not in registry.names():
        raise RecipeError(f"one of {', '.join(registry.names())}")
    return text


def _points(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 100:
        raise RecipeError("a number of points, such as 1 or 0.5")
    return round(value * _POINT, 6)


def _goal(text: str) -> Goal:
    if text == "size":
        return "size"
    if text == "speed":
        return "speed"
    raise RecipeError("speed or size")
