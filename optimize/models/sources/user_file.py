"""Users' own models and loaders, named as `path/to/file.py:function`."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from optimize.errors import ModelError
from optimize.utils import user_modules
from optimize.utils.torchvision_shim import retrying


def path_of(reference: str, folder: Path) -> Path:
    """The file of `path/to/file.py:name`, the path relative to `folder`."""
    return (folder / Path(reference.rpartition(":")[0]).expanduser()).resolve()


def load_function(reference: str, folder: Path) -> Callable[..., Any]:
    """The function named by `path/to/file.py:name`, the path relative to `folder`.

    The file can import what lies beside it or in `folder`.

    Raises:
        ModelError: no such file or function, or the file fails to import.
    """
    path, name = path_of(reference, folder), reference.rpartition(":")[2]
    if not path.is_file():
        raise ModelError(f"{reference}: {path} is not a file; write path/to/file.py:function")
    try:
        module = retrying(lambda: user_modules.load(path, folder))
    except Exception as error:
        said = user_modules.plain(f"{type(error).__name__}: {error}")
        raise ModelError(f"{path} fails to import: {said}") from error
    function = getattr(module, name, None)
    if not callable(function):
        defined = [k for k, v in vars(module).items() if inspect.isfunction(v)]
        raise ModelError(f"{path} has no function {name!r}; it has {', '.join(defined) or 'none'}")
    return function  # type: ignore[no-any-return]
