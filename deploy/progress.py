"""How `serve` reports its steps."""

from collections.abc import Callable

Say = Callable[[str], None]
"""Takes one line of text for the user, as `print` does."""
