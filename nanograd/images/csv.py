"""Digits as comma-separated values: a row has 784 pixels, and may have a label and other columns.

A header names the columns, in any order (see `columns.flat_columns`). Without a header, a row is
the label and the pixels, or the pixels alone. All columns but the pixels are read as text, because
a type inferred from values could differ between files.

References:
    Redmon (2015), "MNIST in CSV", pjreddie.com/projects/mnist-in-csv;
    Shafranovich (2005), RFC 4180, "Common format and MIME type for CSV files", 2.6.
"""

import re
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from io import BufferedReader, TextIOWrapper
from itertools import groupby, islice
from math import inf, isnan

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv

from nanograd.digits.dataset import NUM_CLASSES, NUM_PIXELS
from nanograd.digits.levels import scale_of
from nanograd.errors import DataError, Reason, UnreadableError
from nanograd.images.columns import LABEL_NAMES, flat_columns
from nanograd.images.parquet import BATCH_BYTES, MAX_ROWS, READ_BYTES, check_storage, with_scales
from nanograd.runtime import storage
from nanograd.runtime.events import count

# Suffixes of CSV files.
CSV = (".csv", ".csv.gz")
_OTHER = re.compile(r"\.(tsv|txt|csv\.\w+)(\.\w+)?$", re.IGNORECASE)
_TAKEN = "tables of text are read from .csv and .csv.gz files, in UTF-8, with commas; convert it"
_GZIP_MAGIC, _BYTE_ORDER_MARK = b"\x1f\x8b", b"\xef\xbb\xbf"
# Maximum bytes of a line, and of a row with line breaks in quoted values.
_MAX_ROW_BYTES = 1 << 24
# Text that Arrow may read as a number, without surrounding space.
_NUMBER = re.compile(
    r"[-+]?((\d+\.?\d*|\.\d+)(e[-+]?\d+)?|0x[\da-f]{1,2}|nan(\(\w*\))?|inf(inity)?)", re.A | re.I
)
# How Arrow divides a row: a quote counts only at the start of a value, text after the closing quote
# belongs to the value, and a value without closing quote takes the rest of the row.
_CELL = re.compile(rb'(?:^|,)(?:("(?:[^"]|"")*+)("[^,]*)?|([^,]*))')
# A cell of the first line, which may have space before the quote.
_NAME = re.compile(r'(?:^|,)[ \t]*("(?:[^"]|"")*"|[^,]*)')
_LABEL_FIRST = ("label", *map(str, range(NUM_PIXELS)))
# A column of labels has at least 5 different digits, and no digit is in more than half of the rows.
# A column of border pixels fails this test, because nearly all of its values are 0.
_LEAST_DIGITS, _MOST_OF_ONE = 5, 0.5
# Number of rows that show whether a file without a header has labels.
_FIRST_ROWS = 11
# The scale of the pixels is searched in this many rows at a time.
_SOME_ROWS = 128


def check_ending(place: str) -> None:
    """Raise DataError if the suffix of a name is of a text table that is not CSV."""
    if _OTHER.search(place) and not place.lower().endswith(CSV):
        raise DataError(f"{place}: {_TAKEN}")


