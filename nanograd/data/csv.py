"""Digits as comma-separated values: 784 pixels and a label in each line.

A header names the columns, in any order and among others: the label as in LABEL_NAMES, the pixels
as `flat_columns` recognises them. Without one, a line is the label, then the pixels.

References:
    Redmon (2015), "MNIST in CSV", pjreddie.com/projects/mnist-in-csv.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nanograd.data.dataset import NUM_CLASSES, NUM_PIXELS, Dataset
from nanograd.data.idx import decompress
from nanograd.data.levels import describe, to_levels
from nanograd.errors import DataError

# Endings of such files.
CSV = (".csv", ".csv.gz")
_OTHER = re.compile(r"\.(tsv|txt|csv\.\w+)(\.\w+)?$", re.IGNORECASE)
_TAKEN = (
    f"tables of text are read from {' and '.join(CSV)} files, in UTF-8, with commas; convert it"
)
# In order of precedence.
LABEL_NAMES = ("label", "digit", "target")
# Spellings of 784 columns of pixels: pixel0 ... pixel783 (or from 1), 1x1 ... 28x28, px0, 0.
_FLAT = [
    re.compile(pattern, re.IGNORECASE)
    for pattern in (r"pixel_?(\d{1,4})", r"(\d\d?)x(\d\d?)", r"px_?(\d{1,4})", r"(\d{1,4})")
]
_LABEL_FIRST = ("label", *map(str, range(NUM_PIXELS)))
# A column of labels has at least so many of the digits, and none in more than this share of rows:
# pixels of the border are almost always 0.
_LEAST_DIGITS, _MOST_OF_ONE = 5, 0.5
_BLOCK_BYTES = 1 << 24
_LABELS = frozenset(str(label).encode() for label in range(NUM_CLASSES))
_PIXELS = frozenset(str(pixel).encode() for pixel in range(256))
# A comma in quotes separates nothing.
_CELL = re.compile(rb'(?:^|,)[ \t]*("(?:[^"]|"")*"|[^,]*)')
_NUMBER = re.compile(rb"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?|nan|[-+]?inf", re.IGNORECASE)
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class UnlabelledError(DataError):
    """A file of images without labels."""


class _Layout(NamedTuple):
    """The columns of a file."""

    names: tuple[str, ...]  # unique
    label: int  # index of the label
    pixels: tuple[int, ...]  # indices of the 784 pixels, in their order


def flat_columns(names: Sequence[str]) -> tuple[str, ...] | None:
    """Return the names of 784 columns of pixels, in the order of the pixels; None without them.

    >>> flat_columns(["label", *(f"pixel{number}" for number in range(783, -1, -1))])[:2]
    ('pixel0', 'pixel1')
    """
    for pattern in _FLAT:
        matches = {name: match for name in names if (match := pattern.fullmatch(name))}
        if len(matches) == NUM_PIXELS:
            return tuple(sorted(matches, key=lambda name: [*map(int, matches[name].groups())]))
    return None


def parse_csv(data: bytes, name: str) -> Dataset:
    """Parse a CSV file of labelled digits, raw or gzipped.

    Raises:
        UnlabelledError: there are no labels.
        DataError: no rows, no such columns, a wrong number of them, an invalid label or pixel, or
            an image whose scale is unclear; the message names the file (`name`) and the line.

    >>> parse_csv(b"7" + 783 * b",0" + b",255", "one.csv").labels.tolist()
    [7]
    """
    text = decompress(data, name).removeprefix(BYTE_ORDER_MARK)
    check_encoding(text, name)
    if b"\r" in text:  # with line feeds, as in Windows, or alone
        text = b"\n".join(text.splitlines())
    start = _header_bytes(text)
    if not text[start:].strip():
        raise DataError(f"{name}: there are no images in this file; expected 785 values a line")
    layout = _layout(text[:start], name) if start else _without_header(text, name)
    try:
        columns = _read_columns(text, start, layout)
        if columns[0].max() >= NUM_CLASSES:
            raise ValueError("a label is not 0 to 9")
    except ValueError as error:  # of pyarrow, too: ArrowInvalid
        reason = _first_fault(text, start, layout) or f": {str(error)[:200]}"
        raise DataError(f"{name}{reason}") from error
    if not start:
        check_label_first(columns, name)
    images, problems = to_levels(np.ascontiguousarray(columns[1:].T))
    if (problems >= 0).any():
        row = int((problems >= 0).argmax())
        lines = [number for number, line in enumerate(text.splitlines(), start=1) if line]
        raise DataError(f"{name}, line {lines[row + bool(start)]}: {describe(problems[row])}")
    return Dataset(images=images, labels=columns[0].copy())


def check_encoding(text: bytes, name: str) -> None:
    """Raise DataError if text begins as UTF-16 does, or as no text does."""
    if b"\0" in text[:1000] or text.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(f"{name}: this is no text in UTF-8 (UTF-16, as of Excel?); {_TAKEN}")


def check_ending(place: str) -> None:
    """Raise DataError for a table of text in another format than CSV, by the ending of its name."""
    if _OTHER.search(place) and not place.lower().endswith(CSV):
        raise DataError(f"{place}: {_TAKEN}")


def _layout(header: bytes, name: str) -> _Layout:
    """Find label and pixels by the names in the header."""
    names, pixels = _named_columns(header, name)
    others = [each for each in names if each not in pixels]
    labels = [each for word in LABEL_NAMES for each in others if each.lower() == word]
    if not labels:
        raise UnlabelledError(
            f"{name} has no labels: no column is called {', '.join(LABEL_NAMES[:-1])} or "
            f"{LABEL_NAMES[-1]}"
        )
    return _Layout(names, names.index(labels[0]), tuple(map(names.index, pixels)))


def column_names(line: bytes, name: str) -> tuple[tuple[str, ...], tuple[str, ...], bool]:
    """Return the columns of a CSV file, those of its pixels in order, and whether a header is read.

    Args:
        line: the first line of the file, without a byte order mark.
        name: of the file, for messages.

    Raises:
        DataError: there are no 784 columns of pixels.
    """
    check_encoding(line, name)
    if _header_bytes(line):
        return *_named_columns(line, name), True
    number = len(split_cells(line))
    if number not in (NUM_PIXELS, NUM_PIXELS + 1):
        raise DataError(
            f"{name}: the first line has {number:,} values; expected a header, 784 pixels, or a "
            "label and 784 pixels, separated by commas"
        )
    return _LABEL_FIRST[-number:], _LABEL_FIRST[1:], False


def _named_columns(header: bytes, name: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names in a header, and those of the pixels in their order."""
    names = tuple(cell.decode(errors="replace") for cell in split_cells(header.rstrip(b"\r\n")))
    if len(set(names)) < len(names):
        raise DataError(f"{name}: two columns have the same name; name each column once")
    pixels = flat_columns(names)
    if not pixels:
        raise DataError(
            f"{name}: the header names no 784 columns of pixels; expected pixel0 to pixel783 or "
            "1x1 to 28x28, separated by commas, or no header, with the label first"
        )
    return names, pixels


