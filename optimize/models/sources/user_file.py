"""Users' own models and loaders, named as `path/to/file.py:function`."""

import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle

from optimize.errors import ModelError
from optimize.utils.torchvision_shim import retrying


def load_function(reference: str, folder: Path) -> Callable[..., Any]:
    """The function named by `path/to/file.py:name`, the path relative to `folder`.

    Raises:
        ModelError: no such file or function, or the file fails to import.
    """
    file, _, name = reference.rpartition(":")
    path = (folder / file).resolve() if not Path(file).is_absolute() else Path(file)
    if not path.is_file():
        raise ModelError(f"{reference}: {path} is not a file; write path/to/file.py:function")
    spec = importlib.util.spec_from_file_location(f"marpress_user_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ModelError(f"{reference}: {path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    cloudpickle.register_pickle_by_value(module)
    loader = spec.loader
    try:
        retrying(lambda: loader.exec_module(module))
    except Exception as error:
        raise ModelError(f"{path} fails to import: {type(error).__name__}: {error}") from error
    function = getattr(module, name, None)
    if not callable(function):
        defined = [k for k, v in vars(module).items() if inspect.isfunction(v)]
        raise ModelError(f"{path} has no function {name!r}; it has {', '.join(defined) or 'none'}")
    return function  # type: ignore[no-any-return]