class CsvFile:
    """A CSV file, raw or gzipped. A row is one line or several; empty lines are skipped.

    Raises:
        DataError: the file is damaged, is empty, or does not have 784 columns of pixels.
        StorageError: the file cannot be read.
    """

    def __init__(self, file: str) -> None:
        self._file = file
        self.names: tuple[str, ...] = ()  # all columns
        some = list(islice(self._rows(), _FIRST_ROWS))
        if not some:
            raise DataError(f"{file} is empty; expected a header or rows of 784 pixels")
        line = some[0]
        if b"\0" in line[:1000] or line.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise DataError(f"{file}: this is no text in UTF-8 (UTF-16, as of Excel?); {_TAKEN}")
        cells = [each.strip(" \t\r\n") for each in _NAME.findall(line.decode(errors="replace"))]
        self.names = tuple(
            each[1:-1].replace('""', '"') if len(each) > 1 and each[0] == each[-1] == '"' else each
            for each in cells
        )
        self.pixels = flat_columns(self.names) or ()  # in the order of the pixels
        # A first line that starts with an empty cell or a number is a row, even if a pixel is
        # wrong. It is a header if a cell is a label name, or if 784 cells are distinct names of
        # pixels.
        is_named = self.pixels or not {e.lower() for e in self.names}.isdisjoint(LABEL_NAMES)
        is_row = not is_named and (not self.names[0] or _NUMBER.fullmatch(self.names[0]))
        self.has_header = not is_row
        if self.has_header and (text := _not_utf8(line)):
            raise DataError(f"{file}: the header has {text}")
        # The first row may be damaged, so the first rows decide whether there are labels.
        widths = Counter(len(_CELL.findall(each)) for each in some)
        width = max(NUM_PIXELS, NUM_PIXELS + 1, key=lambda each: (widths[each], each == len(cells)))
        if is_row and widths[width]:
            self.names, self.pixels = _LABEL_FIRST[-width:], _LABEL_FIRST[1:]
        elif is_row:
            raise DataError(
                f"{file}: the first line has {count(len(cells), 'value')}; expected a header, 784 "
                "pixels, or a label and 784 pixels, separated by commas"
            )
        elif not self.pixels or len(set(self.names)) < len(cells):
            raise DataError(
                f"{file}: the header names no 784 columns of pixels, or names a column twice; "
                "expected pixel0 to pixel783 or 1x1 to 28x28, separated by commas"
            )
        types = dict.fromkeys(self.names, pa.string())
        self.schema = pa.schema((types | dict.fromkeys(self.pixels, pa.float64())).items())

    def scan(self) -> tuple[int, int]:
        """Read the whole file; return its number of rows and their size in bytes.

        Raises:
            DataError: the file has no header, and its values do not show that labels come first.
        """
        num_rows, num_bytes = 0, 0
        has_labels = not self.has_header and len(self.names) > len(self.pixels)
        first, last, some = Counter[float | None](), Counter[float | None](), list[bytes]()
        for lines in self._batches():
            num_rows, num_bytes = num_rows + len(lines), num_bytes + sum(map(len, lines))
            if has_labels:
                whole = [line for line in lines if line.count(b",") == NUM_PIXELS]
                first.update(_number(line.partition(b",")[0]) for line in whole)
                last.update(_number(line.rpartition(b",")[2]) for line in whole)
                some = some or lines
        if not has_labels or _are_labels(first):
            return num_rows, num_bytes
        digits, parsed = set(range(NUM_CLASSES)), self._parse_each(some, self.pixels)
        intact = (each for each in parsed if isinstance(each, pa.RecordBatch))
        pixels = (Counter(column.to_pylist()) for each in intact for column in each.columns)
        # The last pixel is hardly ever ink, so a last column of zeros is a label only if the first
        # column has only zeros, too.
        is_last = bool(last) and last.keys() <= digits
        is_last = is_last and (last.keys() != {0} or first.keys() == {0})
        if is_last or not first.keys() <= digits | {None, -1} or any(map(_are_labels, pixels)):
            raise DataError(
                f"{self._file}: the labels may be in another column than the first; put labels "
                "first, or name all columns in a header (label, pixel0 to pixel783)"
            )
        return num_rows, num_bytes

    def read(
        self, skip: int, num_rows: int | None, columns: Sequence[str]
    ) -> Iterator[pa.RecordBatch | list[UnreadableError]]:
        """Skip rows, then read columns of `num_rows` rows (None: all), as `reader.read_rows`."""
        if num_rows == 0:
            return
        left, scales = num_rows, {self.pixels[0]: scale_of(self._largest())}
        for lines in self._batches(skip):
            wanted = lines[:left]
            for some in self._parse_each(wanted, columns):
                yield some if isinstance(some, list) else with_scales(some, scales)
            left = None if left is None else left - len(wanted)
            if left == 0:
                return
        if left:
            raise DataError(f"{self._file} was changed after the job began; start the job again")

    def line_of(self, row: int) -> int:
        """Return the number of the line, counted from 1, in which a row begins."""
        number, left = 1, row + self.has_header
        for lines in join_lines(read_lines(self._file), len(self.names)):
            if lines.strip():
                if not left:
                    break
                left -= 1
            number += len(lines.splitlines())
        return number

    def _largest(self) -> Iterator[float]:
        """Yield the largest pixel of each `_SOME_ROWS` rows; stop after a pixel between 0 and 1."""
        for lines in self._batches():
            for start in range(0, len(lines), _SOME_ROWS):
                for some in self._parse_each(lines[start : start + _SOME_ROWS], self.pixels):
                    if isinstance(some, pa.RecordBatch):
                        values = np.nan_to_num(np.stack(some.columns))
                        yield float(values.max())
                        if ((values > 0) & (values < 1)).any():
                            return

    def _parse_each(
        self, lines: list[bytes], columns: Sequence[str]
    ) -> Iterator[pa.RecordBatch | list[UnreadableError]]:
        """Parse lines; refuse those that are damaged."""
        for pixels in (pa.uint8(), pa.float64()):
            with suppress(pa.ArrowInvalid):
                yield self._parse(lines, columns, pixels)
                return
        # Parsing takes milliseconds even for one line, so lines with a fault are found without it.
        faults = [self._find_fault(line, columns) for line in lines]
        if faults == [None]:
            detail = "the line cannot be read as values separated by commas"
            faults = [UnreadableError(Reason.WRONG_SHAPE, detail)]
        # Lines without a known fault are parsed again in halves, so that only bad lines are lost.
        half = len(lines) // 2
        for is_whole, run in groupby(
            enumerate(faults), key=lambda each: each[1] is None and (each[0] < half) + 1
        ):
            some = list(run)
            if is_whole:
                yield from self._parse_each([lines[row] for row, _ in some], columns)
            else:
                yield [fault for _, fault in some if fault]

    def _find_fault(self, line: bytes, columns: Sequence[str]) -> UnreadableError | None:
        """Return what is wrong with a line; None if Arrow should be able to parse `columns`."""
        cells, number = _CELL.findall(line), len(self.names)
        if _is_open(cells):
            return UnreadableError(Reason.WRONG_SHAPE, "a quoted value does not end in its line")
        if len(cells) != number:
            detail = f"the line has {count(len(cells), 'value')}, and not {number:,}"
            return UnreadableError(Reason.WRONG_SHAPE, detail)
        wanted = set(self.pixels)
        for name, (quoted, end, plain) in zip(self.names, cells, strict=True):
            data = quoted[1:] + end[1:] + plain
            if name not in wanted and name in columns and (text := _not_utf8(data)):
                return UnreadableError(Reason.WRONG_SHAPE, f"column {name!r} has {text}")
            value = data.decode(errors="replace")
            if name not in wanted or not value:
                continue
            if not value.strip(" \t"):
                return UnreadableError(Reason.WRONG_SHAPE, "a pixel is null")
            if not _NUMBER.fullmatch(value.strip(" \t")):
                detail = f"a pixel is {value[:20]!r}, not a number"
                return UnreadableError(Reason.BAD_PIXEL, detail)
        return None

    def _parse(
        self, lines: list[bytes], columns: Sequence[str], pixels: pa.DataType
    ) -> pa.RecordBatch:
        """Parse columns of lines, in the order of `columns`; raise ArrowInvalid for damage."""
        types = {
            name: pixels if self.schema.field(name).type == pa.float64() else pa.string()
            for name in columns
        }
        # Append the first line: the number of rows then shows if the last line leaves a quote open.
        table = pa_csv.read_csv(
            pa.py_buffer(b"\n".join([*lines, lines[0]])),
            parse_options=pa_csv.ParseOptions(
                newlines_in_values=any(b"\n" in line or b"\r" in line for line in lines)
            ),
            read_options=pa_csv.ReadOptions(
                column_names=self.names, use_threads=False, block_size=_MAX_ROW_BYTES
            ),
            convert_options=pa_csv.ConvertOptions(
                column_types=types,
                include_columns=columns,
                null_values=[""],
                strings_can_be_null=True,
            ),
        )
        if table.num_rows != len(lines) + 1:
            raise pa.ArrowInvalid("a quoted value goes on in the next line")
        batch, _ = table.combine_chunks().to_batches(len(lines))
        return batch

    def _batches(self, skip: int = 0) -> Iterator[list[bytes]]:
        """Yield the rows without the header, in lists of bounded length and bytes."""
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
        """Yield each row that is not empty, without its line end."""
        rows = join_lines(read_lines(self._file), len(self.names))
        return (row.rstrip(b"\r\n") for row in rows if row.strip())


