"""Digits as comma-separated values: 784 pixels and a label in each line.

A header names the columns, in any order and among others: the label as in LABEL_NAMES, the pixels
as `flat_columns` recognises them. Without one, a line is the label, then the pixels.

References:
    Redmon (2015), "MNIST in CSV", pjreddie.com/projects/mnist-in-csv;
    Shafranovich (2005), RFC 4180, "Common format and MIME type for CSV files", 2.6.
"""

import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nanograd.digits.dataset import NUM_CLASSES, NUM_PIXELS, Dataset
from nanograd.digits.idx import decompress
from nanograd.digits.levels import describe, scale_of, to_levels
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
# Maximum bytes of a row with quoted values.
MAX_ROW_BYTES = 1 << 24
# How Arrow divides a row: quotes count only at the start of a value, what follows them belongs to
# it, and open ones take the rest.
CELL = re.compile(rb'(?:^|,)(?:("(?:[^"]|"")*+)("[^,]*)?|([^,]*))')
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
    first = next(join_lines(_lines(text)), b"")
    start = len(first) if _is_header(first) else 0
    if not text[start:].strip():
        raise DataError(f"{name}: there are no images in this file; expected 785 values a line")
    layout = _layout(first, name) if start else _without_header(text, name)
    try:
        columns = _read_columns(text, start, layout)
        if columns[0].max() >= NUM_CLASSES:
            raise ValueError("a label is not 0 to 9")
    except ValueError as error:  # of pyarrow, too: ArrowInvalid
        reason = _first_fault(text, start, layout) or f": {str(error)[:200]}"
        raise DataError(f"{name}{reason}") from error
    if not start:
        check_label_first(columns[0], columns[-1], columns[1:], name)
    scale = scale_of([columns[1:].max()])
    images, problems = to_levels(np.ascontiguousarray(columns[1:].T), scale)
    if (problems >= 0).any():
        row = int((problems >= 0).argmax())
        line, _ = next(islice(_rows(text, start, layout), row, None))
        raise DataError(f"{name}, line {line}: {describe(problems[row])}")
    return Dataset(images=images, labels=columns[0].copy())


def join_lines(lines: Iterable[bytes], number: int | None = None) -> Iterator[bytes]:
    r"""Yield the lines of rows: several where a value in quotes has line breaks (RFC 4180).

    A quote that is not closed, or closed in another place than the end of a value, damages its own
    line alone; so does one that makes a row of another number of values.

    Args:
        lines: with their ends.
        number: of the values in a row; None if it is unknown.

    >>> list(join_lines([b'1,"a\n', b'b",2\n', b'3,"c\n']))
    [b'1,"a\nb",2\n', b'3,"c\n']
    """
    left, again = iter(lines), deque[bytes]()
    while (line := again.popleft() if again else next(left, None)) is not None:
        taken, num_bytes, is_damaged = [line], len(line), False
        is_open = b'"' in line and _is_open(CELL.findall(line))
        while is_open and not is_damaged:
            more = again.popleft() if again else next(left, None)
            if more is None or num_bytes > MAX_ROW_BYTES:
                is_damaged = True
                again.extendleft([] if more is None else [more])
                break
            taken.append(more)
            num_bytes += len(more)
            if b'"' in more:
                cells = CELL.findall(b'"' + more)
                is_damaged = cells[0][1].strip(b" \t\r\n") not in (b"", b'"')
                is_open = _is_open(cells)
        row = b"".join(taken)
        if len(taken) > 1 and (is_damaged or number not in (None, len(CELL.findall(row)))):
            again.extendleft(reversed(taken[1:]))
            row = line
        yield row


def _is_open(cells: Sequence[tuple[bytes, bytes, bytes]]) -> bool:
    return bool(cells[-1][0] and not cells[-1][1])


