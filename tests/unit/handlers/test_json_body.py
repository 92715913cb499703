import json
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers import json_body
from handlers.errors import RequestError
from handlers.json_body import MAX_DEPTH, parse


def refusal(data: bytes, max_weight: int = 1000) -> tuple[int, str]:
    with pytest.raises(RequestError) as caught:
        parse(data, max_weight=max_weight)
    return caught.value.status, caught.value.type


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=12,
)


def depth(value) -> int:
    if not isinstance(value, list | dict):
        return 0
    inner = value.values() if isinstance(value, dict) else value
    return 1 + max(map(depth, inner), default=0)


@given(VALUES, st.sampled_from(["utf-8", "utf-16", "utf-32"]))
def test_what_is_not_too_deep_is_read_as_it_is(value, encoding):
    text = json.dumps(value, ensure_ascii=False)
    if depth(value) <= MAX_DEPTH:
        assert parse(text.encode(encoding, "surrogatepass")) == value
    else:
        assert refusal(json.dumps(value).encode()) == (400, "bad_json")


@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_eight_levels_and_no_more(opening):
    closing = "]" if opening == "[" else "}"
    parse((opening * 8 + "1" + closing * 8).encode())
    assert refusal((opening * 9 + "1" + closing * 9).encode()) == (400, "bad_json")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_letters_that_hold_the_byte_of_a_quotation_mark_hide_nothing(encoding):
    many = '["\u0122", ' + "[], " * 1000 + '"\u0122"]'
    assert refusal(many.encode(encoding)) == (413, "too_many_values")
    deep = '["\u0122", ' + "[" * 20 + "]" * 20 + ', "\u0122"]'
    assert refusal(deep.encode(encoding)) == (400, "bad_json")


def test_brackets_and_commas_within_strings_are_text():
    text = '[[[[[[[[[{{,,,"]\\' * 1000
    assert parse(json.dumps({text: text}).encode(), max_weight=100) == {text: text}


@pytest.mark.parametrize(
    "data",
    [
        b"[" + b"1," * 1000 + b"1]",
        b"[" + b"[]," * 200 + b"[]]",
        b"{" + b'"a":{},' * 200 + b'"a":1}',
        b"[" * 300,
    ],
)
def test_too_many_values_are_refused_before_they_are_made(data):
    assert refusal(data) == (413, "too_many_values")


def test_megabytes_of_empty_lists_take_no_memory_of_their_own():
    data = b"[" + b"[]," * 3_000_000 + b"[]]"
    tracemalloc.start()
    try:
        assert refusal(data, json_body.MAX_WEIGHT) == (413, "too_many_values")
        assert tracemalloc.get_traced_memory()[1] < 3 * len(data)
    finally:
        tracemalloc.stop()


def test_very_many_strings_are_too_many_values():
    data = b"[" + b'"",' * 400_000 + b'""]'
    assert refusal(data, json_body.MAX_WEIGHT) == (413, "too_many_values")


@pytest.mark.parametrize("data", [b"", b"{", b"[" * 1_000_000, b"\xff", b'["\\'])
def test_what_is_no_json_is_a_value_error(data):
    with pytest.raises(ValueError):
        parse(data)
