"""A report to draw and compare: the shape of a real one, with figures that are easy to find."""

from typing import Any

from handlers import binding
from optimize.evaluation.metrics import ACCURACY


def metrics(accuracy: float, size: int, ms: float) -> dict[str, Any]:
    return {
        "accuracy": accuracy,
        "samples": 1234,
        "ci95": [accuracy - 0.01, accuracy + 0.01],
        "per_class": [accuracy - 0.02, accuracy, None],
        "parameters": size // 4,
        "macs": size * 10,
        "bytes": size,
        "agreement": 0.9753,
        "agreement_samples": 1234,
        "latency_ms": {"batch1_threads1": {"p50": ms, "p95": ms * 1.1}},
    }


def report(**changes: Any) -> dict[str, Any]:
    """A passed report of three stages; `changes` replace top-level entries."""
    original, final = metrics(0.9316, 1_014_816, 1.7338), metrics(0.9257, 44_124, 0.0762)
    complete = {
        "recipe": "sample",
        "task": "image_classification",
        "created": "2026-01-02T03:04:05+00:00",
        "seed": 7,
        "digest": "d1ge57",
        "command": "python -m optimize run recipes/sample.yaml",
        "harness": {"name": "marpress", "version": "0.1.0", "sha256": "c" * 64},
        "versions": {"python": "3.11.7", "torch": "2.13.0"},
        "package_licences": {"torch": "BSD-3-Clause"},
        "machine": {"processor": "Some CPU", "features": ["avx2"], "cores": 2},
        "data": {
            "name": "shapes",
            "source": "a file",
            "fingerprint": "f1n6e4",
            "labels": ["round", "square", "absent"],
            "train": 5000,
            "validation": 500,
            "test": 1234,
            "notes": ["read this"],
        },
        "licences": {"weights": "Apache-2.0", "data": "unknown: the recipe does not state it"},
        "metric": ACCURACY.to_json(),
        "original": original,
        "stages": [
            {"name": "distill", **metrics(0.9129, 298_187, 0.41)},
            {"name": "prune", **metrics(0.9245, 151_438, 0.2345)},
            {"name": "quantize", **final},
        ],
        "final": final,
        "card_sha256": "c" * 64,
        "files": {"model.pt": "a" * 64, "model.json": "b" * 64},
        "controls": [{"name": "scratch", "accuracy": 0.9111, "samples": 1234, "ci95": [0.9, 0.92]}],
        "parity": 0.00019,
        "preregistration": {
            "digest": "d" * 64,
            "at": "2026-01-02T03:00:00+00:00",
            "protocol": {
                "task": "image_classification",
                "metric": "accuracy",
                "data": "f1n6e4",
                "samples": 1234,
                "budget": {
                    "max_drop": 0.01,
                    "min_agreement": 0.0,
                    "files_drop": 0.02,
                    "floor": None,
                },
            },
            "earlier": [],
        },
        "gate": {
            "criteria": [
                {
                    "metric": "accuracy_drop",
                    "comparator": "<=",
                    "threshold": 0.01,
                    "tolerance": 0.0004,
                    "value": 0.0059,
                    "samples": 1234,
                    "passed": True,
                }
            ],
            "metric": "accuracy",
            "max_drop": 0.01,
            "min_agreement": 0.0,
            "drop": 0.0059,
            "passed": True,
            "reason": "within the budget",
        },
        "chance": 0.34,
        "warnings": [],
        "exports": {},
    }
    return binding.sealed({**complete, **changes})
