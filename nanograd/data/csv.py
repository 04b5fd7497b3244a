"""MNIST as comma-separated values: a line is a label and then 784 pixels.

The label is the first value and pixel 0 the second. (The program this one descends from read the
label as pixel 0 and so shifted every picture by one and told the net the answer.)

References:
    Redmon (2015), "MNIST in CSV", pjreddie.com/projects/mnist-in-csv.
"""

import numpy as np
from numpy.typing import NDArray

from nanograd.data.dataset import NUM_PIXELS, Dataset
from nanograd.data.idx import decompress
from nanograd.errors import DataError
from nanograd.nn.mlp import NUM_CLASSES

_NUM_COLUMNS = 1 + NUM_PIXELS
_BLOCK_BYTES = 1 << 24
_LABELS = frozenset(str(label).encode() for label in range(NUM_CLASSES))
_PIXELS = frozenset(str(pixel).encode() for pixel in range(256))
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def parse_csv(data: bytes, name: str) -> Dataset:
    """The labelled images of an MNIST CSV file, raw or gzipped, with or without a header line.

    Args:
        data: the file's bytes.
        name: the file, for error messages.

    Raises:
        DataError: no rows, a wrong number of columns, or a value that is no label or pixel; the
            message names the line.

    >>> parse_csv(b"7" + 783 * b",0" + b",255", "one.csv").labels.tolist()
    [7]
    """
    text = decompress(data, name).removeprefix(_BYTE_ORDER_MARK)
    start = _header_bytes(text)
    if not text[start:].strip():
        raise DataError(f"{name}: there are no images in this file; expected 785 values a line")
    try:
        columns = _read_columns(text, start)
    except ValueError as error:  # pyarrow's ArrowInvalid
        reason = _complaint(text, start, name) or f"{name}: {str(error)[:200]}"
        raise DataError(reason) from error
    if columns[0].max() >= NUM_CLASSES:
        raise DataError(_complaint(text, start, name))
    return Dataset(images=np.ascontiguousarray(columns[1:].T), labels=columns[0].copy())


def _read_columns(text: bytes, start: int) -> NDArray[np.uint8]:
    """(785, N) uint8: the labels, then one row for each pixel position."""
    # Imported here: only CSV data needs it, and it takes 0.1 s.
    import pyarrow as pa  # noqa: PLC0415
    from pyarrow import csv  # noqa: PLC0415

    fields = [str(column) for column in range(_NUM_COLUMNS)]
    table = csv.read_csv(
        pa.BufferReader(pa.py_buffer(text).slice(start)),
        # One thread and 16 MB: 0.7 s for 60,000 rows; two threads and 1 MB took twice that.
        read_options=csv.ReadOptions(
            column_names=fields, use_threads=False, block_size=_BLOCK_BYTES
        ),
        # Without null_values an empty cell is a mistake, not a missing number.
        convert_options=csv.ConvertOptions(
            column_types=dict.fromkeys(fields, pa.uint8()), null_values=[]
        ),
    )
    return np.stack([column.to_numpy() for column in table.columns])


def _header_bytes(text: bytes) -> int:
    """Length of the header line, 0 if the first line starts with a number."""
    line = text.split(b"\n", maxsplit=1)[0]
    first = _cells(line)[0]
    try:
        float(first)
    except ValueError:
        # A first line that starts with an empty cell is a damaged row, not a header.
        return min(len(line) + 1, len(text)) if first else 0
    return 0


def _complaint(text: bytes, start: int, name: str) -> str:
    """What is wrong with the first bad line; empty if every line is as it should be."""
    header_lines = 1 if start else 0
    for number, line in enumerate(text[start:].splitlines(), start=1 + header_lines):
        if line and not _is_plainly_right(line):
            fault = _fault(_cells(line))
            if fault:
                return f"{name}, line {number}: {fault}"
    return ""


def _is_plainly_right(line: bytes) -> bool:
    # Looking cells up in a set passes the good lines several times as fast as int() does.
    cells = line.split(b",")
    return len(cells) == _NUM_COLUMNS and cells[0] in _LABELS and _PIXELS.issuperset(cells)


def _fault(cells: list[bytes]) -> str:
    if len(cells) != _NUM_COLUMNS:
        hint = " (is the label missing?)" if len(cells) == NUM_PIXELS else ""
        return f"expected a label and 784 pixels, 785 values, found {len(cells)}{hint}"
    for column, cell in enumerate(cells):
        what, largest = ("label", NUM_CLASSES - 1) if column == 0 else (f"pixel {column - 1}", 255)
        # int() alone would also take "1_0" and "+5", and refuses thousands of digits.
        if not (cell.isdigit() and len(cell) < 10 and int(cell) <= largest):
            shown = cell[:20].decode(errors="replace")
            return f"{what} is {shown!r}, expected a whole number from 0 to {largest}"
    return ""


def _cells(line: bytes) -> list[bytes]:
    return [_unquoted(cell.strip(b" \t\r")) for cell in line.split(b",")]


def _unquoted(cell: bytes) -> bytes:
    return cell[1:-1] if len(cell) > 1 and cell[:1] == cell[-1:] == b'"' else cell
