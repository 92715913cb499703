"""A criterion of the gate as data: what was asked, what was measured, and whether it holds."""

from typing import Any, Literal

Comparator = Literal["<=", ">="]


def criterion(
    metric: str,
    value: float,
    comparator: Comparator,
    threshold: float,
    tolerance: float,
    samples: int,
) -> dict[str, Any]:
    """The report's entry; `passed` is whether `value` meets `threshold` but for `tolerance`.

    All in the metric's own unit; `tolerance` is the difference that counts as none.
    """
    beyond = value - threshold if comparator == "<=" else threshold - value
    return {
        "metric": metric,
        "comparator": comparator,
        "threshold": threshold,
        "tolerance": tolerance,
        "value": value,
        "samples": samples,
        "passed": bool(beyond <= tolerance),
    }
