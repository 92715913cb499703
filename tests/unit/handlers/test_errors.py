import json

import pytest

from handlers.errors import RequestError, as_request_error, out_of_memory, reason


def test_a_body_names_code_type_and_message():
    error = RequestError(413, "too_many_pixels", "9x9 pixels")
    assert json.loads(error.body()) == {
        "code": 413,
        "type": "too_many_pixels",
        "message": "9x9 pixels",
    }


def test_bodies_and_phrases_are_ascii_whatever_the_message():
    error = RequestError(400, "bad", "Straße 图像 \ud800")
    assert error.body().isascii()
    assert json.loads(error.body())["message"] == "Straße 图像 \ud800"
    assert all(reason(status).isascii() and reason(status) for status in range(400, 600))


def test_long_messages_are_cut():
    assert len(RequestError(400, "bad", "x" * 100_000).message) < 500


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (RequestError(422, "t", "m"), 422),
        (MemoryError(), 507),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), 507),
        (RuntimeError("std::bad_alloc"), 507),
        (RuntimeError("shapes do not match"), 500),
        (ValueError("not enough memory of the past"), 500),
        (RecursionError(), 500),
    ],
)
def test_any_exception_becomes_a_request_error(error, status):
    assert as_request_error(error).status == status


def test_internal_errors_do_not_leak_their_text():
    assert "secret" not in as_request_error(KeyError("secret")).message


def test_real_allocation_failures_are_recognised():
    import torch

    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 50)
    assert out_of_memory(caught.value)
