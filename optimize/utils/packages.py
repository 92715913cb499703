"""Folders of installed packages that ship weights and data."""

import logging
from importlib.util import find_spec
from pathlib import Path

logger = logging.getLogger(__name__)


def package_folder(name: str) -> Path | None:
    """Folder of an installed package, without importing it; None if it is not installed."""
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(spec.submodule_search_locations[0])
    logger.debug("the package %s lies in %s", name, folder)
    return folder
