"""What the measuring environment says of itself."""

import pytest

from optimize.evaluation import environment


@pytest.mark.parametrize(
    ("words", "faster"),
    [
        (("GenuineIntel", "avx512_bf16"), False),
        (("GenuineIntel", "avx512_bf16", "amx_bf16"), True),
        (("AuthenticAMD", "avx512_bf16"), True),
        (("AuthenticAMD", "avx2"), False),
    ],
)
def test_bf16_trains_where_it_was_measured_to_be_faster(
    words: tuple[str, ...], faster: bool
) -> None:
    assert environment.bf16_is_faster(words) is faster