def _without_header(text: bytes, name: str) -> _Layout:
    # A single line without a label is a damaged one.
    ends = text.strip().split(b"\n", 1)[0], text.strip().rsplit(b"\n", 1)[-1]
    if all(len(split_cells(line)) == NUM_PIXELS for line in ends):
        raise UnlabelledError(f"{name} has no labels: 784 values a line, expected the label first")
    return _Layout(_LABEL_FIRST, 0, tuple(range(1, 1 + NUM_PIXELS)))


def check_label_first(columns: NDArray[np.uint8], name: str) -> None:
    """Raise DataError if labels are in another column than the first, and taken as pixels.

    Args:
        columns: (785, N) uint8, the columns of a file.
        name: of the file.
    """
    if _are_labels(columns[0]):
        return
    small = np.flatnonzero(columns.max(axis=1) < NUM_CLASSES)
    if others := [int(each) for each in small if each and _are_labels(columns[each])]:
        raise DataError(
            f"{name}: the labels seem to be in column {others[0] + 1}, not in the first; put them "
            "first, or name all columns in a header (label, pixel0 to pixel783)"
        )


def _are_labels(values: NDArray[np.uint8]) -> bool:
    counts = np.bincount(values)
    return bool((counts > 0).sum() >= _LEAST_DIGITS and counts.max() <= _MOST_OF_ONE * len(values))


