"""schemathesis asks the service everything its OpenAPI document promises."""

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from deploy.archive import mar
from tests.integration import quadrant
from tests.integration.service import serving

# Valid by the document means well formed, not that random bytes are a picture: what the model
# makes of them is its own affair, so that "valid data must be accepted" is not asked.
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    unsupported_method,
]


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("openapi")
    artifact = quadrant.make(folder / "artifacts")
    archive = mar.seal(artifact, folder / "model_store").path
    with serving(folder, archive) as service:
        yield schemathesis.openapi.from_url(f"{service.address}/openapi.json")


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
def test_every_operation_keeps_its_promise(document: Any, mode: GenerationMode) -> None:
    asked: dict[str, int] = {}
    for found in document.get_all_operations():
        operation = found.ok()

        @settings(
            max_examples=12,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def check(case: Any) -> None:
            reply = case.call()
            asked[case.operation.label] = max(asked.get(case.operation.label, 0), 1)
            case.validate_response(reply, checks=CHECKS)

        try:
            check()
        except Unsatisfiable:  # nothing to negate
            assert mode is GenerationMode.NEGATIVE
    assert len(asked) >= (30 if mode is GenerationMode.POSITIVE else 15), sorted(asked)


def test_the_document_is_valid_and_covers_every_route(document: Any) -> None:
    document.validate()
    covered = {operation.ok().path for operation in document.get_all_operations()}
    assert {
        *("/predictions/{name}", "/explanations/{name}/{version}", "/ping", "/metrics"),
        *("/models", "/models/{name}", "/v1/models/{name}:predict", "/v1/models/{name}/metadata"),
        *("/v2", "/v2/health/ready", "/v2/models/{name}/infer"),
    } <= covered
    assert len(covered) >= 24
