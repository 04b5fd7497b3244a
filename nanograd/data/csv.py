"""MNIST as comma-separated values: a line is the label, then 784 pixels.

References:
    Redmon (2015), "MNIST in CSV", pjreddie.com/projects/mnist-in-csv.
"""

import numpy as np
from numpy.typing import NDArray

from nanograd.data.dataset import NUM_CLASSES, NUM_PIXELS, Dataset
from nanograd.data.idx import decompress
from nanograd.errors import DataError

_NUM_COLUMNS = 1 + NUM_PIXELS
_BLOCK_BYTES = 1 << 24
_LABELS = frozenset(str(label).encode() for label in range(NUM_CLASSES))
_PIXELS = frozenset(str(pixel).encode() for pixel in range(256))
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def parse_csv(data: bytes, name: str) -> Dataset:
    """Parse an MNIST CSV file, raw or gzipped, with or without a header line.

    Raises:
        DataError: no rows, a wrong number of columns, or an invalid label or pixel; the message
            names the file (`name`) and the line.

    >>> parse_csv(b"7" + 783 * b",0" + b",255", "one.csv").labels.tolist()
    [7]
    """
    text = decompress(data, name).removeprefix(_BYTE_ORDER_MARK)
    start = _header_bytes(text)
    if not text[start:].strip():
        raise DataError(f"{name}: there are no images in this file; expected 785 values a line")
    try:
        columns = _read_columns(text, start)
        if columns[0].max() >= NUM_CLASSES:
            raise ValueError("a label is not 0 to 9")
    except ValueError as error:  # of pyarrow, too: ArrowInvalid
        reason = _first_fault(text, start) or f": {str(error)[:200]}"
        raise DataError(f"{name}{reason}") from error
    return Dataset(images=np.ascontiguousarray(columns[1:].T), labels=columns[0].copy())


def _read_columns(text: bytes, start: int) -> NDArray[np.uint8]:
    """Return (785, N) uint8: the labels, then one row for each pixel position."""
    # Imported here: it takes 0.1 s.
    import pyarrow as pa  # noqa: PLC0415
    from pyarrow import csv  # noqa: PLC0415

    fields = [str(column) for column in range(_NUM_COLUMNS)]
    table = csv.read_csv(
        pa.BufferReader(pa.py_buffer(text).slice(start)),
        # One thread and 16 MB: 0.7 s for 60,000 rows; two threads and 1 MB took twice that.
        read_options=csv.ReadOptions(
            column_names=fields, use_threads=False, block_size=_BLOCK_BYTES
        ),
        # Without null_values an empty cell is an error, not a missing number.
        convert_options=csv.ConvertOptions(
            column_types=dict.fromkeys(fields, pa.uint8()), null_values=[]
        ),
    )
    return np.stack([column.to_numpy() for column in table.columns])


def _header_bytes(text: bytes) -> int:
    """Return the length of the header line, 0 if the first line starts with a number."""
    line = text.split(b"\n", maxsplit=1)[0]
    first = _cells(line)[0]
    try:
        float(first)
    except ValueError:
        # A first line that starts with an empty cell is a damaged row, not a header.
        return min(len(line) + 1, len(text)) if first else 0
    return 0


def _first_fault(text: bytes, start: int) -> str:
    """Describe the first invalid line; empty if all are valid."""
    for number, line in enumerate(text[start:].splitlines(), start=2 if start else 1):
        cells = line.split(b",")
        # A look-up in a set passes the valid lines several times as fast as int() does.
        if len(cells) == _NUM_COLUMNS and cells[0] in _LABELS and _PIXELS.issuperset(cells):
            continue
        if line and (fault := _fault(_cells(line))):
            return f", line {number}: {fault}"
    return ""


def _fault(cells: list[bytes]) -> str:
    if len(cells) != _NUM_COLUMNS:
        hint = " (is the label missing?)" if len(cells) == NUM_PIXELS else ""
        return f"expected a label and 784 pixels, 785 values, found {len(cells)}{hint}"
    for column, cell in enumerate(cells):
        name, largest = ("label", NUM_CLASSES - 1) if column == 0 else (f"pixel {column - 1}", 255)
        # int() alone would also accept "1_0" and "+5", and refuses thousands of digits.
        if not (cell.isdigit() and len(cell) < 10 and int(cell) <= largest):
            value = cell[:20].decode(errors="replace")
            return f"{name} is {value!r}, expected a whole number from 0 to {largest}"
    return ""


def _cells(line: bytes) -> list[bytes]:
    cells = [cell.strip(b" \t\r") for cell in line.split(b",")]
    return [c[1:-1] if len(c) > 1 and c[:1] == c[-1:] == b'"' else c for c in cells]
