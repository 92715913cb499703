"""JSON Schemas of what handlers answer."""

from typing import Any

DRAFT = "https://json-schema.org/draft/2020-12/schema"


def prediction(classes: int) -> dict[str, Any]:
    """One label of `classes` with its index and probability."""
    return {
        "type": "object",
        "required": ["label", "index", "probability"],
        "properties": {
            "label": {"type": "string"},
            "index": {"type": "integer", "minimum": 0, "maximum": classes - 1},
            "probability": {"type": "number", "minimum": 0, "maximum": 1},
        },
    }


def one_or_many(one: dict[str, Any]) -> dict[str, Any]:
    """An answer: `one`, or a list of them where a request held several inputs."""
    return {"$schema": DRAFT, "oneOf": [one, {"type": "array", "items": one}]}
