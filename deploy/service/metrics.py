"""Prometheus metrics in text form, under the names that TorchServe's have."""

import threading
from bisect import bisect_left

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)

REQUESTS = "ts_inference_requests_total"
INFERENCE = "ts_inference_latency_microseconds"
QUEUE = "ts_queue_latency_microseconds"
_ERRORS = "marpress_errors_total"
_Labels = tuple[tuple[str, str], ...]


class Metrics:
    """Counters and histograms of one process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counters: dict[str, dict[_Labels, float]] = {}
        self._histograms: dict[str, dict[_Labels, list[float]]] = {}

    def add(self, name: str, value: float = 1.0, **labels: str) -> None:
        """Add to a counter."""
        key = tuple(labels.items())
        with self._lock:
            series = self._counters.setdefault(name, {})
            series[key] = series.get(key, 0.0) + value

    def observe(self, name: str, value: float, **labels: str) -> None:
        """Record one value of a histogram."""
        key = tuple(labels.items())
        with self._lock:
            series = self._histograms.setdefault(name, {})
            counts = series.setdefault(key, [0.0] * (len(BUCKETS) + 2))
            counts[bisect_left(BUCKETS, value)] += 1  # the last but one is +Inf
            counts[-1] += value

    def count(self, name: str) -> float:
        """The sum of a counter over all its labels."""
        with self._lock:
            return sum(self._counters.get(name, {}).values())

    def text(self) -> str:
        """Everything in Prometheus's text format 0.0.4."""
        lines: list[str] = []
        with self._lock:
            for name, counters in self._counters.items():
                lines.append(f"# TYPE {name} counter")
                lines += [f"{name}{_braces(k)} {v}" for k, v in counters.items()]
            for name, histograms in self._histograms.items():
                lines.append(f"# TYPE {name} histogram")
                for labels, counts in histograms.items():
                    lines += _histogram(name, labels, counts)
        return "\n".join(lines) + "\n" if lines else ""


class HandlerMetrics:
    """What a handler calls `metrics`: the same two calls as handlers/metrics.py has."""

    def __init__(self, metrics: Metrics, model_name: str) -> None:
        self._metrics = metrics
        self._name = model_name

    def observe(self, name: str, value: float) -> None:
        """Record one value of a histogram."""
        self._metrics.observe(name, value, ModelName=self._name, Level="Model")

    def error(self, status: int, type: str) -> None:
        """Count one failed request."""
        self._metrics.add(
            _ERRORS, ModelName=self._name, Level="Model", Status=str(status), Type=type
        )


def _histogram(name: str, labels: _Labels, counts: list[float]) -> list[str]:
    total, lines = 0.0, []
    for bound, count in zip((*BUCKETS, "+Inf"), counts[:-1], strict=True):
        total += count
        lines.append(f"{name}_bucket{_braces((*labels, ('le', str(bound))))} {total}")
    lines.append(f"{name}_count{_braces(labels)} {total}")
    lines.append(f"{name}_sum{_braces(labels)} {counts[-1]}")
    return lines


def _braces(labels: _Labels) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{key}="{_escaped(value)}"' for key, value in labels) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
