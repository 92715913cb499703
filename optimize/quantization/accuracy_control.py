"""Layers back in float until the accuracy budget holds, as few as measurement allows."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True)
class Outcome:
    """What was built, and how it got there.

    Attributes:
        model: the quantized model.
        kept: layers left in float, the costliest first.
        drop: accuracy lost against the float model.
        trials: `{"kept", "drop"}` of every model that was built and measured, in order.
    """

    model: nn.Module
    kept: list[str]
    drop: float
    trials: list[dict[str, Any]]


def within_budget(
    build: Callable[[Collection[str]], nn.Module],
    accuracy: Callable[[nn.Module], float],
    whole: float,
    max_drop: float,
    ranking: Callable[[], list[str]],
) -> Outcome:
    """Quantize everything; if that costs too much, keep the costliest layers in float.

    The number of layers is doubled until the budget holds, then halved between, so that of N
    layers about 2 log2 N models are built; then each kept layer is tried in int8 once more.

    Args:
        build: a quantized model with the named layers in float.
        accuracy: of a model, on data that decides.
        whole: the float model's accuracy on it.
        max_drop: what may be lost.
        ranking: layers by what their quantization costs, the costliest first; asked for only
            when it is needed.
    """
    trials: list[dict[str, Any]] = []
    built: dict[tuple[str, ...], tuple[nn.Module, float]] = {}

    def drop(kept: list[str]) -> float:
        if tuple(kept) not in built:
            model = build(kept)
            lost = whole - accuracy(model)
            built[tuple(kept)] = (model, lost)
            trials.append({"kept": len(kept), "drop": lost})
        return built[tuple(kept)][1]

    def outcome(kept: list[str]) -> Outcome:
        lost = drop(kept)
        return Outcome(built[tuple(kept)][0], kept, lost, trials)

    if drop([]) <= max_drop:
        return outcome([])
    order = ranking()
    short, enough = 0, 1
    while enough < len(order) and drop(order[:enough]) > max_drop:
        short, enough = enough, min(2 * enough, len(order))
    while enough - short > 1:
        middle = (short + enough) // 2
        if drop(order[:middle]) <= max_drop:
            enough = middle
        else:
            short = middle
    kept = order[:enough]
    for name in kept[:-1][-8:]:  # one that was kept for the sake of a costlier one may go
        fewer = [other for other in kept if other != name]
        if drop(fewer) <= max_drop:
            kept = fewer
    return outcome(kept)
