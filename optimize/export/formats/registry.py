"""The export formats by name.

A format's module is imported only when the format is asked for, because each brings a large
runtime.
"""

import importlib
import importlib.metadata
import importlib.util
from typing import Any

from optimize.errors import ExtraMissing, RecipeError
from optimize.export.formats.interface import Format

NAMES = ("onnx", "tflite", "coreml", "savedmodel", "openvino", "executorch", "aoti")


def load(name: str) -> Format:
    """The module of a format. Checks that its packages are installed, without importing them.

    Raises:
        RecipeError: there is no such format.
        ExtraMissing: a package is not installed.
    """
    if name not in NAMES:
        raise RecipeError(f"no format {name!r}; there are {', '.join(NAMES)}")
    module: Any = importlib.import_module(f"optimize.export.formats.{name}")
    missing = [m for m in module.MODULES if importlib.util.find_spec(m) is None]
    if missing:
        raise ExtraMissing(
            f"{name} needs {', '.join(missing)}, not installed here: run `make extras-"
            f"{module.EXTRA}` (or `pip install 'marpress[{module.EXTRA}]'`)"
        )
    if name == "aoti" and not module.compiler():
        raise ExtraMissing("aoti needs a C++ compiler: as root `apt-get install g++`")
    return module  # type: ignore[no-any-return]


def versions(form: Format) -> dict[str, str]:
    """Versions of torch and of the packages that wrote and ran a file."""
    return {name: importlib.metadata.version(name) for name in ("torch", *form.PACKAGES)}
