import logging
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from handlers.metrics import BATCH_SIZE, DECLARATIONS, ERRORS, PREPROCESS, Metrics, served
from tests.unit.handlers.archive import metrics_cache


@pytest.fixture(params=["declared", "undeclared"])
def cache(request, root: Path, tmp_path: Path):
    config = root / "deploy" / "torchserve" / "metrics.yaml"
    if request.param == "undeclared":
        config = tmp_path / "metrics.yaml"
        gauge = {"name": "PredictionTime", "unit": "ms", "dimensions": ["ModelName", "Level"]}
        config.write_text(yaml.safe_dump({"model_metrics": {"gauge": [gauge]}}))
    return metrics_cache(config)


def test_lines_that_torchserve_forwards(cache, caplog):
    caplog.set_level(logging.INFO)
    context = SimpleNamespace(
        model_name="colours", manifest={"model": {"modelVersion": "1.0"}}, metrics=cache
    )
    metrics = served(context, "the card's name")
    caplog.clear()
    metrics.observe(PREPROCESS, 0.0123456789)
    metrics.observe(BATCH_SIZE, 4)
    metrics.error(413, "too_many_pixels")
    lines = [re.sub(r"\|#hostname.*", "", record.getMessage()) for record in caplog.records]
    assert lines == [
        "[METRICS]marpress_preprocess_seconds.Seconds:0.012346"
        "|#ModelName:colours,ModelVersion:1.0,Level:Model|#type:HISTOGRAM",
        "[METRICS]marpress_batch_size.Count:4"
        "|#ModelName:colours,ModelVersion:1.0,Level:Model|#type:HISTOGRAM",
        "[METRICS]marpress_errors_total.Count:1"
        "|#ModelName:colours,ModelVersion:1.0,Level:Model,Status:413,Type:too_many_pixels"
        "|#type:COUNTER",
    ]


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
    assert "was not recorded" in caplog.text
