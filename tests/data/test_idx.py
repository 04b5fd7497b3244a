import gzip

import numpy as np
import pytest
from numpy.typing import NDArray

from nanograd.data.idx import decompress, format_idx, parse_idx
from nanograd.errors import DataError

LABELS = bytes([0, 0, 8, 1, 0, 0, 0, 3, 5, 0, 4])
IMAGES = bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 3, 1, 2, 3, 4, 5, 255])


@pytest.mark.parametrize(
    ("data", "values"), [(LABELS, [5, 0, 4]), (IMAGES, [[[1, 2, 3]], [[4, 5, 255]]])]
)
def test_labels_and_images_are_parsed_as_uint8(data: bytes, values: list[object]) -> None:
    array = parse_idx(data, "file")

    assert array.dtype == np.uint8
    assert array.tolist() == values


def test_gzip_is_recognised_by_its_magic_not_by_name() -> None:
    images = parse_idx(gzip.compress(IMAGES), "images-idx3-ubyte")

    assert np.array_equal(images, parse_idx(IMAGES, "images-idx3-ubyte"))


@pytest.mark.parametrize(
    "array",
    [
        np.zeros(3, np.int8),
        np.zeros((3, 3), np.uint8),
        np.zeros(0, np.uint8),
        np.zeros((3, 0, 28), np.uint8),
    ],
)
def test_format_refuses_what_idx_cannot_hold(array: NDArray[np.uint8]) -> None:
    with pytest.raises(ValueError, match="IDX holds uint8 labels or images"):
        format_idx(array)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "no IDX file .magic number missing"),
        (b"\0\0\x08", "no IDX file"),
        (b"\x89PNG\r\n\x1a\n", "no IDX file .magic number 0x89504e47"),
        (b"\0\0\x0d\x01" + bytes(8), "type 0x0d with 1 dimensions is not MNIST's"),
        (b"\0\0\x08\x02" + bytes(12), "type 0x08 with 2 dimensions is not MNIST's"),
        (IMAGES[:11], "cut short within its header"),
        (IMAGES[:-1], "cut short: its header announces 2 x 1 x 3 bytes of data but 5 follow"),
        (IMAGES + b"\0", "too long: its header announces 2 x 1 x 3 bytes of data but 7 follow"),
        (b"\0\0\x08\x01" + bytes(4), "the file is empty"),
        (b"\0\0\x08\x03\xff\xff\xff\xff\0\0\0\0\xff\xff\xff\xff", "the file is empty"),
        (b"\0\0\x08\x03" + b"\xff" * 12 + b"few", "cut short"),  # without allocating 8e28 bytes
        (gzip.compress(IMAGES)[:-3], "gzip file is cut short"),
        (gzip.compress(IMAGES)[:5], "gzip file is cut short"),
        (gzip.compress(IMAGES)[:-8] + bytes(8), "gzip file is damaged"),
        (gzip.compress(IMAGES) + b"more", "gzip file is damaged"),
    ],
)
def test_broken_file_is_an_error_that_names_file_and_fault(data: bytes, reason: str) -> None:
    with pytest.raises(DataError, match=rf"^here/images: .*{reason}"):
        parse_idx(data, "here/images")


def test_decompress_returns_plain_bytes_unchanged() -> None:
    assert decompress(LABELS, "labels") is LABELS
