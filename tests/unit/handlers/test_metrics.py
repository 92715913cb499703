import logging
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from handlers.metrics import (
    BATCH_SIZE,
    BUCKETS,
    DECLARATIONS,
    ERRORS,
    PREPROCESS,
    Histogram,
    Metrics,
    Seldom,
    served,
)
from tests.unit.handlers.archive import metrics_cache


@pytest.fixture(params=["declared", "undeclared"])
def cache(request, root: Path, tmp_path: Path):
    config = root / "deploy" / "torchserve" / "metrics.yaml"
    if request.param == "undeclared":
        config = tmp_path / "metrics.yaml"
        gauge = {"name": "PredictionTime", "unit": "ms", "dimensions": ["ModelName", "Level"]}
        config.write_text(yaml.safe_dump({"model_metrics": {"gauge": [gauge]}}))
    return metrics_cache(config)


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What TorchServe would read, without the end that tells the host and the time."""
    return [re.sub(r"\|#hostname.*", "", record.getMessage()) for record in caplog.records]


def test_lines_that_torchserve_forwards(cache, caplog):
    caplog.set_level(logging.INFO)
    context = SimpleNamespace(
        model_name="colours", manifest={"model": {"modelVersion": "1.0"}}, metrics=cache
    )
    metrics = served(context, "the card's name")
    caplog.clear()
    metrics.observe(BATCH_SIZE, 4)
    metrics.observe(BATCH_SIZE, 33)
    metrics.error(413, "too_many_pixels")
    metrics.error(413, "too_many_pixels")
    metrics.emit()
    labels = "|#ModelName:colours,ModelVersion:1.0,Level:Model"
    assert sorted(lines(caplog)) == sorted(
        [
            *(
                f"[METRICS]marpress_batch_size_bucket.Count:{count}{labels},le:{bound}|#type:COUNTER"
                for bound, count in (
                    *(("4", 1), ("8", 1), ("16", 1), ("32", 1)),
                    *(("64", 2), ("+Inf", 2)),
                )
            ),
            f"[METRICS]marpress_batch_size_sum.Count:37.0{labels}|#type:COUNTER",
            f"[METRICS]marpress_batch_size_count.Count:2{labels}|#type:COUNTER",
            f"[METRICS]marpress_errors_total.Count:2{labels},Status:413,Type:too_many_pixels"
            "|#type:COUNTER",
        ]
    )
    caplog.clear()
    metrics.emit()
    assert not caplog.records


def test_values_are_told_without_being_asked_for(cache, caplog):
    caplog.set_level(logging.INFO)
    metrics = Metrics(cache, "colours")
    metrics.observe(PREPROCESS, 0.0123456789)
    metrics._timer.join(30)
    assert any(
        "marpress_preprocess_seconds_sum.Seconds:0.012346|" in line for line in lines(caplog)
    )


def test_a_burst_is_told_as_one(cache, caplog):
    caplog.set_level(logging.INFO)
    metrics = Metrics(cache, "colours")
    metrics.emit()
    for _ in range(1000):
        metrics.observe(PREPROCESS, 0.002)
    waiting = metrics._timer
    metrics.emit()
    waiting.cancel()
    assert [line for line in lines(caplog) if "seconds_count.Count:1000|" in line]
    assert len(caplog.records) == 2 + sum(bound >= 0.002 for bound in BUCKETS[PREPROCESS]) + 1


@pytest.mark.parametrize(
    ("value", "bounds"), [(0.0005, 12), (0.00051, 11), (30.0, 1), (31.0, 0), (0.0, 12)]
)
def test_a_value_is_in_every_bucket_whose_bound_it_does_not_exceed(value, bounds):
    histogram = Histogram(PREPROCESS)
    histogram.observe(value)
    grown = histogram.take()
    inside = [key for key in grown if key[0].endswith("_bucket") and key[1] != ("+Inf",)]
    assert len(inside) == bounds
    assert grown[f"{PREPROCESS}_bucket", ("+Inf",)] == 1
    assert histogram.take() == {}


def test_torchserves_own_gauge_is_set_once_an_interval(cache, caplog):
    caplog.set_level(logging.INFO)
    cache.model_name = "colours"
    seldom = Seldom(cache)
    seldom.request_ids = {0: "1"}
    for value in (3.0, 4.0, 5.0):
        seldom.add_time("PredictionTime", value)
    (line,) = lines(caplog)
    assert line.startswith("[METRICS]PredictionTime.Milliseconds:3.0|")
    assert cache.request_ids == {0: "1"}
    assert seldom.cache is cache.cache


def test_the_servers_declarations_are_ours(root: Path):
    declared = yaml.safe_load((root / "deploy" / "torchserve" / "metrics.yaml").read_text())[
        "model_metrics"
    ]
    found = {
        (metric["name"], kind, metric["unit"], tuple(metric["dimensions"]))
        for kind, metrics in declared.items()
        for metric in metrics
    }
    assert set(DECLARATIONS) <= found


def test_without_a_cache_nothing_happens(caplog):
    metrics = Metrics(None, "colours")
    metrics.observe(PREPROCESS, 1.0)
    metrics.error(400, "bad")
    assert not caplog.records


def test_a_cache_that_refuses_costs_the_metrics_and_no_more(caplog):
    metrics = Metrics(object(), "colours")
    metrics.observe(PREPROCESS, 1.0)
    assert "no handler metrics" in caplog.text


def test_a_metric_that_fails_costs_no_request(cache, caplog):
    metrics = Metrics(cache, "colours")
    metrics._metrics[ERRORS] = object()
    metrics.error(400, "bad")
    metrics.emit()
    assert "was not recorded" in caplog.text
