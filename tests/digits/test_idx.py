import gzip

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nanograd.digits.mnist import parse_idx
from nanograd.errors import DataError
from nanograd.runtime import storage
from scripts.make_sample import format_idx

IMAGES = bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 3, 1, 2, 3, 4, 5, 255])
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
    return array.dtype == np.uint8 and array.size > 0


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "no IDX file"),
        (b"\0\0\x08", "no IDX file"),
        (b"\x89PNG\r\n\x1a\n", "no IDX file .*0x89504e47"),
        (b"\0\0\x0d\x01" + bytes(8), "no IDX file"),
        (b"\0\0\x08\x02" + bytes(12), "no IDX file"),
        (IMAGES[:11], "no IDX file"),
        (IMAGES[:-1], "2 x 1 x 3 bytes of data but 5 follow"),
        (IMAGES + b"\0", "2 x 1 x 3 bytes of data but 7 follow"),
        (b"\0\0\x08\x01" + bytes(4), "0 follow"),
        (b"\0\0\x08\x03\xff\xff\xff\xff\0\0\0\0\xff\xff\xff\xff", "0 follow"),
        (b"\0\0\x08\x03" + b"\xff" * 12 + b"few", "3 follow"),  # without allocating 8e28 bytes
        (gzip.compress(IMAGES, mtime=0)[:-3], "gzip file is damaged"),
        (gzip.compress(IMAGES, mtime=0)[:-8] + bytes(8), "gzip file is damaged"),
        (gzip.compress(IMAGES, mtime=0) + b"more", "gzip file is damaged"),
    ],
)
def test_broken_file_is_an_error_that_names_file_and_fault(data, reason):
    with pytest.raises(DataError, match=rf"^here/images: .*{reason}"):
        parse_idx(data, "here/images")


@given(ARRAYS, PACKINGS, st.data())
def test_file_parses_to_its_array_and_not_if_cut_or_damaged(array, pack, data):
    whole = pack(format_idx(array))
    damaged = bytearray(whole)
    damaged[data.draw(st.integers(0, min(16, len(whole)) - 1))] ^= data.draw(st.integers(1, 255))

    parsed = parse_idx(whole, "some file")

    assert parsed.dtype == np.uint8
    assert np.array_equal(parsed, array)
    assert not parses_or_complains(whole[: data.draw(st.integers(0, len(whole) - 1))])
    assert not parses_or_complains(format_idx(array) + data.draw(st.binary(min_size=1, max_size=9)))
    parses_or_complains(bytes(damaged))


@pytest.mark.parametrize("members", [1, 3])
def test_gzip_file_grows_no_further_than_allowed(members):
    packed = members * gzip.compress(bytes(1000))

    assert storage.decompress(IMAGES, "f") is IMAGES
    assert storage.decompress(packed, "f", members * 1000) == bytes(members * 1000)
    with pytest.raises(DataError, match=r"^f: the gzip file holds more than "):
        storage.decompress(packed, "f", members * 1000 - 1)
