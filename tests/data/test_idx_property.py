import gzip
from collections.abc import Callable

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from nanograd.data.idx import format_idx, parse_idx
from nanograd.errors import DataError

SHAPES = st.one_of(
    st.tuples(st.integers(1, 193)),
    st.tuples(st.integers(1, 7), st.integers(1, 28), st.integers(1, 28)),
)
ARRAYS = SHAPES.flatmap(lambda shape: arrays(np.uint8, shape))
PACKINGS = st.sampled_from([bytes, gzip.compress])


def parses_or_complains(data: bytes) -> bool:
    """Return whether the bytes parse; any exception but DataError fails the test."""
    try:
        array = parse_idx(data, "some file")
    except DataError as error:
        assert str(error).startswith("some file: ")
        return False
    assert array.dtype == np.uint8
    assert array.size > 0
    return True


@given(ARRAYS, PACKINGS)
def test_round_trip_gives_the_same_array(
    array: NDArray[np.uint8], pack: Callable[[bytes], bytes]
) -> None:
    parsed = parse_idx(pack(format_idx(array)), "some file")

    assert parsed.shape == array.shape
    assert np.array_equal(parsed, array)


@given(ARRAYS, PACKINGS, st.data())
def test_any_truncation_is_a_data_error(
    array: NDArray[np.uint8], pack: Callable[[bytes], bytes], data: st.DataObject
) -> None:
    whole = pack(format_idx(array))
    length = data.draw(st.integers(0, len(whole) - 1))

    assert not parses_or_complains(whole[:length])


@given(ARRAYS, PACKINGS, st.data())
def test_any_changed_header_byte_is_a_data_error_or_a_valid_file(
    array: NDArray[np.uint8], pack: Callable[[bytes], bytes], data: st.DataObject
) -> None:
    damaged = bytearray(pack(format_idx(array)))
    position = data.draw(st.integers(0, min(16, len(damaged)) - 1))
    damaged[position] ^= data.draw(st.integers(1, 255))

    parses_or_complains(bytes(damaged))


@given(ARRAYS, st.binary(min_size=1, max_size=9))
def test_any_trailing_byte_is_a_data_error(array: NDArray[np.uint8], more: bytes) -> None:
    assert not parses_or_complains(format_idx(array) + more)


@given(st.binary(max_size=64))
def test_arbitrary_bytes_raise_nothing_but_data_errors(noise: bytes) -> None:
    parses_or_complains(noise)
    parses_or_complains(bytes([0, 0, 8, 3]) + noise)
    parses_or_complains(bytes([0, 0, 8, 1]) + noise)
    parses_or_complains(b"\x1f\x8b" + noise)
