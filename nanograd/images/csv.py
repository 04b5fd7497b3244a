"""Digits as comma-separated values: 784 pixels and perhaps a label and other columns in each row.

A header names the columns, in any order: the pixels as `columns.flat_columns` recognises them.
Without a header, a row is the label, then the pixels, or the pixels alone. Pixels are read as
numbers, all other columns as text: what their values look like may differ by the file.

References:
    Redmon (2015), "MNIST in CSV", pjreddie.com/projects/mnist-in-csv;
    Shafranovich (2005), RFC 4180, "Common format and MIME type for CSV files", 2.6.
"""

import re
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import chain, groupby, islice
from math import inf
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
from numpy.typing import NDArray

from nanograd.digits.dataset import NUM_CLASSES, NUM_PIXELS
from nanograd.digits.levels import scale_of
from nanograd.errors import DataError, Reason
from nanograd.images.columns import LABEL_NAMES, flat_columns
from nanograd.images.parquet import BATCH_BYTES, MAX_ROWS, READ_BYTES, check_storage, with_scales
from nanograd.images.tensors import Refused
from nanograd.runtime import storage

# Endings of such files.
CSV = (".csv", ".csv.gz")
_OTHER = re.compile(r"\.(tsv|txt|csv\.\w+)(\.\w+)?$", re.IGNORECASE)
_TAKEN = (
    f"tables of text are read from {' and '.join(CSV)} files, in UTF-8, with commas; convert it"
)
_GZIP_MAGIC, _BYTE_ORDER_MARK = b"\x1f\x8b", b"\xef\xbb\xbf"
# Maximum bytes of a row with quoted values.
_MAX_ROW_BYTES = 1 << 24
# What Arrow may take for a number, without the space around it.
_NUMBER = re.compile(
    r"[-+]?((\d+\.?\d*|\.\d+)(e[-+]?\d+)?|0x[\da-f]{1,2}|nan(\(\w*\))?|inf(inity)?)", re.A | re.I
)
_LABEL_FIRST = ("label", *map(str, range(NUM_PIXELS)))
# Labels have at least 5 different digits, none of them in more than half of the rows. A column of
# border pixels fails this test, because nearly all of its values are 0.
_LEAST_DIGITS, _MOST_OF_ONE = 5, 0.5
# Rows among which the scale of the pixels is looked for first.
_SOME_ROWS = 128


def _cell(separator: bytes) -> re.Pattern[bytes]:
    """Return how Arrow divides a row.

    Quotes count only at the start of a value, what follows them belongs to it, and open ones take
    the rest.
    """
    end = re.escape(separator)
    return re.compile(rb'(?:^|%b)(?:("(?:[^"]|"")*+)("[^%b]*)?|([^%b]*))' % (end, end, end))


_CELL = _cell(b",")


def check_ending(place: str) -> None:
    """Raise DataError for a table of text in another format than CSV, by the ending of its name."""
    if _OTHER.search(place) and not place.lower().endswith(CSV):
        raise DataError(f"{place}: {_TAKEN}")


def join_lines(
    lines: Iterable[bytes], number: int | None = None, separator: bytes = b","
) -> Iterator[bytes]:
    r"""Yield the lines of rows: several where a value in quotes has line breaks (RFC 4180).

    A quote that is not closed, or closed in another place than the end of a value, damages its own
    line alone; so does one that makes a row of another number of values.

    Args:
        lines: with their ends.
        number: of the values in a row; None if it is unknown.
        separator: of the values.

    >>> list(join_lines([b'1,"a\n', b'b",2\n', b'3,"c\n']))
    [b'1,"a\nb",2\n', b'3,"c\n']
    """
    cell = _CELL if separator == b"," else _cell(separator)
    left, again = iter(lines), deque[bytes]()
    while (line := again.popleft() if again else next(left, None)) is not None:
        taken, num_bytes, is_damaged = [line], len(line), False
        is_open = b'"' in line and _is_open(cell.findall(line))
        while is_open and not is_damaged:
            more = again.popleft() if again else next(left, None)
            if more is None or num_bytes > _MAX_ROW_BYTES:
                is_damaged = True
                again.extendleft([] if more is None else [more])
                break
            taken.append(more)
            num_bytes += len(more)
            if b'"' in more:
                cells = cell.findall(b'"' + more)
                is_damaged = cells[0][1].strip(b" \t\r\n") not in (b"", b'"')
                is_open = _is_open(cells)
        row = b"".join(taken)
        if len(taken) > 1 and (is_damaged or number not in (None, len(cell.findall(row)))):
            again.extendleft(reversed(taken[1:]))
            row = line
        yield row


