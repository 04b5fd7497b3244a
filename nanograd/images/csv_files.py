"""Rows of CSV files, in batches of bounded size, and rejections of damaged rows."""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import chain, groupby, islice
from math import inf

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv

from nanograd.data.csv import (
    BYTE_ORDER_MARK,
    CELL,
    MAX_ROW_BYTES,
    check_label_first,
    column_names,
    join_lines,
)
from nanograd.digits.dataset import NUM_PIXELS
from nanograd.digits.levels import scale_of
from nanograd.errors import DataError, Reason, Rejection
from nanograd.images.batches import BATCH_BYTES, MAX_ROWS, READ_BYTES, check_storage, with_scales
from nanograd.runtime import storage

_GZIP_MAGIC = b"\x1f\x8b"
# What Arrow may take for a number, without the space around it.
_NUMBER = re.compile(
    r"[-+]?((\d+\.?\d*|\.\d+)(e[-+]?\d+)?|0x[\da-f]{1,2}|nan(\(\w*\))?|inf(inity)?)", re.A | re.I
)
_TEXT = pa.string()
# Rows among which the scale of the pixels is looked for first.
_SOME_ROWS = 128


def scan_csv(file: str) -> tuple[pa.Schema, int, int]:
    """Return columns, number of rows, and bytes of a CSV file's rows, for which all of it is read.

    Pixels are float64. Other columns are text: what their values look like may differ by the file.

    Raises:
        DataError: it is damaged, has no lines, or no 784 columns of pixels.
        StorageError: it cannot be read.
    """
    found = CsvFile(file)
    num_rows, num_bytes = 0, 0
    has_labels = not found.has_header and len(found.names) > len(found.pixels)
    ends, some = (Counter[bytes](), Counter[bytes]()), list[bytes]()
    for lines in found.batches():
        num_rows, num_bytes = num_rows + len(lines), num_bytes + sum(map(len, lines))
        if has_labels:
            whole = [line for line in lines if line.count(b",") == NUM_PIXELS]
            ends[0].update(line.partition(b",")[0] for line in whole)
            ends[1].update(line.rpartition(b",")[2] for line in whole)
            some = some or lines
    if has_labels:
        first, last = (np.repeat([_number(each) for each in end], [*end.values()]) for end in ends)
        parsed = found.parse_each(some, list(found.pixels))
        pixels = [np.stack(each.columns) for each in parsed if isinstance(each, pa.RecordBatch)]
        empty = np.zeros((NUM_PIXELS, 0))
        check_label_first(first, last, np.concatenate([empty, *pixels], axis=1), file)
    return pa.schema(found.types.items()), num_rows, num_bytes


def _number(cell: bytes) -> float:
    """Return the number in a cell, NaN for none and infinity for text."""
    text = cell.strip(b' \t"')
    try:
        return float(text or b"nan")
    except ValueError:
        return inf


