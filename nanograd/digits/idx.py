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
from math import prod

import numpy as np
from numpy.typing import NDArray

from nanograd.errors import DataError

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
    shape = _parse_shape(raw, name)
    values = np.frombuffer(raw, np.uint8, offset=_header_bytes(len(shape)))
    if len(values) != prod(shape):
        fault = "cut short" if len(values) < prod(shape) else "too long"
        sizes = " x ".join(map(str, shape))
        raise DataError(
            f"{name}: the file is {fault}: its header announces {sizes} bytes of data but "
            f"{len(values)} follow; get the file again"
        )
    return values.reshape(shape)


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


def _parse_shape(raw: bytes, name: str) -> tuple[int, ...]:
    """Return the sizes in the header, all positive."""
    if len(raw) < _header_bytes(_LABELS) or raw[:2] != b"\0\0":
        magic = f"0x{raw[:4].hex()}" if raw else "missing, the file has no bytes"
        raise DataError(f"{name}: this is no IDX file (magic number {magic}); check the path")
    kind, num_dimensions = raw[2], raw[3]
    if kind != _UNSIGNED_BYTE or num_dimensions not in (_LABELS, _IMAGES):
        raise DataError(
            f"{name}: IDX type 0x{kind:02x} with {num_dimensions} dimensions is not MNIST's; use "
            "files of unsigned bytes (0x08) with 1 dimension (labels) or 3 (images)"
        )
    if len(raw) < _header_bytes(num_dimensions):
        raise DataError(f"{name}: the file is cut short within its header; get the file again")
    shape: tuple[int, ...] = struct.unpack_from(f">{num_dimensions}I", raw, offset=4)
    if 0 in shape:
        sizes = " x ".join(map(str, shape))
        raise DataError(f"{name}: the file is empty ({sizes} bytes of data); get another")
    return shape


def _header_bytes(num_dimensions: int) -> int:
    return 4 + 4 * num_dimensions