def _is_open(cells: Sequence[tuple[bytes, bytes, bytes]]) -> bool:
    return bool(cells[-1][0] and not cells[-1][1])


def split_cells(line: bytes, separator: bytes = b",") -> list[bytes]:
    r"""Return the values of a line, without quotes and the space around them.

    >>> split_cells(b'1, "a,b"\r'), split_cells(b'1,5; "a;b" ', b";")
    ([b'1', b'a,b'], [b'1,5', b'a;b'])
    """
    end = re.escape(separator)
    cells = re.findall(rb'(?:^|%b)[ \t]*("(?:[^"]|"")*"|[^%b]*)' % (end, end), line)
    plain = [cell.strip(b" \t\r\n") for cell in cells]
    return [
        c[1:-1].replace(b'""', b'"') if len(c) > 1 and c[:1] == c[-1:] == b'"' else c for c in plain
    ]


class CsvFile:
    """A CSV file, raw or gzipped: a row is a line, or several, that is not empty.

    Args:
        file: path or URI.

    Raises:
        DataError: it is damaged, has no lines, or no 784 columns of pixels.
        StorageError: it cannot be read.
    """

    def __init__(self, file: str) -> None:
        self._file = file
        self._number: int | None = None  # of values in a row
        first = next(self._rows(), None)
        if first is None:
            raise DataError(f"{file} is empty; expected a header or rows of 784 pixels")
        self.names, self.pixels, self.has_header = _column_names(first, file)
        self._number = len(self.names)
        types = dict.fromkeys(self.names, pa.string())
        types |= dict.fromkeys(self.pixels, pa.float64())
        self.schema = pa.schema(types.items())

    def scan(self) -> tuple[int, int]:
        """Return the number of rows and their bytes, for which all of the file is read.

        Raises:
            DataError: the labels may be in another column than the first.
        """
        num_rows, num_bytes = 0, 0
        has_labels = not self.has_header and len(self.names) > len(self.pixels)
        first, last, some = Counter[bytes](), Counter[bytes](), list[bytes]()
        for lines in self._batches():
            num_rows, num_bytes = num_rows + len(lines), num_bytes + sum(map(len, lines))
            if has_labels:
                whole = [line for line in lines if line.count(b",") == NUM_PIXELS]
                first.update(line.partition(b",")[0] for line in whole)
                last.update(line.rpartition(b",")[2] for line in whole)
                some = some or lines
        if has_labels:
            parsed = self._parse_each(some, self.pixels)
            pixels = [np.stack(each.columns) for each in parsed if isinstance(each, pa.RecordBatch)]
            whole_pixels = np.concatenate([np.zeros((NUM_PIXELS, 0)), *pixels], axis=1)
            check_label_first(_expand(first), _expand(last), whole_pixels, self._file)
        return num_rows, num_bytes

    def read(
        self, skip: int, num_rows: int | None, columns: Sequence[str]
    ) -> Iterator[pa.RecordBatch | list[Refused]]:
        """Read some columns of rows after some, all if their number is None, as `read_rows` does.

        Raises:
            DataError: there are fewer rows.
        """
        if num_rows == 0:
            return
        left = inf if num_rows is None else num_rows
        scales = {self.pixels[0]: scale_of(self._largest())}
        for lines in self._batches(skip):
            wanted = lines if left >= len(lines) else lines[: int(left)]
            for some in self._parse_each(wanted, columns):
                yield some if isinstance(some, list) else with_scales(some, scales)
            left -= len(wanted)
            if not left:
                return
        if left and num_rows is not None:
            raise DataError(f"{self._file} was changed after the job began; start the job again")

    def line_of(self, row: int) -> int:
        """Return the number of the line, from 1, where a row begins."""
        number, left = 1, row + self.has_header
        for lines in self._raw_rows():
            if lines.strip():
                if not left:
                    break
                left -= 1
            number += len(lines.splitlines())
        return number

    def _largest(self) -> Iterator[float]:
        """Yield the largest pixels of lines, some at a time, up to a share between 0 and 1."""
        for lines in self._batches():
            for start in range(0, len(lines), _SOME_ROWS):
                for some in self._parse_each(lines[start:][:_SOME_ROWS], self.pixels):
                    if isinstance(some, pa.RecordBatch):
                        values = np.nan_to_num(np.stack(some.columns))
                        yield float(values.max())
                        if ((values > 0) & (values < 1)).any():
                            return

    def _parse_each(
        self, lines: list[bytes], columns: Sequence[str]
    ) -> Iterator[pa.RecordBatch | list[Refused]]:
        """Parse lines; those that are damaged are refused."""
        for pixels in (pa.uint8(), pa.float64()):
            with suppress(pa.ArrowInvalid):
                yield self._parse(lines, columns, pixels)
                return
        indices = [self.names.index(name) for name in self.pixels]
        faults = [_find_fault(line, len(self.names), indices) for line in lines]
        if faults == [None]:
            detail = "the line cannot be read as values separated by commas"
            faults = [(0, Reason.WRONG_SHAPE, detail)]
        # Lines without a fault are tried again, in halves: only single lines are lost.
        numbers, half = range(len(lines)), len(lines) // 2
        for _, run in groupby(numbers, key=lambda row: (faults[row] is None, row < half)):
            some = list(run)
            if faults[some[0]] is None:
                yield from self._parse_each([lines[row] for row in some], columns)
            else:
                found = enumerate(faults[row] for row in some)
                yield [(row, *fault[1:]) for row, fault in found if fault]

    def _parse(
        self, lines: list[bytes], columns: Sequence[str], pixels: pa.DataType
    ) -> pa.RecordBatch:
        """Parse columns of lines, in their order; raise ArrowInvalid for damage."""
        # The first line once more: it shows whether the last one leaves a quote open.
        table = pa_csv.read_csv(
            pa.py_buffer(b"\n".join([*lines, lines[0]])),
            parse_options=pa_csv.ParseOptions(
                newlines_in_values=any(b"\n" in line or b"\r" in line for line in lines)
            ),
            read_options=pa_csv.ReadOptions(
                column_names=self.names, use_threads=False, block_size=_MAX_ROW_BYTES
            ),
            convert_options=pa_csv.ConvertOptions(
                column_types={
                    name: pixels if type_ == pa.float64() else type_
                    for name in columns
                    for type_ in [self.schema.field(name).type]
                },
                include_columns=columns,
                null_values=[""],
                strings_can_be_null=True,
                check_utf8=False,
            ),
        )
        if table.num_rows != len(lines) + 1:
            raise pa.ArrowInvalid("a quoted value goes on in the next line")
        batch, _ = table.combine_chunks().to_batches(len(lines))
        return batch

    def _batches(self, skip: int = 0) -> Iterator[list[bytes]]:
        """Yield the lines of rows, without the header, many at a time but of bounded size."""
        held, num_bytes = list[bytes](), 0
        for line in islice(self._rows(), skip + self.has_header, None):
            held.append(line)
            num_bytes += len(line)
            if len(held) == MAX_ROWS or num_bytes >= BATCH_BYTES:
                yield held
                held, num_bytes = [], 0
        if held:
            yield held

    def _rows(self) -> Iterator[bytes]:
        """Yield the lines of each row that is not empty, without their end."""
        return (row.rstrip(b"\r\n") for row in self._raw_rows() if row.strip())

    def _raw_rows(self) -> Iterator[bytes]:
        return join_lines(chain.from_iterable(read_lines(self._file)), self._number)