def _read_columns(text: bytes, start: int, layout: _Layout) -> NDArray[np.uint8]:
    """Return (785, N) uint8: the labels, then one row for each pixel position."""
    # Imported here: it takes 0.1 s.
    import pyarrow as pa  # noqa: PLC0415
    from pyarrow import csv  # noqa: PLC0415

    wanted = [layout.names[index] for index in (layout.label, *layout.pixels)]
    table = csv.read_csv(
        pa.BufferReader(pa.py_buffer(text).slice(start)),
        # One thread and 16 MB: 0.7 s for 60,000 rows; two threads and 1 MB took twice that.
        read_options=csv.ReadOptions(
            column_names=layout.names, use_threads=False, block_size=_BLOCK_BYTES
        ),
        # Without null_values an empty cell is an error, not a missing number.
        convert_options=csv.ConvertOptions(
            column_types=dict.fromkeys(wanted, pa.uint8()), null_values=[], include_columns=wanted
        ),
    )
    return np.stack([column.to_numpy() for column in table.columns])


def _header_bytes(text: bytes) -> int:
    """Return the length of the header line; 0 if the first line is a row."""
    line = text.split(b"\n", maxsplit=1)[0]
    cells = split_cells(line)
    # A first line that starts with an empty cell, or has a wrong pixel, is a damaged row, unless it
    # has a label or pixels by name: 784 different numbers are no levels.
    names = [cell.decode(errors="replace") for cell in cells]
    is_named = not {each.lower() for each in names}.isdisjoint(LABEL_NAMES) or flat_columns(names)
    if is_named or (cells[0] and not _NUMBER.fullmatch(cells[0])):
        return min(len(line) + 1, len(text))
    return 0


def _first_fault(text: bytes, start: int, layout: _Layout) -> str:
    """Describe the first invalid line; empty if all are valid."""
    columns = [("label", layout.label, _LABELS)]
    columns += [(f"pixel {n}", index, _PIXELS) for n, index in enumerate(layout.pixels)]
    for number, line in enumerate(text[start:].splitlines(), start=2 if start else 1):
        cells = line.split(b",")
        # A look-up in a set passes the valid lines several times as fast as int() does.
        is_whole = len(cells) == len(layout.names) and cells[layout.label] in _LABELS
        if not line or (is_whole and _PIXELS.issuperset(cells[index] for index in layout.pixels)):
            continue
        cells = split_cells(line)
        if len(cells) != len(layout.names):
            hint = " (is the label missing?)" if len(cells) == len(layout.names) - 1 else ""
            found = f"expected {len(layout.names)} values, found {len(cells)}{hint}"
            return f", line {number}: {found}"
        for name, index, known in columns:
            cell = cells[index]
            if not cell.isdigit() or (cell.lstrip(b"0") or b"0") not in known:
                value = cell[:20].decode(errors="replace")
                expected = f"expected a whole number from 0 to {len(known) - 1}"
                return f", line {number}: {name} is {value!r}, {expected}"
    return ""


def split_cells(line: bytes) -> list[bytes]:
    """Return the values of a line, without quotes and the space around them."""
    cells = [cell.strip(b" \t\r") for cell in _CELL.findall(line)]
    return [c[1:-1] if len(c) > 1 and c[:1] == c[-1:] == b'"' else c for c in cells]
