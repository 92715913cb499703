"""Ask versions of models the same and take the time."""

import json
import time
from dataclasses import dataclass

from deploy.console import answer
from deploy.console.answer import Answer
from deploy.errors import Refused
from deploy.torchserve.inference import Inference


@dataclass(frozen=True)
class Asked:
    """A version's answer, or what it refused with.

    `milliseconds` from sending the request to having the answer, as this process saw it.
    """

    name: str
    version: str
    milliseconds: float
    answer: Answer | None = None
    refusal: str = ""


def ask(
    inference: Inference,
    name: str,
    version: str,
    body: bytes,
    content_type: str,
    explain: bool = False,
) -> Asked:
    """Put one input to a version; with `explain` ask afterwards why, which is not timed.

    Raises NoServer.
    """
    began = time.perf_counter()
    try:
        value = inference.predict(name, body, content_type, version)
    except Refused as error:
        spent = 1e3 * (time.perf_counter() - began)
        kind = f"{error.kind}: " if error.kind else ""
        return Asked(name, version, spent, refusal=f"{error.status}, {kind}{error.detail or error}")
    spent = 1e3 * (time.perf_counter() - began)
    found = answer.read(value)
    if explain:
        try:
            told = inference.predict(name, body, content_type, version, explain=True)
            answer.explain(found, told, _text(body, content_type))
        except Refused as error:
            found.explained = f"not told: {error.detail or error}"
    return Asked(name, version, spent, found)


def compared(asked: list[Asked]) -> str:
    """Whether two versions say the same, in one line; empty where there are no two answers."""
    answers = [one.answer for one in asked if one.answer is not None]
    return answer.compared(*answers) if len(answers) == 2 else ""


def _text(body: bytes, content_type: str) -> str:
    text = body.decode("utf-8", "replace")
    if content_type.startswith("application/json"):
        try:
            value = json.loads(text)
            return str(value["text"])
        except (ValueError, KeyError, TypeError, RecursionError):
            return ""
    return text