def read_lines(file: str) -> Iterator[list[bytes]]:
    """Yield the lines of a text file, raw or gzipped, with their ends, some at a time.

    Raises:
        DataError: it is damaged, or a line has more than 16 MB.
        StorageError: it cannot be read.
    """
    with storage.open_file(file) as raw:
        packed = raw.read(2) == _GZIP_MAGIC
        raw.seek(0)
        rest, is_first = b"", True
        stream = pa.CompressedInputStream(raw, "gzip") if packed else raw
        while True:
            try:
                data = stream.read(READ_BYTES)
            except OSError as error:
                check_storage(file, error)
                raise DataError(
                    f"{file}: the gzip file is damaged or cut short: {error}"
                ) from error
            text = (rest + data).removeprefix(_BYTE_ORDER_MARK) if is_first else rest + data
            # A carriage return at the end may be half of a line's end.
            last = max(text.rfind(b"\n"), text.rfind(b"\r", 0, len(text) - 1))
            end = last + 1 if data else len(text)
            rest, is_first = text[end:], False
            if len(rest) > _MAX_ROW_BYTES:
                raise DataError(f"{file} is no CSV file: a line has more than 16 MB")
            yield text[:end].splitlines(keepends=True)
            if not data:
                return


def _column_names(line: bytes, name: str) -> tuple[tuple[str, ...], tuple[str, ...], bool]:
    """Return the columns of a CSV file, those of its pixels in order, and whether a header is read.

    Args:
        line: the first one of the file, without a byte order mark.
        name: of the file, for messages.

    Raises:
        DataError: there are no 784 columns of pixels.
    """
    if b"\0" in line[:1000] or line.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(f"{name}: this is no text in UTF-8 (UTF-16, as of Excel?); {_TAKEN}")
    names = tuple(cell.decode(errors="replace") for cell in split_cells(line))
    pixels = flat_columns(names)
    # A first line that starts with an empty cell, or has a wrong pixel, is a damaged row, unless it
    # has a label or pixels by name: 784 different numbers are no levels.
    is_named = pixels or not {each.lower() for each in names}.isdisjoint(LABEL_NAMES)
    if not is_named and (not names[0] or _NUMBER.fullmatch(names[0])):
        if len(names) not in (NUM_PIXELS, NUM_PIXELS + 1):
            raise DataError(
                f"{name}: the first line has {len(names):,} values; expected a header, 784 pixels, "
                "or a label and 784 pixels, separated by commas"
            )
        return _LABEL_FIRST[-len(names) :], _LABEL_FIRST[1:], False
    if len(set(names)) < len(names):
        raise DataError(f"{name}: two columns have the same name; name each column once")
    if not pixels:
        raise DataError(
            f"{name}: the header names no 784 columns of pixels; expected pixel0 to pixel783 or "
            "1x1 to 28x28, separated by commas, or no header, with the label first"
        )
    return names, pixels, True


