"""Prometheus metrics, under the names that TorchServe's have."""

import logging
import re
import threading
from collections.abc import Callable, Mapping
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.metrics import MetricWrapperBase

from handlers.metrics import BUCKETS

REQUESTS = "ts_inference_requests_total"
INFERENCE = "ts_inference_latency_microseconds"
QUEUE = "ts_queue_latency_microseconds"
_ERRORS = "marpress_errors_total"
_HELP = {
    REQUESTS: "Requests for a model.",
    INFERENCE: "Microseconds in a worker, summed over requests.",
    QUEUE: "Microseconds of waiting for a worker, summed over requests.",
    _ERRORS: "Requests that a handler refused or failed on.",
}

_Key = tuple[str, tuple[tuple[str, str], ...]]

logger = logging.getLogger(__name__)
_NO_NAME = re.compile(r"[^a-zA-Z0-9_]")

disable_created_metrics()  # type: ignore[no-untyped-call]  # TorchServe has no such series


class Metrics:
    """Counters and histograms of the service and its workers; each appears with its first value.

    What is added is summed here, and told to the library when somebody looks.
    """

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._families: dict[str, Any] = {}
        self._series: dict[_Key, Any] = {}
        self._added: dict[_Key, float] = {}
        self._lock = threading.Lock()

    def add(self, name: str, value: float = 1.0, /, **labels: str) -> None:
        """Add to a counter."""
        key = (name, tuple(labels.items()))
        with self._lock:
            self._added[key] = self._added.get(key, 0.0) + value

    def observe(self, name: str, value: float, /, **labels: str) -> None:
        """Record one value of a histogram."""
        self._of(Histogram, name, labels).observe(value)

    def record(self, kind: str, name: str, value: float, labels: dict[str, str]) -> None:
        """One value of a counter, gauge or histogram.

        Raises ValueError for other labels than the name's values had before, AttributeError for
        another kind, TypeError for a label that the library takes for something else.
        """
        if kind == "histogram":
            self.observe(name, value, **labels)
        elif kind == "gauge":
            self._of(Gauge, name, labels).set(value)
        else:
            self._counter(name, labels).inc(value)

    def text(self) -> str:
        """Everything in Prometheus's text format 0.0.4."""
        self._settle()
        return generate_latest(self._registry).decode()

    def _settle(self) -> None:
        """Tell the library what was summed."""
        with self._lock:
            added, self._added = self._added, {}
        for (name, labels), value in added.items():
            try:
                self._counter(name, dict(labels)).inc(value)
            except (ValueError, AttributeError):  # one name's trouble costs the others nothing
                logger.exception("the metric %s is left out", name)

    def _counter(self, name: str, labels: dict[str, str]) -> Any:
        # The library ends every Counter's name in _total, which not all of TorchServe's do.
        return self._of(Counter if name.endswith("_total") else Gauge, name, labels)

    def _of(self, kind: type[MetricWrapperBase], name: str, labels: dict[str, str]) -> Any:
        """The series of these labels; looked up here, since the library takes its time."""
        key = (name, tuple(labels.items()))
        series = self._series.get(key)
        if series is None:
            with self._lock:
                if name not in self._families:
                    text = _HELP.get(name, name)
                    more: Any = {"buckets": BUCKETS[name]} if name in BUCKETS else {}
                    self._families[name] = kind(
                        name, text, tuple(labels), registry=self._registry, **more
                    )
                series = self._series[key] = self._families[name].labels(**labels)
        return series


class HandlerMetrics:
    """What the handlers of one model recorded, summed over its workers."""

    def __init__(self, metrics: Metrics, name: str, version: str) -> None:
        self._metrics = metrics
        self._labels = {"ModelName": name, "ModelVersion": version, "Level": "Model"}

    def take(self, records: list[list[Any]]) -> None:
        """Add what a worker's `Records` took; what is none of it raises TypeError, ValueError."""
        known: dict[str, Callable[..., None]] = {
            "observe": self.observe,
            "error": self.error,
            "record": self.record,
        }
        for kind, *values in records:
            known[kind](*values)

    def observe(self, name: str, value: float) -> None:
        """Record one value of a histogram."""
        if name in BUCKETS:
            self._metrics.observe(name, float(value), **self._labels)
        else:
            self.record("histogram", str(name), float(value), {})

    def record(self, kind: str, name: str, value: float, labels: Mapping[str, str]) -> None:
        """One value of an adopted handler's own counter, gauge or histogram.

        A value that does not fit the name's other values, or whose name the service has itself, is
        left out: a metric fails no request.
        """
        named = {_NO_NAME.sub("_", key): text for key, text in labels.items()}
        series = _NO_NAME.sub("_", name)
        try:
            if _is_ours(series):
                raise ValueError("the service has a metric of that name")
            self._metrics.record(kind, series, value, {**self._labels, **named})
        except (ValueError, AttributeError, TypeError) as error:
            logger.warning("the metric %s is left out: %s", name, error)

    def error(self, status: int, type: str) -> None:
        """Count one failed request."""
        self._metrics.add(_ERRORS, 1, **self._labels, Status=str(status), Type=type)


def _is_ours(name: str) -> bool:
    """Whether a metric of this name would stand in the way of one of the service's."""
    return any(
        name == own or name.startswith(f"{own}_")
        for known in (*_HELP, *BUCKETS, *(f"Requests{group}" for group in ("2XX", "4XX", "5XX")))
        for own in (known, known.removesuffix("_total"))
    )