def _lines(text: bytes) -> Iterator[bytes]:
    """Yield the lines of a text, with their ends."""
    start = 0
    while start < len(text):
        end = text.find(b"\n", start) + 1 or len(text)
        yield text[start:end]
        start = end


def _rows(text: bytes, start: int, layout: "_Layout") -> Iterator[tuple[int, bytes]]:
    """Yield the number of the first line of each row, and the row."""
    number = 1 + text[:start].count(b"\n")
    for row in join_lines(_lines(text[start:]), len(layout.names)):
        if row.strip(b"\n"):
            yield number, row.rstrip(b"\n")
        number += row.count(b"\n")


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
    if _is_header(line):
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


def check_label_first(
    first: NDArray[Any], last: NDArray[Any], pixels: NDArray[Any], name: str
) -> None:
    """Raise DataError if labels may be in another column than the first, and taken as pixels.

    Args:
        first: (N,) numbers, the first column of a file without a header; NaN or -1 for no label.
        last: (M,) numbers, the last one.
        pixels: (784, K) numbers, all columns but the first, of some rows.
        name: of the file.
    """
    if _are_labels(first):
        return
    remedy = "put labels first, or name all columns in a header (label, pixel0 to pixel783)"
    small = np.flatnonzero(pixels.max(axis=1, initial=0) < NUM_CLASSES)
    if others := [int(each) for each in small if _are_labels(pixels[each])]:
        raise DataError(
            f"{name}: the labels seem to be in column {others[0] + 2}, not in the first; {remedy}"
        )
    known = first[~np.isnan(first) & (first != -1)]
    if not np.isin(known, range(NUM_CLASSES)).all():
        raise DataError(f"{name}: the first column does not hold labels from 0 to 9; {remedy}")
    # The pixel in the last corner is hardly ever ink: zeros are labels only beside other zeros.
    is_digit = np.isin(last, range(NUM_CLASSES)).all()
    if is_digit and len(first) and (last.any() or not first.any()):
        raise DataError(f"{name}: the first column or the last may hold the labels; {remedy}")


def _are_labels(values: NDArray[Any]) -> bool:
    digits = values[np.isin(values, range(NUM_CLASSES))]
    counts = np.bincount(digits.astype(np.int64))
    most = _MOST_OF_ONE * len(values)
    return bool((counts > 0).sum() >= _LEAST_DIGITS and counts.max() <= most <= len(digits))


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
        parse_options=csv.ParseOptions(newlines_in_values=b'"' in text),
        # Without null_values an empty cell is an error, not a missing number.
        convert_options=csv.ConvertOptions(
            column_types=dict.fromkeys(wanted, pa.uint8()), null_values=[], include_columns=wanted
        ),
    )
    return np.stack([column.to_numpy() for column in table.columns])


def _is_header(line: bytes) -> bool:
    """Return whether the first line of a file names its columns."""
    cells = split_cells(line.rstrip(b"\r\n"))
    # A first line that starts with an empty cell, or has a wrong pixel, is a damaged row, unless it
    # has a label or pixels by name: 784 different numbers are no levels.
    names = [cell.decode(errors="replace") for cell in cells]
    is_named = not {each.lower() for each in names}.isdisjoint(LABEL_NAMES) or flat_columns(names)
    return bool(is_named or (cells[0] and not _NUMBER.fullmatch(cells[0])))


def _first_fault(text: bytes, start: int, layout: _Layout) -> str:
    """Describe the first invalid line; empty if all are valid."""
    columns = [("label", layout.label, _LABELS)]
    columns += [(f"pixel {n}", index, _PIXELS) for n, index in enumerate(layout.pixels)]
    for number, line in _rows(text, start, layout):
        cells = line.split(b",")
        # A look-up in a set passes the valid lines several times as fast as int() does.
        is_whole = len(cells) == len(layout.names) and cells[layout.label] in _LABELS
        if is_whole and _PIXELS.issuperset(cells[index] for index in layout.pixels):
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
