"""Figures from Prometheus text: quantiles, a minute's difference, servers that begin again."""

from typing import Any

import pytest

from deploy.console.live import Live, parse, quantile
from deploy.errors import NoServer

INF = float("inf")


def text(
    requests: int, waited: float, bounds: dict[str, int], errors: int = 0, kind: str = "counter"
) -> str:
    """As TorchServe writes it, the service with the `kind` gauge; a quarter names no version."""
    unnamed = requests // 4
    which = 'model_name="m",model_version='
    series = [
        (f'ts_inference_requests_total{{{which}"1.0",hostname="h",}}', requests - unnamed),
        (f'ts_inference_requests_total{{{which}"default",hostname="h",}}', unnamed),
        (f'ts_queue_latency_microseconds{{{which}"1.0",}}', waited),
        (f'ts_inference_latency_microseconds{{{which}"1.0",}}', 8000),
        ('Requests2XX{Level="Host",}', 5),
    ]
    labels = 'ModelName="m",ModelVersion="1.0",Level="Model"'
    series += [
        (f'marpress_inference_seconds_bucket{{{labels},le="{bound}",}}', count)
        for bound, count in bounds.items()
    ]
    if errors:
        series.append((f'marpress_errors_total{{{labels},Status="415",Type="x",}}', errors))
    lines = []
    for name, value in series:
        family = name.partition("{")[0]
        if (typed := f"# TYPE {family} {kind}") not in lines:
            lines.append(typed)
        lines.append(f"{name} {value}")
    return "\n".join(lines) + "\n"


class Management:
    """Two versions, as a management API describes them."""

    def models(self) -> dict[str, str]:
        return {"m": "m.mar"}

    def describe(self, name: str, version: str | None = None) -> list[dict[str, Any]]:
        versions = ["1.0"] if version is None else ["1.0", "2.0"]
        queue = {"pendingRequests": 3}
        return [{"modelVersion": one, "jobQueueStatus": queue} for one in versions]


@pytest.mark.parametrize(
    ("share", "buckets", "wanted"),
    [
        (0.5, {}, None),
        (0.5, {0.1: 0, INF: 0}, None),
        (0.5, {0.1: 10, 0.2: 10, INF: 10}, 0.05),
        (0.5, {0.1: 5, 0.3: 10, INF: 10}, 0.1),
        (0.75, {0.1: 5, 0.3: 10, INF: 10}, 0.2),
        (0.99, {0.1: 0, 0.3: 0, INF: 4}, 0.3),
        (0.5, {0.1: 0, 0.3: 4, INF: 4}, 0.2),
    ],
)
def test_quantiles_as_promql(
    share: float, buckets: dict[float, float], wanted: float | None
) -> None:
    found = quantile(share, buckets)
    assert found == (wanted if wanted is None else pytest.approx(wanted))


@pytest.mark.parametrize("kind", ["counter", "gauge"])
def test_parsing_leaves_other_metrics_out(kind: str) -> None:
    found = parse(text(8, 4000, {"0.1": 2, "+Inf": 3}, 2, kind))
    assert set(found) == {("m", "1.0"), ("m", "default")}
    one = found["m", "1.0"]
    assert (one.requests, one.waited, one.worked, one.errors) == (6, 4000, 8000, 2)
    assert one.buckets == {0.1: 2, INF: 3}
    assert parse("") == {}


def test_a_version_by_itself_and_as_the_default() -> None:
    live = Live(Management(), lambda: text(8, 4000, {"0.1": 8, "+Inf": 8}, errors=2))
    first, second = live.figures().rows
    assert (first.default, first.pending, first.requests, first.errors) == (True, 3, 8, 2)
    assert (first.waited, first.mean) == (0.5, 1.0)
    assert (first.p50, first.p99) == (pytest.approx(50), pytest.approx(99))
    assert not first.recent
    assert (second.default, second.requests, second.waited, second.p50) == (False, 0, None, None)


def test_the_last_minute_where_something_was_asked_in_it() -> None:
    seconds = 0.0
    told = text(8, 4000, {"0.1": 8, "1": 8, "+Inf": 8})
    live = Live(Management(), lambda: told, lambda: seconds)
    live.figures()
    seconds = 30.0
    told = text(12, 12_000, {"0.1": 8, "1": 12, "+Inf": 12})
    row = live.figures().rows[0]
    assert row.recent and row.requests == 12
    assert row.waited == 2.0  # 8 ms of 4 requests
    assert row.p50 == pytest.approx(550)
    seconds = 60.0
    assert live.figures().rows[0].recent
    seconds = 90.0  # nobody has asked in the minute before
    row = live.figures().rows[0]
    assert not row.recent and row.waited == 1.0


def test_a_server_that_began_again() -> None:
    told = text(100, 4000, {"0.1": 100, "+Inf": 100})
    live = Live(Management(), lambda: told, lambda: 0.0)
    live.figures()
    told = text(4, 2000, {"0.1": 4, "+Inf": 4})
    row = live.figures().rows[0]
    assert (row.requests, row.waited, row.p50) == (4, 0.5, pytest.approx(50))


def test_models_are_shown_without_metrics() -> None:
    def unreachable() -> str:
        raise NoServer("no metrics there")

    found = Live(Management(), unreachable).figures()
    assert found.missing == "no metrics there"
    assert [(row.version, row.pending, row.requests, row.p50) for row in found.rows] == [
        ("1.0", 3, 0, None),
        ("2.0", 3, 0, None),
    ]
    assert Live(Management(), lambda: "{ no metrics").figures().missing


def test_a_look_without_metrics_is_not_subtracted_from_later_ones() -> None:
    told = "not metrics"
    live = Live(Management(), lambda: told, lambda: 0.0)
    assert "cannot be read" in live.figures().missing
    told = text(8, 4000, {"0.1": 8, "+Inf": 8})
    row = live.figures().rows[0]
    assert row.requests == 8 and not row.recent
    told = 'marpress_inference_seconds_bucket{model_name="m"} 3\n'
    assert "cannot be read" in live.figures().missing
