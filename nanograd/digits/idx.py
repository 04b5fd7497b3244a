"""IDX, the file format of MNIST: a magic number, the sizes, then one byte per value.

The sizes in a header are compared with the length of the file before memory is allocated.

References:
    LeCun, Cortes, Burges, "The MNIST database of handwritten digits", section "File formats".
    Deutsch (1996), RFC 1952, "GZIP file format specification", section 2.3.1.
"""

import gzip
import io
import struct
import zlib
from collections.abc import Iterable
from math import prod

import numpy as np
from numpy.typing import NDArray

from nanograd.digits.dataset import NUM_CLASSES, NUM_PIXELS, SIDE, Dataset
from nanograd.digits.levels import array_to_levels
from nanograd.errors import DataError

# The names of MNIST's images and labels.
IDX_NAMES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}

_GZIP_MAGIC = b"\x1f\x8b"
_MAX_BYTES = 4 << 30  # a million images as CSV
_UNSIGNED_BYTE = 0x08
_LABELS = 1  # dimensions of a label file
_IMAGES = 3  # dimensions of an image file


def parse_idx(data: bytes, name: str) -> NDArray[np.uint8]:
    """Parse (N,) labels or (N, rows, columns) images from an IDX file, raw or gzipped, read-only.

    Raises:
        DataError: no IDX, another type or number of dimensions, empty, cut short or too long; the
            message names the file (`name`).

    >>> parse_idx(bytes([0, 0, 8, 1, 0, 0, 0, 3, 5, 0, 4]), "labels").tolist()
    [5, 0, 4]
    """
    raw = decompress(data, name)
    if len(raw) < 8 or raw[:2] != b"\0\0":
        magic = f"0x{raw[:4].hex()}" if raw else "missing, the file has no bytes"
        raise DataError(f"{name}: this is no IDX file (magic number {magic}); check the path")
    kind, num_dimensions = raw[2], raw[3]
    if kind != _UNSIGNED_BYTE or num_dimensions not in (_LABELS, _IMAGES):
        raise DataError(
            f"{name}: IDX type 0x{kind:02x} with {num_dimensions} dimensions is not MNIST's; use "
            "files of unsigned bytes (0x08) with 1 dimension (labels) or 3 (images)"
        )
    header_bytes = 4 + 4 * num_dimensions
    if len(raw) < header_bytes:
        raise DataError(f"{name}: the file is cut short within its header; get the file again")
    shape: tuple[int, ...] = struct.unpack_from(f">{num_dimensions}I", raw, offset=4)
    sizes = " x ".join(map(str, shape))
    if 0 in shape:
        raise DataError(f"{name}: the file is empty ({sizes} bytes of data); get another")
    values = np.frombuffer(raw, np.uint8, offset=header_bytes)
    if len(values) != prod(shape):
        fault = "cut short" if len(values) < prod(shape) else "too long"
        raise DataError(
            f"{name}: the file is {fault}: its header announces {sizes} bytes of data but "
            f"{len(values)} follow; get the file again"
        )
    return values.reshape(shape)


def find_pair(found: Iterable[str], part: str) -> list[str]:
    """Find the images and the labels of a part among names of files, in any case; "" for none.

    >>> find_pair(["T10K-images.idx3-ubyte.gz", "notes"], "test")
    ['T10K-images.idx3-ubyte.gz', '']
    """
    # Where a file is there twice, raw comes first.
    known = {
        name.lower().removesuffix(".gz").replace(".idx", "-idx"): name
        for name in sorted(found, reverse=True)
    }
    return [known.get(name, "") for name in IDX_NAMES[part]]


def parse_pair(images_file: tuple[bytes, str], labels_file: tuple[bytes, str]) -> Dataset:
    """Parse an image and a label file, each as (bytes, name), of 28 x 28 digits.

    Raises:
        DataError: a file is broken, the two do not fit, or an image has no clear scale.
    """
    (_, images_name), (_, labels_name) = images_file, labels_file
    images, labels = parse_idx(*images_file), parse_idx(*labels_file)
    if images.shape[1:] != (SIDE, SIDE):
        raise DataError(f"{images_name}: expected images of 28 x 28, found shape {images.shape}")
    if labels.ndim != 1:
        raise DataError(f"{labels_name}: expected labels, found images; are the files swapped?")
    if len(images) != len(labels):
        raise DataError(
            f"{images_name} has {len(images)} images but {labels_name} has {len(labels)} labels; "
            "take both from the same data set"
        )
    if labels.max() >= NUM_CLASSES:
        worst = int((labels >= NUM_CLASSES).argmax())
        raise DataError(f"{labels_name}: label {worst} is {labels[worst]}, expected 0 to 9")
    rows, problem = array_to_levels(images.reshape(-1, NUM_PIXELS))
    if problem:
        raise DataError(f"{images_name}: image {problem[0]}: {problem[1]}")
    return Dataset(rows, labels)


def decompress(data: bytes, name: str, max_bytes: int = _MAX_BYTES) -> bytes:
    """Decompress a gzip file, as far as it is allowed to grow; return anything else unchanged.

    Gzip is recognised by its magic number, since files get renamed.

    Raises:
        DataError: the gzip stream is cut short, damaged or too long.
    """
    if not data.startswith(_GZIP_MAGIC):
        return data
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
            raw = file.read(max_bytes + 1)
    except EOFError as error:
        raise DataError(f"{name}: the gzip file is cut short; get the file again") from error
    except (OSError, zlib.error) as error:
        raise DataError(f"{name}: the gzip file is damaged ({error}); get it again") from error
    if len(raw) > max_bytes:
        raise DataError(
            f"{name}: the gzip file holds more than {max_bytes:,} bytes; decompress it first if it "
            "is what you want"
        )
    return raw
