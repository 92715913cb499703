"""Figures of the running server: its queue, latencies and errors, from its Prometheus metrics.

Quantiles come from the buckets of the workers' histograms, interpolated as PromQL's
histogram_quantile does. TorchServe and our service count under the same names.
"""

import dataclasses
import math
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

from deploy.errors import NoServer
from deploy.torchserve.management import Management
from handlers.metrics import ERRORS
from handlers.metrics import INFERENCE as SECONDS

WINDOW = 60.0  # seconds
# Names without _total -> fields of `Counts`.
_FIELDS = {
    "ts_inference_requests": "requests",
    "ts_queue_latency_microseconds": "waited",
    "ts_inference_latency_microseconds": "worked",
    ERRORS.removesuffix("_total"): "errors",
}
# What TorchServe calls the version of a request that names none.
UNNAMED = "default"

Which = tuple[str, str]
"""A model's name and version."""


@dataclass
class Counts:
    """Counters of one version; `buckets`: upper bound in seconds -> batches at most so long."""

    requests: float = 0.0
    errors: float = 0.0
    waited: float = 0.0  # microseconds, of all requests
    worked: float = 0.0
    buckets: dict[float, float] = dataclasses.field(default_factory=dict)

    def since(self, before: "Counts") -> "Counts":
        """What was added; everything where a counter began again with its server."""
        if self.requests < before.requests or self.waited < before.waited:
            return self
        return Counts(
            self.requests - before.requests,
            self.errors - before.errors,
            self.waited - before.waited,
            self.worked - before.worked,
            {le: n - before.buckets.get(le, 0.0) for le, n in self.buckets.items()},
        )


@dataclass(frozen=True)
class Row:
    """A version's figures; milliseconds, None where nothing was measured.

    `recent`: waited, p50, p99 and mean are of the last minute, not of all that was counted.
    """

    name: str
    version: str
    default: bool
    pending: int | None
    requests: int
    errors: int
    recent: bool
    waited: float | None
    p50: float | None
    p99: float | None
    mean: float | None


@dataclass(frozen=True)
class Figures:
    """Every version's row; `missing` says why there are none of the metrics, empty if there are."""

    rows: list[Row]
    missing: str = ""


class Live:
    """Reads the figures; keeps a minute of them to subtract."""

    def __init__(
        self,
        management: Management,
        metrics: Callable[[], str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._management = management
        self._metrics = metrics
        self._clock = clock
        self._past: deque[tuple[float, dict[Which, Counts]]] = deque()
        self._lock = threading.Lock()

    def figures(self) -> Figures:
        """The figures as they are now. Raises NoServer, Refused where the models are not told."""
        missing, counted = "", {}
        try:
            counted = parse(self._metrics())
        except NoServer as error:
            missing = str(error)
        except (ValueError, KeyError) as error:
            missing = f"the server's metrics cannot be read: {error}"
        before: Mapping[Which, Counts] = counted
        if not missing:
            with self._lock:
                before = self._remember(self._clock(), counted)
        return Figures(self._rows(counted, before), missing)

    def _rows(self, counted: Mapping[Which, Counts], before: Mapping[Which, Counts]) -> list[Row]:
        rows = []
        for name in sorted(self._management.models()):
            default = str(self._management.describe(name)[0]["modelVersion"])
            for entry in self._management.describe(name, "all"):
                version = str(entry["modelVersion"])
                queue = entry.get("jobQueueStatus") or {}
                which = [(name, version)] + ([(name, UNNAMED)] if version == default else [])
                total = _together(counted.get(key) for key in which)
                lately = total.since(_together(before.get(key) for key in which))
                rows.append(_row(name, version, version == default, queue, total, lately))
        return rows

    def _remember(self, now: float, counted: dict[Which, Counts]) -> Mapping[Which, Counts]:
        """The counts of a minute ago, or the oldest there are."""
        self._past.append((now, counted))
        while len(self._past) > 1 and self._past[1][0] <= now - WINDOW:
            self._past.popleft()
        return self._past[0][1]


def parse(text: str) -> dict[Which, Counts]:
    """Prometheus's text format to counts; other metrics are left out."""
    found: dict[Which, Counts] = defaultdict(Counts)
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = sample.labels
            name = labels.get("model_name", labels.get("ModelName"))
            version = labels.get("model_version", labels.get("ModelVersion", UNNAMED))
            if name is None or not math.isfinite(sample.value):
                continue
            counts = found[name, version]
            # The library ends every counter's name in _total, which not all of TorchServe's do.
            kind = sample.name.removesuffix("_total")
            if kind == f"{SECONDS}_bucket":
                bound = float(labels["le"])
                counts.buckets[bound] = counts.buckets.get(bound, 0.0) + sample.value
            elif kind in _FIELDS:
                field = _FIELDS[kind]
                setattr(counts, field, getattr(counts, field) + sample.value)
    return dict(found)


def quantile(share: float, buckets: Mapping[float, float]) -> float | None:
    """The value below which `share` of the observations lie, None without any.

    `buckets`: upper bound -> observations at most so large; within a bucket they are taken to be
    spread evenly. Beyond the last finite bound it is that bound.
    """
    bounds = sorted(buckets)
    total = buckets[bounds[-1]] if bounds else 0.0
    if total <= 0:
        return None
    rank, below, least = share * total, 0.0, 0.0
    for bound in bounds:
        count = buckets[bound]
        if count >= rank and count > below:
            if math.isinf(bound):
                return least
            return least + (bound - least) * (rank - below) / (count - below)
        below, least = count, bound
    return least


def _together(parts: Iterable[Counts | None]) -> Counts:
    total = Counts()
    for part in parts:
        if part is not None:
            total.requests += part.requests
            total.errors += part.errors
            total.waited += part.waited
            total.worked += part.worked
            for bound, count in part.buckets.items():
                total.buckets[bound] = total.buckets.get(bound, 0.0) + count
    return total


def _row(
    name: str,
    version: str,
    default: bool,
    queue: Mapping[str, int],
    total: Counts,
    lately: Counts,
) -> Row:
    recent = lately.requests > 0
    used = lately if recent else total
    p50, p99 = (quantile(share, used.buckets) for share in (0.5, 0.99))
    return Row(
        name,
        version,
        default,
        queue.get("pendingRequests"),
        int(total.requests),
        int(total.errors),
        recent,
        used.waited / used.requests / 1e3 if used.requests else None,
        None if p50 is None else 1e3 * p50,
        None if p99 is None else 1e3 * p99,
        used.worked / used.requests / 1e3 if used.requests else None,
    )
