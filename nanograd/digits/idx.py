"""IDX, the file format of MNIST: a magic number, the sizes, then one byte per value.

References:
    LeCun, Cortes, Burges, "The MNIST database of handwritten digits", section "File formats".
"""

import struct
from collections.abc import Iterable
from math import prod

import numpy as np
from numpy.typing import NDArray

from nanograd.digits.dataset import Dataset
from nanograd.digits.preparation import labelled_rows
from nanograd.errors import ArgumentError, DataError
from nanograd.runtime import storage

# The file names of MNIST's images and labels.
IDX_NAMES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}

_MAGIC = b"\0\0\x08"  # for unsigned bytes; the number of dimensions follows


def parse_idx(data: bytes, name: str) -> NDArray[np.uint8]:
    """Parse (N,) labels or (N, rows, columns) images from an IDX file, raw or gzipped; read-only.

    Raises:
        DataError: the file is not IDX, has another type or number of dimensions, is empty, is cut
            short or is too long.

    >>> parse_idx(bytes([0, 0, 8, 1, 0, 0, 0, 3, 5, 0, 4]), "labels").tolist()
    [5, 0, 4]
    """
    raw = storage.decompress(data, name)
    rank = raw[3] if raw.startswith(_MAGIC) and len(raw) > 3 else 0
    if rank not in (1, 3) or len(raw) < 4 + 4 * rank:
        raise DataError(
            f"{name}: this is no IDX file of labels or images in unsigned bytes (it begins with "
            f"0x{raw[:4].hex()}); check the path"
        )
    shape: tuple[int, ...] = struct.unpack_from(f">{rank}I", raw, offset=4)
    values = np.frombuffer(raw, np.uint8, offset=4 + 4 * rank)
    if not len(values) or len(values) != prod(shape):
        raise DataError(
            f"{name}: the header announces {' x '.join(map(str, shape))} bytes of data but "
            f"{len(values)} follow; get the file again"
        )
    return values.reshape(shape)


def find_pair(found: Iterable[str], part: str) -> list[str]:
    """Find the image file and the label file of `train` or `test` among file names; "" for none.

    Names may be in upper or lower case, with a dot before `idx`, and end in `.gz`.

    >>> find_pair(["T10K-images.idx3-ubyte.gz", "notes"], "test")
    ['T10K-images.idx3-ubyte.gz', '']
    """
    # If a file exists raw and gzipped, take the raw one.
    known = {
        name.lower().removesuffix(".gz").replace(".idx", "-idx"): name
        for name in sorted(found, reverse=True)
    }
    return [known.get(name, "") for name in IDX_NAMES[part]]


def parse_pair(images_file: tuple[bytes, str], labels_file: tuple[bytes, str]) -> Dataset:
    """Parse an image and a label file of 28 x 28 digits, each given as (bytes, name).

    Raises:
        DataError: a file is damaged, the numbers of images and labels differ, or an image has no
            clear scale.
    """
    try:
        return labelled_rows(parse_idx(*images_file), parse_idx(*labels_file))
    except ArgumentError as error:
        raise DataError(f"{images_file[1]} and {labels_file[1]}: {error}") from error
