"""`ts.metrics`: a handler's own metrics, passed on to the service's.

TorchServe shows a metric only if its metrics.yaml declares it; here each appears with its first
value, as the type it was reported with.
"""

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Sink = Callable[[str, str, float, Mapping[str, str]], None]
"""Takes one value: counter, gauge or histogram; the metric's name; the value; its dimensions."""

TIMES = ("ms", "s")
SIZES = ("MB", "kB", "GB", "B")


class MetricTypes(enum.Enum):
    """How values of a metric add up."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass
class Dimension:
    """A name and a value by which a metric is told apart."""

    name: str
    value: str

    def __str__(self) -> str:
        return f"{self.name}:{self.value}"

    def to_dict(self) -> dict[str, str]:
        """The same as a dictionary."""
        return {"Name": self.name, "Value": self.value}


def discard(kind: str, name: str, value: float, dimensions: Mapping[str, str]) -> None:
    """The sink of a handler that runs without a service."""


@dataclass
class Metric:
    """One metric; `add_or_update` reports a value of it."""

    metric_name: str
    unit: str
    dimension_names: Sequence[str]
    metric_type: MetricTypes
    sink: Sink = discard

    def add_or_update(
        self,
        value: float,
        dimension_values: Sequence[Any] = (),
        request_id: str = "",
        dimensions: Sequence[Dimension] = (),
    ) -> None:
        """Report one value, with a value for each of the metric's dimensions."""
        named = dict(zip(self.dimension_names, map(str, dimension_values), strict=False))
        named |= {dimension.name: str(dimension.value) for dimension in dimensions}
        self.sink(str(self.metric_type.value), self.metric_name, float(value), named)

    update = add_or_update


class MetricsStore:
    """What handlers call `context.metrics`."""

    def __init__(
        self,
        request_ids: Mapping[int, str] | str | None = None,
        model_name: str | None = None,
        sink: Sink = discard,
    ) -> None:
        self.request_ids = request_ids
        self.model_name = model_name
        self._sink = sink
        self.cache: dict[tuple[MetricTypes, str], Metric] = {}

    def set_request_ids(self, request_ids: Mapping[int, str] | str) -> None:
        """The ids of the batch at hand."""
        self.request_ids = request_ids

    def add_metric_to_cache(
        self,
        metric_name: str,
        unit: str,
        dimension_names: Sequence[str] = (),
        metric_type: MetricTypes = MetricTypes.COUNTER,
    ) -> Metric:
        """Make a metric known without a value."""
        metric = Metric(metric_name, unit, tuple(dimension_names), _type(metric_type), self._sink)
        self.cache[metric.metric_type, metric_name] = metric
        return metric

    def get_metric(
        self, metric_name: str, metric_type: MetricTypes = MetricTypes.COUNTER
    ) -> Metric:
        """A metric by its name, made if it is not known: TorchServe's come from metrics.yaml."""
        key = (_type(metric_type), metric_name)
        if key not in self.cache:
            names = () if key[0] is MetricTypes.COUNTER else ("ModelName",)
            return self.add_metric_to_cache(metric_name, "", names, key[0])
        return self.cache[key]

    def add_metric(
        self,
        name: str,
        value: float,
        unit: str = "count",
        idx: int | None = None,
        dimensions: Sequence[Dimension] = (),
        metric_type: MetricTypes = MetricTypes.COUNTER,
    ) -> None:
        """Report a value."""
        given = [*(dimensions or ())]
        known = {dimension.name for dimension in given}
        standard = [Dimension("ModelName", self.model_name or ""), Dimension("Level", "Model")]
        given += [dimension for dimension in standard if dimension.name not in known]
        kind = _type(metric_type)
        metric = self.cache.get((kind, name)) or self.add_metric_to_cache(name, unit, (), kind)
        metric.add_or_update(value, dimensions=given)

    def add_counter(
        self,
        name: str,
        value: float,
        idx: int | None = None,
        dimensions: Sequence[Dimension] = (),
        metric_type: MetricTypes = MetricTypes.COUNTER,
    ) -> None:
        """Add to a counter."""
        self.add_metric(name, value, "count", idx, dimensions, metric_type)

    def add_time(
        self,
        name: str,
        value: float,
        idx: int | None = None,
        unit: str = "ms",
        dimensions: Sequence[Dimension] = (),
        metric_type: MetricTypes = MetricTypes.GAUGE,
    ) -> None:
        """Report a time in ms or s."""
        if unit not in TIMES:
            raise ValueError(f"the unit of a time is one of {', '.join(TIMES)}, not {unit!r}")
        self.add_metric(name, value, unit, idx, dimensions, metric_type)

    def add_size(
        self,
        name: str,
        value: float,
        idx: int | None = None,
        unit: str = "MB",
        dimensions: Sequence[Dimension] = (),
        metric_type: MetricTypes = MetricTypes.GAUGE,
    ) -> None:
        """Report a size in B, kB, MB or GB."""
        if unit not in SIZES:
            raise ValueError(f"the unit of a size is one of {', '.join(SIZES)}, not {unit!r}")
        self.add_metric(name, value, unit, idx, dimensions, metric_type)

    def add_percent(
        self,
        name: str,
        value: float,
        idx: int | None = None,
        dimensions: Sequence[Dimension] = (),
        metric_type: MetricTypes = MetricTypes.GAUGE,
    ) -> None:
        """Report a percentage."""
        self.add_metric(name, value, "percent", idx, dimensions, metric_type)

    def add_error(self, name: str, value: float, dimensions: Sequence[Dimension] = ()) -> None:
        """Report an error; a value that is no number counts as one."""
        amount = value if isinstance(value, int | float) else 1
        self.add_metric(name, amount, "", None, [*dimensions, Dimension("Level", "Error")])


def _type(kind: Any) -> MetricTypes:
    """The type, whichever package's enumeration or string names it."""
    return MetricTypes(getattr(kind, "value", kind))
