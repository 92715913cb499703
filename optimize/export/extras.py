"""The packages a format needs, as pyproject.toml pins them: `python -m optimize.export.extras`."""

import sys
import tomllib
from pathlib import Path

from optimize.export.formats.base import NAMES

PROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"


def packages(name: str) -> list[str]:
    """Requirements of a format's extra."""
    project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
    found: list[str] = project["optional-dependencies"][name]
    return found


def main() -> int:
    """Print one format's packages on one line; 2 if there is no such format."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in NAMES:
        print(f"error: no format {name!r}; there are {', '.join(NAMES)}", file=sys.stderr)
        return 2
    print(" ".join(packages(name)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
