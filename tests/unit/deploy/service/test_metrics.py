"""What /metrics says, read by Prometheus's own parser."""

import threading

from prometheus_client.parser import text_string_to_metric_families

from deploy.service.metrics import INFERENCE, REQUESTS, HandlerMetrics, Metrics
from handlers import metrics as names


def samples(metrics):
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(metrics.text())
        for sample in family.samples
    }


def test_an_unused_registry_says_nothing():
    assert Metrics().text() == ""


def test_names_and_labels_are_torchserves():
    metrics = Metrics()
    labels = {"model_name": "a", "model_version": "default"}
    metrics.add(REQUESTS, **labels)
    metrics.add(REQUESTS, **labels)
    metrics.add(REQUESTS, **{**labels, "model_name": 'b"\\\n'})
    metrics.add(INFERENCE, 12.5, **labels)
    metrics.add("Requests2XX", Level="Host")
    assert samples(metrics) == {
        (REQUESTS, (("model_name", "a"), ("model_version", "default"))): 2,
        (REQUESTS, (("model_name", 'b"\\\n'), ("model_version", "default"))): 1,
        (INFERENCE, (("model_name", "a"), ("model_version", "default"))): 12.5,
        ("Requests2XX", (("Level", "Host"),)): 1,
    }


def test_a_handlers_metrics_are_those_it_declares():
    metrics = Metrics()
    handler = HandlerMetrics(metrics, "a", "1")
    for name in names.BUCKETS:
        handler.take([["observe", name, 0.03]])
    handler.take([["error", 400, "bad"]])
    declared = {name: set(dimensions) for name, *_, dimensions in names.DECLARATIONS}
    told = {
        sample.name: set(sample.labels)
        for family in text_string_to_metric_families(metrics.text())
        for sample in family.samples
    }
    assert told == declared
    found = samples(metrics)
    labels = (("Level", "Model"), ("ModelName", "a"), ("ModelVersion", "1"))
    assert found[f"{names.INFERENCE}_sum", labels] == 0.03
    assert found[f"{names.INFERENCE}_bucket", (*labels, ("le", "0.025"))] == 0
    assert found[f"{names.INFERENCE}_bucket", (*labels, ("le", "0.05"))] == 1
    assert found[names.ERRORS, (*labels, ("Status", "400"), ("Type", "bad"))] == 1


def test_threads_lose_no_count():
    metrics = Metrics()

    def count():
        for _ in range(500):
            metrics.add(REQUESTS, model_name="a")

    threads = [threading.Thread(target=count) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert samples(metrics)[REQUESTS, (("model_name", "a"),)] == 4000


def test_a_metric_that_does_not_fit_is_left_out_and_fails_nothing():
    metrics = Metrics()
    handler = HandlerMetrics(metrics, "a", "1")
    own = {"ModelName": "a", "ModelVersion": "1", "Level": "Model"}

    def record(kind, name, value, /, **labels):
        handler.take([["record", kind, name, value, labels]])

    record("counter", "seen_total", 2, name="x", value="y")
    record("gauge", "seen_total", 9, name="x", value="y")  # it is a counter
    record("counter", "seen_total", 1, self="x")
    record("gauge", "left", 1, here="x")
    record("gauge", "left", 2, there="x")  # another label
    made = "ts_inference_requests_created"  # by the library, of the counter
    for name in (REQUESTS, made, "ts_inference_requests", "Requests5XX", f"{names.INFERENCE}_sum"):
        record("gauge", name, 7)
    assert samples(metrics) == {
        ("seen_total", tuple(sorted({**own, "name": "x", "value": "y"}.items()))): 2,
        ("left", tuple(sorted({**own, "here": "x"}.items()))): 1,
    }
    handler.take([["observe", "Requests5XX", 1.0], ["observe", "", 1.0]])
    metrics.add(REQUESTS, model_name="a", model_version="default")
    metrics.add("Requests5XX", Level="Host")
    assert samples(metrics)["Requests5XX", (("Level", "Host"),)] == 1


def test_a_series_that_cannot_be_told_costs_the_others_nothing():
    metrics = Metrics()
    metrics.add("Requests2XX", Level="Host")
    metrics.add("Requests2XX", Group="Host")  # another label
    metrics.add(REQUESTS, model_name="a")
    told = samples(metrics)
    assert told["Requests2XX", (("Level", "Host"),)] == told[REQUESTS, (("model_name", "a"),)] == 1