def _find_fault(line: bytes, number: int, pixels: Sequence[int]) -> Refused | None:
    """Find what is wrong with a line of CSV; nothing in a line that Arrow takes."""
    cells = _CELL.findall(line)
    if _is_open(cells):
        return 0, Reason.WRONG_SHAPE, "a quoted value does not end in its line"
    if len(cells) != number:
        return 0, Reason.WRONG_SHAPE, f"the line has {len(cells):,} values, and not {number:,}"
    for quoted, end, plain in (cells[index] for index in pixels):
        value = (quoted[1:] + end[1:] + plain).decode(errors="replace")
        if value and not value.strip(" \t"):
            return 0, Reason.WRONG_SHAPE, "a pixel is null"
        if value and not _NUMBER.fullmatch(value.strip(" \t")):
            return 0, Reason.BAD_PIXEL, f"a pixel is {value[:20]!r}, not a number"
    return None


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


def _expand(cells: Counter[bytes]) -> NDArray[np.float64]:
    """Return the numbers in cells, NaN for none and infinity for text, as often as counted."""

    def number(cell: bytes) -> float:
        text = cell.strip(b' \t"')
        try:
            return float(text or b"nan")
        except ValueError:
            return inf

    return np.repeat([number(each) for each in cells], [*cells.values()])
