"""Prometheus metrics of a handler, through TorchServe's metrics cache.

TorchServe takes a worker's metrics as lines of its log, one for each value, which it parses: four
a batch took 7 % of a worker's time. Values are therefore summed here and told once a second, a
histogram as the series that it is made of: counters NAME_bucket with the label `le`, NAME_sum and
NAME_count. What the last second held is lost with a worker that is killed.

TorchServe forwards a worker's metric only if metrics.yaml declares it under
`model_metrics` with the same name, type, unit and dimensions, or if
`model_metrics_auto_detect=true`. DECLARATIONS is the text to declare.
"""

import bisect
import itertools
import logging
import threading
import time
from collections.abc import Sequence
from typing import Any

from handlers.worker import in_torchserve_worker

logger = logging.getLogger(__name__)

PREPROCESS = "marpress_preprocess_seconds"
INFERENCE = "marpress_inference_seconds"
POSTPROCESS = "marpress_postprocess_seconds"
BATCH_SIZE = "marpress_batch_size"
ERRORS = "marpress_errors_total"

LABELS = ("ModelName", "ModelVersion", "Level")
INTERVAL = 1.0  # seconds between two emissions

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0)
# Upper bounds of each histogram's buckets; one without a bound comes after them.
BUCKETS: dict[str, tuple[float, ...]] = {
    PREPROCESS: _SECONDS,
    INFERENCE: _SECONDS,
    POSTPROCESS: _SECONDS,
    BATCH_SIZE: (1, 2, 4, 8, 16, 32, 64),
}
_UNITS = {BATCH_SIZE: "count"}

# name, metric type, unit as metrics.yaml spells it, dimensions
DECLARATIONS: tuple[tuple[str, str, str, tuple[str, ...]], ...] = (
    *(
        (name + series, "counter", unit, (*LABELS, *extra))
        for name in BUCKETS
        for series, unit, extra in (
            ("_bucket", "count", ("le",)),
            ("_sum", _UNITS.get(name, "s"), ()),
            ("_count", "count", ()),
        )
    ),
    (ERRORS, "counter", "count", (*LABELS, "Status", "Type")),
)

Series = tuple[str, tuple[str, ...]]
"""A declared metric and the values of its labels beyond LABELS."""


class Histogram:
    """Values counted by bucket since they were last taken."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._bounds = BUCKETS[name]
        self._labels = [*(f"{bound:g}" for bound in self._bounds), "+Inf"]
        self._counts = [0] * len(self._labels)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self._counts[bisect.bisect_left(self._bounds, value)] += 1
        self._sum += value

    def take(self) -> dict[Series, float]:
        """What each series grew by; from here on counting starts again."""
        totals = list(itertools.accumulate(self._counts))
        if not totals[-1]:
            return {}
        grown: dict[Series, float] = {
            (f"{self.name}_bucket", (label,)): total
            for label, total in zip(self._labels, totals, strict=True)
            if total
        }
        grown[f"{self.name}_sum", ()] = round(self._sum, 6)
        grown[f"{self.name}_count", ()] = totals[-1]
        self._counts, self._sum = [0] * len(self._labels), 0.0
        return grown


class Metrics:
    """Sums the declared metrics and emits them, or nothing where there is no cache.

    `name` and `version` are those that the model is served under, as a client calls it.
    """

    def __init__(self, cache: Any, name: str, version: str = "") -> None:
        self._labels = [name, version, "Model"]
        self._metrics: dict[str, Any] = {}
        self._histograms = {histogram: Histogram(histogram) for histogram in BUCKETS}
        self._errors: dict[Series, float] = {}
        self._lock = threading.Lock()
        self._emitted = -INTERVAL  # by time.monotonic
        self._timer: threading.Timer | None = None
        if cache is None:
            return
        try:
            for name, kind, unit, dimensions in DECLARATIONS:
                self._metrics[name] = _registered(cache, name, kind, unit, dimensions)
        except Exception:  # a worker must not fail for its metrics
            logger.warning("no handler metrics: TorchServe's metrics cache refused", exc_info=True)
            self._metrics = {}

    def observe(self, name: str, value: float) -> None:
        """Record one value of a histogram: seconds, or a count."""
        if self._metrics:
            with self._lock:
                self._histograms[name].observe(value)
            self._emit_in_time()

    def error(self, status: int, type: str) -> None:
        """Count one failed request."""
        if self._metrics:
            key = (ERRORS, (str(status), type))
            with self._lock:
                self._errors[key] = self._errors.get(key, 0) + 1
            self._emit_in_time()

    def emit(self) -> None:
        """Tell TorchServe what came since the last time."""
        with self._lock:
            self._emitted, self._timer = time.monotonic(), None
            grown, self._errors = self._errors, {}
            for histogram in self._histograms.values():
                grown |= histogram.take()
        for (name, extra), value in grown.items():
            try:
                self._metrics[name].add_or_update(value, [*self._labels, *extra])
            except Exception:
                logger.warning("metric %s was not recorded", name, exc_info=True)

    def _emit_in_time(self) -> None:
        """Emit soon after the first value, and then once an interval; never in a request's way."""
        with self._lock:
            if self._timer is not None:
                return
            # A batch has several values: they are told together.
            wait = max(0.02, self._emitted + INTERVAL - time.monotonic())
            self._timer = threading.Timer(wait, self.emit)
            self._timer.daemon = True
            self._timer.start()


class Seldom:
    """TorchServe's metrics cache, in which PredictionTime changes once an interval at most.

    It is a gauge that TorchServe's Service sets after every batch, with a line of the log.
    """

    def __init__(self, cache: Any) -> None:
        self._cache = cache
        self._told = -INTERVAL

    def add_time(self, name: str, value: float, *rest: Any, **options: Any) -> None:
        """As the cache's own."""
        now = time.monotonic()
        if name == "PredictionTime":
            if now - self._told < INTERVAL:
                return
            self._told = now
        self._cache.add_time(name, value, *rest, **options)

    @property
    def request_ids(self) -> Any:
        """The requests of the batch, which Service tells the cache."""
        return self._cache.request_ids

    @request_ids.setter
    def request_ids(self, value: Any) -> None:
        self._cache.request_ids = value

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cache, name)


def served(context: Any, name: str) -> Metrics:
    """The metrics of a worker, from TorchServe's context; `name` where it tells none.

    An archive may be registered under another name than its card's.
    """
    manifest = getattr(context, "manifest", None)
    model = manifest.get("model") if isinstance(manifest, dict) else None
    version = model.get("modelVersion") if isinstance(model, dict) else None
    known = getattr(context, "model_name", None) or name
    cache = getattr(context, "metrics", None)
    if cache is not None and in_torchserve_worker():
        context.metrics = Seldom(cache)
    return Metrics(cache, str(known), str(version or ""))


def _registered(cache: Any, name: str, kind: str, unit: str, dimensions: Sequence[str]) -> Any:
    """The cache's metric of that name, added where metrics.yaml does not declare it."""
    from ts.metrics.metric_type_enum import MetricTypes

    metric_type = MetricTypes(kind)
    known = getattr(cache, "cache", {}).get(metric_type, {})
    if name in known:
        return known[name]
    return cache.add_metric_to_cache(
        metric_name=name, unit=unit, dimension_names=list(dimensions), metric_type=metric_type
    )
