"""IDX, the file format of MNIST: a magic number, the sizes, then one byte per value.

The sizes in a header are compared with the length of the file before memory is allocated.

References:
    LeCun, Cortes, Burges, "The MNIST database of handwritten digits", section "File formats".
    Deutsch (1996), RFC 1952, "GZIP file format specification", section 2.3.1.
"""

import struct
from collections.abc import Iterable
from math import prod

import numpy as np
from numpy.typing import NDArray

from nanograd.digits.dataset import NUM_CLASSES, NUM_PIXELS, SIDE, Dataset
from nanograd.digits.levels import array_to_levels
from nanograd.errors import DataError
from nanograd.runtime import storage

# The file names of MNIST's images and labels.
IDX_NAMES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}

_MAGIC = b"\0\0\x08"  # for unsigned bytes; the number of dimensions follows


def parse_idx(data: bytes, name: str) -> NDArray[np.uint8]:
    """Parse (N,) labels or (N, rows, columns) images from an IDX file, raw or gzipped.

    The result is read-only.

    Raises:
        DataError: the file is not IDX, has another type or number of dimensions, is empty, is cut
            short or is too long.

    >>> parse_idx(bytes([0, 0, 8, 1, 0, 0, 0, 3, 5, 0, 4]), "labels").tolist()
    [5, 0, 4]
    """
    raw = storage.decompress(data, name)
    num_dimensions = raw[3] if raw.startswith(_MAGIC) and len(raw) > 3 else 0
    header_bytes = 4 + 4 * num_dimensions
    if num_dimensions not in (1, 3) or len(raw) < header_bytes:
        raise DataError(
            f"{name}: this is no IDX file of labels or images in unsigned bytes (it begins with "
            f"0x{raw[:4].hex()}); check the path"
        )
    shape: tuple[int, ...] = struct.unpack_from(f">{num_dimensions}I", raw, offset=4)
    values = np.frombuffer(raw, np.uint8, offset=header_bytes)
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
    (_, images_name), (_, labels_name) = images_file, labels_file
    images, labels = parse_idx(*images_file), parse_idx(*labels_file)
    if images.shape != (len(labels), SIDE, SIDE) or labels.ndim != 1:
        raise DataError(
            f"{images_name} and {labels_name}: expected N images of 28 x 28 and N labels, found "
            f"{images.shape} and {labels.shape}; take both from the same data set"
        )
    if labels.max() >= NUM_CLASSES:
        worst = int((labels >= NUM_CLASSES).argmax())
        raise DataError(f"{labels_name}: label {worst} is {labels[worst]}, expected 0 to 9")
    rows, problem = array_to_levels(images.reshape(-1, NUM_PIXELS))
    if problem:
        raise DataError(f"{images_name}: image {problem[0]}: {problem[1]}")
    return Dataset(rows, labels)