def read_lines(file: str) -> Iterator[bytes]:
    """Yield the lines of a text file, raw or gzipped, with their line ends.

    Raises:
        DataError: the file is damaged, or a line has more than 16 MB.
        StorageError: the file cannot be read.
    """
    with storage.open_file(file) as raw:
        packed = raw.read(2) == _GZIP_MAGIC
        raw.seek(0)
        stream = pa.CompressedInputStream(raw, "gzip") if packed else raw
        is_first = True
        try:
            # TextIOWrapper splits at every kind of line end; Latin-1 maps each byte to a character.
            with TextIOWrapper(BufferedReader(stream, READ_BYTES), "latin-1", newline="") as text:
                for line in iter(partial(text.readline, _MAX_ROW_BYTES + 1), ""):
                    if len(line) > _MAX_ROW_BYTES:
                        raise DataError(f"{file} is no CSV file: a line has more than 16 MB")
                    data = line.encode("latin-1")
                    yield data.removeprefix(_BYTE_ORDER_MARK) if is_first else data
                    is_first = False
        except OSError as error:
            check_storage(file, error)
            raise DataError(f"{file}: the gzip file is damaged or cut short: {error}") from error


def join_lines(lines: Iterable[bytes], number: int = 0) -> Iterator[bytes]:
    r"""Join lines to rows: a value in quotes may have line breaks (RFC 4180).

    If a quote is not closed at the end of a value, or the joined row does not have `number` values
    (0: any number), lines are not joined, so that only the line with the quote is damaged.

    >>> list(join_lines([b'1,"a\n', b'b",2\n', b'3,"c\n']))
    [b'1,"a\nb",2\n', b'3,"c\n']
    """
    left, again = iter(lines), deque[bytes]()
    while (line := again.popleft() if again else next(left, None)) is not None:
        taken, num_bytes, is_damaged = [line], len(line), False
        is_open = b'"' in line and _is_open(_CELL.findall(line))
        while is_open and not is_damaged:
            more = again.popleft() if again else next(left, b"")
            taken.append(more)
            num_bytes += len(more)
            if b'"' in more:
                cells = _CELL.findall(b'"' + more)
                is_damaged = cells[0][1].strip(b" \t\r\n") not in (b"", b'"')
                is_open = _is_open(cells)
            is_damaged = is_damaged or not more or num_bytes > _MAX_ROW_BYTES
        row = b"".join(taken)
        if len(taken) > 1 and (is_damaged or number not in (0, len(_CELL.findall(row)))):
            again.extendleft(filter(None, reversed(taken[1:])))
            row = line
        yield row


def _is_open(cells: Sequence[tuple[bytes, bytes, bytes]]) -> bool:
    return bool(cells[-1][0] and not cells[-1][1])


def _not_utf8(data: bytes) -> str:
    r"""Describe the first bytes that are not UTF-8, with the text around them; "" if all are.

    >>> _not_utf8(b"J\xfcrgen")
    "'J\\xfcrgen', which is not in UTF-8; save the file in UTF-8"
    """
    try:
        data.decode()
    except UnicodeDecodeError as error:
        near = data[max(0, error.start - 10) : error.start + 10]
        return f"{str(near)[1:]}, which is not in UTF-8; save the file in UTF-8"
    return ""


def _number(cell: bytes) -> float | None:
    """Return the number in a cell; None for an empty cell, infinity for text."""
    try:
        number = float(cell.strip(b' \t"') or b"nan")
    except ValueError:
        return inf
    return None if isnan(number) else number


def _are_labels(values: Counter[float | None]) -> bool:
    """Test whether the values of a column, with their frequencies, look like labels."""
    digits = [values[digit] for digit in range(NUM_CLASSES) if values[digit]]
    most = _MOST_OF_ONE * values.total()
    return len(digits) >= _LEAST_DIGITS and max(digits) <= most <= sum(digits)
