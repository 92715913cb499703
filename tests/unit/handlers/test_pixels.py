import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from handlers.errors import RequestError
from handlers.images import ImageSpec
from handlers.pixels import load_pixels

COLOUR = ImageSpec(4, 6, 3)
GREY = ImageSpec(4, 6, 1)
PICTURE = np.random.default_rng(0).integers(0, 256, (4, 6, 3))


def test_both_layouts_mean_the_same():
    last = load_pixels(PICTURE.tolist(), COLOUR)
    first = load_pixels(PICTURE.transpose(2, 0, 1).tolist(), COLOUR)
    assert torch.equal(last, first)
    assert last.tolist() == PICTURE.transpose(2, 0, 1).tolist()
    assert last.dtype == torch.uint8
    assert last.is_contiguous()


def test_the_models_size_decides_between_two_readings():
    cube = np.arange(27).reshape(3, 3, 3)
    assert load_pixels(cube.tolist(), ImageSpec(3, 3, 3)).tolist() == cube.tolist()
    row = np.arange(9).reshape(1, 3, 3)
    wanted = row.transpose(2, 0, 1).tolist()
    assert load_pixels(row.tolist(), ImageSpec(1, 3, 3)).tolist() == wanted


def test_grey_for_colour_and_colour_for_grey():
    flat = PICTURE[:, :, 0].tolist()
    assert load_pixels(flat, COLOUR).tolist() == [flat] * 3
    assert load_pixels([flat], COLOUR).tolist() == [flat] * 3
    luma = load_pixels(PICTURE.tolist(), GREY)[0]
    wanted = PICTURE @ [0.299, 0.587, 0.114]
    assert np.abs(luma.numpy() - wanted).max() <= 0.5


def test_floats_are_rounded():
    assert load_pixels([[0.4, 254.6], [1.5, -0.4]], ImageSpec(2, 2, 1)).tolist() == [
        [[0, 255], [2, 0]]
    ]


def test_other_sizes_are_resized():
    white = np.full((9, 13, 3), 255).tolist()
    assert load_pixels(white, COLOUR).shape == (3, 4, 6)
    assert load_pixels(white, COLOUR).min() == 255


@pytest.mark.parametrize(
    ("value", "status", "type"),
    [
        ([], 422, "zero_size"),
        ([[]], 422, "zero_size"),
        ([[1, 2], [3]], 400, "ragged_tensor"),
        ([["1"]], 400, "wrong_type"),
        ([[1, "two"]], 400, "ragged_tensor"),
        ([[None]], 422, "not_finite"),
        ([[float("nan")]], 422, "not_finite"),
        ([[float("inf")]], 422, "not_finite"),
        ([[256]], 422, "out_of_range"),
        ([[-0.6]], 422, "out_of_range"),
        ([[10**400]], 422, "out_of_range"),
        ([1], 400, "wrong_shape"),
        ([[[[1]]]], 400, "wrong_shape"),
        ([[[1, 2]] * 2] * 2, 400, "wrong_shape"),
    ],
)
def test_refusals(value, status, type):
    with pytest.raises(RequestError) as caught:
        load_pixels(value, COLOUR)
    assert (caught.value.status, caught.value.type) == (status, type)


def test_one_long_string_among_many_costs_nothing():
    # numpy, left to guess a type, would make every cell as wide as the longest string.
    value = [["1"] * 20_000, ["9" * 2_000_000] + ["1"] * 19_999]
    with pytest.raises(RequestError):
        load_pixels(value, COLOUR)
    with pytest.raises(RequestError):
        load_pixels([[1] * 20_000, ["x" * 2_000_000] + [1] * 19_999], COLOUR)


def test_the_pixel_limit():
    spec = ImageSpec(4, 6, 1, max_pixels=24)
    assert load_pixels(np.zeros((4, 6)).tolist(), spec).shape == (1, 4, 6)
    with pytest.raises(RequestError) as caught:
        load_pixels(np.zeros((5, 5)).tolist(), spec)
    assert caught.value.status == 413


numbers = st.integers(-300, 300) | st.floats() | st.none() | st.booleans() | st.text(max_size=3)
tensors = st.recursive(numbers, lambda inner: st.lists(inner, max_size=4), max_leaves=40)


@settings(max_examples=300, deadline=None)
@given(st.lists(tensors, max_size=5))
def test_any_list_is_loaded_or_refused(value):
    try:
        assert load_pixels(value, COLOUR).shape == (3, 4, 6)
    except RequestError as error:
        assert error.status in (400, 413, 422)
