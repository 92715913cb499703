"""What one client asked: inputs and parameters, however they were sent."""

import contextlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from handlers.errors import RequestError
from handlers.streaming import Send

_MAX_LISTED = 20  # options that an error message names

Default = TypeVar("Default", str, None)
Loaded = TypeVar("Loaded")


@dataclass(frozen=True)
class Input:
    """One thing to predict on: bytes as sent or decoded from base64, or a JSON value.

    `content_type` is the lower-case media type its part declared, "" if none;
    `where` names it in error messages, like `instances[2]`.
    """

    value: Any
    content_type: str = ""
    where: str = "body"


@dataclass(frozen=True)
class Request:
    """What one client asked, and how it asked.

    Attributes:
        inputs: what to predict on, one or more.
        parameters: by name, as sent; read them through `integer`, `number`, `choice`, `flag`.
        many: the answer is a list, one entry per input.
        explain: an explanation is asked for beside the answer (`/explanations/NAME`).
        partial_sender: sends a partial answer to the client; None unless it asked for a stream.
    """

    inputs: list[Input]
    parameters: dict[str, Any] = field(default_factory=dict)
    many: bool = False
    explain: bool = False
    partial_sender: Send | None = None

    @property
    def streaming(self) -> bool:
        """Whether the client takes partial answers, through `send`."""
        return self.partial_sender is not None

    def send(self, partial: Any) -> None:
        """Send a JSON value to the client now, as a line of its own; only when `streaming`."""
        if self.partial_sender is None:
            raise RuntimeError("this request is not streaming")
        self.partial_sender(partial)

    def load_inputs(self, load: Callable[[Input], Loaded]) -> list[Loaded]:
        """`load` of each input; of several, a RequestError says which one it is about."""
        loaded = []
        for index, entry in enumerate(self.inputs):
            with self.naming(index):
                loaded.append(load(entry))
        return loaded

    @contextlib.contextmanager
    def naming(self, index: int) -> Iterator[None]:
        """Of several inputs, a RequestError from within says that it is about this one."""
        try:
            yield
        except RequestError as error:
            where = self.inputs[index].where if index < len(self.inputs) else ""
            if not self.many or error.message.startswith(where):
                raise
            raise RequestError(error.status, error.type, f"{where}: {error.message}") from error

    def integer(self, name: str, default: int, low: int, high: int) -> int:
        """A whole-number parameter; RequestError 400 unless low <= value <= high."""
        value = self.parameters.get(name, default)
        if isinstance(value, str) and len(value) <= 20:
            with contextlib.suppress(ValueError):
                value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise RequestError(
                400, "bad_parameter", f"{name} must be a whole number from {low} to {high}"
            )
        return value

    def number(self, name: str, default: float, low: float, high: float) -> float:
        """A parameter that is a number; RequestError 400 unless low <= value <= high."""
        value = self.parameters.get(name, default)
        if isinstance(value, str):
            with contextlib.suppress(ValueError):
                value = float(value)
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not low <= value <= high
        ):
            raise RequestError(
                400, "bad_parameter", f"{name} must be a number from {low:g} to {high:g}"
            )
        return float(value)

    def choice(self, name: str, options: Collection[str], default: Default) -> str | Default:
        """A parameter that is one of `options`; RequestError 400 for any other value."""
        value = self.parameters.get(name, default)
        if value == default:
            return default
        if not isinstance(value, str) or value not in options:
            listed = ", ".join(list(options)[:_MAX_LISTED])
            raise RequestError(400, "bad_parameter", f"{name} must be one of {listed}")
        return value

    def flag(self, name: str, default: bool) -> bool:
        """A parameter that is true or false (1 or 0 in a header); RequestError 400 otherwise."""
        value = self.parameters.get(name, default)
        if isinstance(value, str):
            value = {"true": True, "1": True, "false": False, "0": False}.get(value.lower())
        if not isinstance(value, bool):
            raise RequestError(400, "bad_parameter", f"{name} must be true or false")
        return value
