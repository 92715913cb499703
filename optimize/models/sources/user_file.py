"""Users' own models and loaders, named as `path/to/file.py:function`."""

import importlib.util
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from optimize.errors import ModelError
from optimize.utils import user_modules
from optimize.utils.blame import first_line, user_lines
from optimize.utils.torchvision_shim import retrying


def path_of(reference: str, folder: Path) -> Path:
    """The file of `path/to/file.py:name`, the path relative to `folder`."""
    return (folder / Path(reference.rpartition(":")[0]).expanduser()).resolve()


def load_function(reference: str, folder: Path) -> Callable[..., Any]:
    """The function named by `path/to/file.py:name`, the path relative to `folder`.

    The file can import what lies beside it or in `folder`.

    Raises:
        ModelError: no such file or function, or the file fails to import; shows the user's lines.
    """
    path, name = path_of(reference, folder), reference.rpartition(":")[2]
    if not path.is_file():
        raise ModelError(f"{reference}: {path} is not a file; write path/to/file.py:function")
    try:
        module = retrying(lambda: user_modules.load(path, folder))
    except (Exception, SystemExit) as error:
        raise ModelError(f"{path} fails to import: {described(error)}") from error
    function = getattr(module, name, None)
    if not callable(function):
        own = [
            k for k, v in vars(module).items() if getattr(v, "__module__", "") == module.__name__
        ]
        raise ModelError(f"{path} has no function {name!r}; it has {', '.join(own) or 'none'}")
    return function  # type: ignore[no-any-return]


def described(error: BaseException) -> str:
    """What a user's code raised, what to do about it if that is known, and the user's lines."""
    said = user_modules.plain(first_line(error))
    said += _way_out(error)
    lines = user_lines(error)
    return said + "".join(f"\n  {line}" for line in lines.splitlines())


def _way_out(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return (
            "; it ends the program: what makes it a script (reading arguments, training) belongs "
            'under `if __name__ == "__main__":`'
        )
    if not isinstance(error, ModuleNotFoundError) or error.name is None:
        return ""
    name = user_modules.plain(error.name)
    top, _, rest = name.partition(".")
    if rest and (importlib.util.find_spec(top) is not None or top == user_modules.PREFIX):
        return f"; the package {top} has no module {rest}"
    if re.match(rf"{user_modules.PREFIX}(_\d+)?$", top):
        return "; `from . import NAME` needs NAME.py beside the file"
    return f"; install what brings {top}, or put {top}.py beside the file that imports it"
