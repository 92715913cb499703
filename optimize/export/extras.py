"""The pinned packages that a format needs: `python -m optimize.export.extras FORMAT`."""

import sys

from optimize.export.formats.registry import NAMES
from optimize.utils import distribution


def packages(name: str) -> list[str]:
    """Requirements of a format's extra."""
    return distribution.requirements(name)


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
