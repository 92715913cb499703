"""Prometheus metrics of a handler, through TorchServe's metrics cache.

TorchServe forwards a worker's metric only if metrics.yaml declares it under
`model_metrics` with the same name, type, unit and dimensions, or if
`model_metrics_auto_detect=true`. DECLARATIONS is the text to declare.

Times are histograms in seconds: the client library's default buckets (5 ms to
10 s) then fit, and `_sum / _count` gives the mean. The same buckets hold batch
sizes up to 10.
"""

import logging
from typing import Any

logger = logging.getLogger(__name__)

PREPROCESS = "marpress_preprocess_seconds"
INFERENCE = "marpress_inference_seconds"
POSTPROCESS = "marpress_postprocess_seconds"
BATCH_SIZE = "marpress_batch_size"
ERRORS = "marpress_errors_total"

LABELS = ("ModelName", "ModelVersion", "Level")

# name, metric type, unit as metrics.yaml spells it, dimensions
DECLARATIONS: tuple[tuple[str, str, str, tuple[str, ...]], ...] = (
    (PREPROCESS, "histogram", "s", LABELS),
    (INFERENCE, "histogram", "s", LABELS),
    (POSTPROCESS, "histogram", "s", LABELS),
    (BATCH_SIZE, "histogram", "count", LABELS),
    (ERRORS, "counter", "count", (*LABELS, "Status", "Type")),
)


class Metrics:
    """Emits the declared metrics, or nothing where there is no cache.

    `name` and `version` are those that the model is served under, as a client calls it.
    """

    def __init__(self, cache: Any, name: str, version: str = "") -> None:
        self._labels = [name, version, "Model"]
        self._metrics: dict[str, Any] = {}
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
        self._emit(name, round(value, 6), [])

    def error(self, status: int, type: str) -> None:
        """Count one failed request."""
        self._emit(ERRORS, 1, [str(status), type])

    def _emit(self, name: str, value: float, extra: list[str]) -> None:
        metric = self._metrics.get(name)
        if metric is None:
            return
        try:
            metric.add_or_update(value, [*self._labels, *extra])
        except Exception:
            logger.warning("metric %s was not recorded", name, exc_info=True)


def served(context: Any, name: str) -> Metrics:
    """The metrics of a worker, from TorchServe's context; `name` where it tells none.

    An archive may be registered under another name than its card's.
    """
    manifest = getattr(context, "manifest", None)
    model = manifest.get("model") if isinstance(manifest, dict) else None
    version = model.get("modelVersion") if isinstance(model, dict) else None
    known = getattr(context, "model_name", None) or name
    return Metrics(getattr(context, "metrics", None), str(known), str(version or ""))


def _registered(cache: Any, name: str, kind: str, unit: str, dimensions: tuple[str, ...]) -> Any:
    """The cache's metric of that name, added where metrics.yaml does not declare it."""
    from ts.metrics.metric_type_enum import MetricTypes

    metric_type = MetricTypes(kind)
    known = getattr(cache, "cache", {}).get(metric_type, {})
    if name in known:
        return known[name]
    return cache.add_metric_to_cache(
        metric_name=name, unit=unit, dimension_names=list(dimensions), metric_type=metric_type
    )
