"""Paths, split as TorchServe splits them: `/predictions/NAME/` is `/predictions/NAME`."""

from flask import Request


def segments(request: Request) -> list[str]:
    """The path's parts after the first: ["NAME", "VERSION"], empty ones at the end left out."""
    raw = request.environ.get("PATH_INFO", "").encode("latin-1").decode("utf-8", "replace")
    parts = str(raw).split("/")[2:]
    while parts and not parts[-1]:
        parts.pop()
    return parts
