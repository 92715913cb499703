"""What of an error is the user's: the lines of their files that it came through, and the layer."""

import linecache
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from torch import nn

_PACKAGES = Path(__file__).resolve().parents[2]
_OURS = tuple(f"{_PACKAGES / name}/" for name in ("optimize", "handlers", "deploy", "marpress"))
_STANDARD = tuple(
    str(Path(sysconfig.get_path(name)).resolve()) + "/" for name in ("stdlib", "platstdlib")
)


def user_lines(error: BaseException, most: int = 3) -> str:
    """The last lines of the user's own files that `error` came through.

    A file is the user's if it is none of the standard library's, of an installed package's or of
    ours. The errors that `error` was raised from are looked through too, and a syntax error's own
    place.

    Args:
        error: as it was caught, with its traceback.
        most: number of lines.

    Returns:
        `FILE:LINE in FUNCTION: SOURCE`, a line each, the innermost last; "" if there is none.
    """
    found: list[str] = []
    for cause in _causes(error):
        for frame, number in _frames(cause):
            code = frame.f_code
            if is_users(code.co_filename):
                source = linecache.getline(code.co_filename, number).strip()
                place = "" if code.co_name == "<module>" else f" in {code.co_name}"
                found.append(f"{code.co_filename}:{number}{place}: {source}")
        if isinstance(cause, SyntaxError) and is_users(cause.filename or ""):
            found.append(f"{cause.filename}:{cause.lineno}: {(cause.text or '').strip()}")
    return "\n".join(list(dict.fromkeys(found))[-most:])


def layer(error: BaseException) -> str:
    """The name of the innermost layer that was running when `error` was raised, within the
    outermost one; "" if none was."""
    modules: list[nn.Module] = []
    for cause in _causes(error):
        for frame, _ in _frames(cause):
            running = frame.f_locals.get("self")
            wrapper = type(running).__module__.startswith("optimize.training.")
            if isinstance(running, nn.Module) and not wrapper:
                modules.append(running)
    for outermost in modules:
        names: dict[nn.Module, str] = {m: name for name, m in outermost.named_modules()}
        inside = [names[module] for module in modules if names.get(module)]
        if inside:
            return inside[-1]
    return ""


def first_line(error: BaseException, most: int = 300) -> str:
    """The kind of the error and the first line of its message; of TorchScript's the last, which
    says what happened."""
    lines = str(error).strip().splitlines()
    if not lines:
        return type(error).__name__
    line = lines[-1] if "TorchScript interpreter" in lines[0] else lines[0]
    return f"{type(error).__name__}: {line.strip()[:most]}"


def _causes(error: BaseException) -> list[BaseException]:
    """The error and those that it was raised from, the first that was raised first."""
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in chain:
        chain.append(cause)
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return chain[::-1]


def _frames(error: BaseException) -> Iterator[tuple[FrameType, int]]:
    trace: Any = error.__traceback__
    while trace is not None:
        yield trace.tb_frame, trace.tb_lineno
        trace = trace.tb_next


def is_users(file: str) -> bool:
    """Whether a source file is the user's: not of the standard library, a package or ours."""
    if not file or file.startswith("<"):
        return False
    path = str(Path(file).resolve())
    installed = {"site-packages", "dist-packages"} & set(Path(path).parts)
    return not installed and not path.startswith((*_OURS, *_STANDARD))