class CsvFile:
    """A CSV file, raw or gzipped: a row is a line that is not empty."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._number: int | None = None  # of values in a row
        first = next(self._lines(), None)
        if first is None:
            raise DataError(f"{file} is empty; expected a header or rows of 784 pixels")
        self.names, self.pixels, self.has_header = column_names(first, file)
        self._number = len(self.names)
        self.types = dict.fromkeys(self.names, _TEXT)
        self.types |= dict.fromkeys(self.pixels, pa.float64())

    def read(
        self, skip: int, num_rows: int, columns: Callable[[pa.Schema], Sequence[str]]
    ) -> Iterator[pa.RecordBatch | list[Rejection]]:
        """Read a number of rows after some, as `read_rows` does."""
        wanted, left = list(columns(pa.schema(self.types.items()))), num_rows
        scales = {self.pixels[0]: scale_of(self._largest())}
        for lines in self.batches(skip):
            for some in self.parse_each(lines[:left], wanted):
                yield some if isinstance(some, list) else with_scales(some, scales)
            left -= len(lines[:left])
            if not left:
                return
        if left:
            raise DataError(f"{self._file} was changed after the job began; start the job again")

    def batches(self, skip: int = 0) -> Iterator[list[bytes]]:
        """Yield the lines of rows, without the first, many at a time but of bounded size."""
        held, num_bytes = list[bytes](), 0
        for line in islice(self._lines(), skip + self.has_header, None):
            held.append(line)
            num_bytes += len(line)
            if len(held) == MAX_ROWS or num_bytes >= BATCH_BYTES:
                yield held
                held, num_bytes = [], 0
        if held:
            yield held

    def _largest(self) -> Iterator[float]:
        """Yield the largest pixels of lines, some at a time, up to a share between 0 and 1."""
        for lines in self.batches():
            for start in range(0, len(lines), _SOME_ROWS):
                for some in self.parse_each(lines[start:][:_SOME_ROWS], list(self.pixels)):
                    if isinstance(some, pa.RecordBatch):
                        values = np.nan_to_num(np.stack(some.columns))
                        yield float(values.max())
                        if ((values > 0) & (values < 1)).any():
                            return

    def parse_each(
        self, lines: list[bytes], wanted: list[str]
    ) -> Iterator[pa.RecordBatch | list[Rejection]]:
        """Parse lines; those that are damaged become rejections."""
        for pixels in (pa.uint8(), pa.float64()):
            with suppress(pa.ArrowInvalid):
                yield self.parse(lines, wanted, pixels)
                return
        indices = [self.names.index(name) for name in self.pixels]
        faults = [_find_fault(line, len(self.names), indices) for line in lines]
        if faults == [None]:
            detail = "the line cannot be read as values separated by commas"
            faults = [Rejection(0, Reason.WRONG_SHAPE, detail)]
        # Lines without a fault are tried again, in halves: only single lines are lost.
        numbers, half = range(len(lines)), len(lines) // 2
        for _, run in groupby(numbers, key=lambda row: (faults[row] is None, row < half)):
            some = list(run)
            if faults[some[0]] is None:
                yield from self.parse_each([lines[row] for row in some], wanted)
            else:
                found = enumerate(faults[row] for row in some)
                yield [replace(each, row=row) for row, each in found if each]

    def parse(
        self,
        lines: list[bytes],
        wanted: Sequence[str],
        pixels: pa.DataType,
        text: pa.DataType = _TEXT,
    ) -> pa.RecordBatch:
        """Parse columns of lines, in the order of `wanted`; raise ArrowInvalid for damage."""
        # The first line once more: it shows whether the last one leaves a quote open.
        table = pa_csv.read_csv(
            pa.py_buffer(b"\n".join([*lines, lines[0]])),
            parse_options=pa_csv.ParseOptions(
                newlines_in_values=any(b"\n" in line or b"\r" in line for line in lines)
            ),
            read_options=pa_csv.ReadOptions(
                column_names=self.names, use_threads=False, block_size=MAX_ROW_BYTES
            ),
            convert_options=pa_csv.ConvertOptions(
                column_types={
                    name: pixels if self.types[name] == pa.float64() else text for name in wanted
                },
                include_columns=wanted,
                null_values=[""],
                strings_can_be_null=True,
                check_utf8=False,
            ),
        )
        if table.num_rows != len(lines) + 1:
            raise pa.ArrowInvalid("a quoted value goes on in the next line")
        batch, _ = table.combine_chunks().to_batches(len(lines))
        return batch

    def _lines(self) -> Iterator[bytes]:
        """Yield the lines of each row that is not empty."""
        for row in join_lines(chain.from_iterable(self._read()), self._number):
            if row.strip():
                yield row.rstrip(b"\r\n")

    def _read(self) -> Iterator[list[bytes]]:
        """Yield the lines of the file with their ends, some at a time."""
        with storage.open_file(self._file) as raw:
            packed = raw.read(2) == _GZIP_MAGIC
            raw.seek(0)
            rest, is_first = b"", True
            stream = pa.CompressedInputStream(raw, "gzip") if packed else raw
            while True:
                try:
                    data = stream.read(READ_BYTES)
                except OSError as error:
                    check_storage(self._file, error)
                    raise DataError(
                        f"{self._file}: the gzip file is damaged or cut short: {error}"
                    ) from error
                text = (rest + data).removeprefix(BYTE_ORDER_MARK) if is_first else rest + data
                end = text.rfind(b"\n") + 1 if data else len(text)
                rest, is_first = text[end:], False
                if len(rest) > MAX_ROW_BYTES:
                    raise DataError(f"{self._file} is no CSV file: a line has more than 16 MB")
                yield text[:end].splitlines(keepends=True)
                if not data:
                    return


def _find_fault(line: bytes, number: int, pixels: Sequence[int]) -> Rejection | None:
    """Find what is wrong with a line of CSV; nothing in a line that Arrow takes."""
    cells = CELL.findall(line)
    if cells[-1][0] and not cells[-1][1]:
        return Rejection(0, Reason.WRONG_SHAPE, "a quoted value does not end in its line")
    if len(cells) != number:
        detail = f"the line has {len(cells):,} values, and not {number:,}"
        return Rejection(0, Reason.WRONG_SHAPE, detail)
    for quoted, end, plain in (cells[index] for index in pixels):
        value = (quoted[1:] + end[1:] + plain).decode(errors="replace")
        if value and not value.strip(" \t"):
            return Rejection(0, Reason.WRONG_SHAPE, "a pixel is null")
        if value and not _NUMBER.fullmatch(value.strip(" \t")):
            return Rejection(0, Reason.BAD_PIXEL, f"a pixel is {value[:20]!r}, not a number")
    return None
