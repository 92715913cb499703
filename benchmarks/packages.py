"""Installed packages that ship the benchmarks' weights and data."""

from pathlib import Path

from optimize.utils import packages


def package_folder(name: str) -> Path:
    """The folder of an installed package, without importing it; exits where it is missing."""
    folder = packages.package_folder(name)
    if folder is None:
        raise SystemExit(f"{name} is not installed: pip install --no-deps {name.replace('_', '-')}")
    return folder
