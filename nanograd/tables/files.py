"""Rows of Parquet and CSV files, in batches of bounded size, and rejections of damaged rows."""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import chain, groupby, islice
from math import inf
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from nanograd.data.csv import (
    BYTE_ORDER_MARK,
    CELL,
    CSV,
    MAX_ROW_BYTES,
    check_label_first,
    column_names,
    join_lines,
)
from nanograd.data.dataset import NUM_PIXELS
from nanograd.errors import DataError, Reason, Rejection, StorageError
from nanograd.runtime import storage

# Rows and bytes of a batch: many, because fixed costs are per batch; fewer where a row is large,
# because all of them are in memory. 8,192 rows of 784 doubles are 51 MB.
MAX_ROWS, BATCH_BYTES = 8192, 64_000_000
# Bytes of a row group read at a time: a whole one could be larger than the memory.
_READ_BYTES = 4 << 20
# Numbers of rows of a batch are multiples of this: scores may differ in their last bits by the rows
# that share a matrix product, which has so many.
_CHUNK_ROWS = 512
# Bytes of numbers in memory; in a file, those of lists may take a bit each.
_WIDTHS = {"BOOLEAN": 1, "INT32": 4, "INT64": 8, "FLOAT": 4, "DOUBLE": 8}
# In a damaged row group: the fewer, the fewer intact rows are lost with it.
_CAREFUL_ROWS = 128
# Attempts at the same rows before they count as damaged.
_MAX_FAILURES = 2
# What Arrow raises for damage, failures of the storage and lack of memory; for names not in UTF-8
# and types of Ray that Ray refuses to decode.
_FAILURES = (pa.ArrowException, OSError, MemoryError, ValueError)

_GZIP_MAGIC = b"\x1f\x8b"
# What Arrow may take for a number, without the space around it.
_NUMBER = re.compile(
    r"[-+]?((\d+\.?\d*|\.\d+)(e[-+]?\d+)?|0x[\da-f]{1,2}|nan(\(\w*\))?|inf(inity)?)", re.A | re.I
)
_TEXT = pa.string()


class RowRange(NamedTuple):
    """Some rows of a file."""

    row_groups: tuple[int, ...]  # first and end
    skip: int  # rows before them in their first row group
    first_row: int  # number of the first row in the file
    num_rows: int  # number of rows


def open_parquet(file: str) -> pq.ParquetFile:
    """Open a Parquet file and read its footer.

    Raises:
        DataError: it is no Parquet file, cut short, or its footer contradicts itself.
        StorageError: it cannot be read; that is no damage.
    """
    try:
        parquet = _open(file)
    except _FAILURES as error:
        _check_storage(file, error, num_bytes=1)
        try:
            parquet = _open(file)  # the storage may have failed only for a moment
        except _FAILURES as again:
            _check_storage(file, again, num_bytes=1)
            raise DataError(f"{file} is not a complete Parquet file: {again}") from again
    footer = parquet.metadata
    num_rows = [footer.row_group(group).num_rows for group in range(footer.num_row_groups)]
    if sum(num_rows) != footer.num_rows or min(num_rows, default=0) < 0:
        raise DataError(f"{file} is not a complete Parquet file: its row groups do not add up")
    return parquet


def _open(file: str) -> pq.ParquetFile:
    stream = storage.open_file(file)
    parquet = pq.ParquetFile(
        stream,
        buffer_size=_READ_BYTES,
        pre_buffer=False,  # it would hold whole row groups
        page_checksum_verification=True,
    )
    parquet.schema_arrow  # noqa: B018 - it is decoded here
    return parquet


def read_rows(
    file: str, rows: RowRange, columns: Callable[[pa.Schema], Sequence[str]]
) -> Iterator[pa.RecordBatch | list[Rejection]]:
    """Read rows of a file in their order.

    A damaged page takes the rest of its row group with it, of these rows, and nothing else; a
    damaged line of a CSV file itself. Columns of a CSV file other than pixels are text.

    Args:
        file: path or URI of a Parquet or CSV file.
        rows: which of its rows.
        columns: selects columns from the file's schema.

    Yields:
        Consecutive rows as a batch, or as rejections, each with its position among them.

    Raises:
        DataError: the file is no longer the one that was planned.
        StorageError: the file cannot be read; that is no damage.
    """
    if file.lower().endswith(CSV):
        yield from _CsvFile(file).read(rows, columns)
        return
    with open_parquet(file) as parquet:
        if parquet.metadata.num_row_groups < rows.row_groups[1]:
            raise DataError(f"{file} was changed after the job began; start the job again")
        names = list(columns(parquet.schema_arrow))
        done = 0
        try:
            for batch in _read_some(parquet, names, rows):
                yield batch
                done += len(batch)
        except _FAILURES as error:
            if not isinstance(error, MemoryError):  # fewer rows at a time may fit
                _check_storage(file, error)
            yield from _read_carefully(file, parquet, rows, names, done)


def scan_csv(file: str) -> tuple[pa.Schema, int, int]:
    """Return columns, number of rows, and bytes of a CSV file's rows, for which all of it is read.

    Pixels are float64. Other columns are text: what their values look like may differ by the file.

    Raises:
        DataError: it is damaged, has no lines, or no 784 columns of pixels.
        StorageError: it cannot be read.
    """
    found = _CsvFile(file)
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


class _CsvFile:
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
        self, rows: RowRange, columns: Callable[[pa.Schema], Sequence[str]]
    ) -> Iterator[pa.RecordBatch | list[Rejection]]:
        """Read rows, as `read_rows` does."""
        wanted, left = list(columns(pa.schema(self.types.items()))), rows.num_rows
        for lines in self.batches(rows.skip):
            yield from self.parse_each(lines[:left], wanted)
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
                    data = stream.read(_READ_BYTES)
                except OSError as error:
                    _check_storage(self._file, error)
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


def _read_carefully(
    file: str, parquet: pq.ParquetFile, rows: RowRange, names: list[str], done: int
) -> Iterator[pa.RecordBatch | list[Rejection]]:
    """Read the rows after the first `done`, row group by row group."""
    skip, left = rows.skip + done, rows.num_rows - done
    for group in range(*rows.row_groups):
        group_rows = parquet.metadata.row_group(group).num_rows
        wanted = min(max(group_rows - skip, 0), left)
        num_read, failures = 0, 0
        # The same rows fail again if they are damaged, not if the storage failed for a moment.
        while num_read < wanted:
            some = RowRange((group, group + 1), skip + num_read, 0, wanted - num_read)
            try:
                for batch in _read_some(parquet, names, some, _CAREFUL_ROWS):
                    yield batch
                    num_read, failures = num_read + len(batch), 0
            except _FAILURES as error:
                _check_storage(file, error)
                failures += 1
                if failures == _MAX_FAILURES:
                    detail = f"row group {group} is damaged: {error}"
                    lost = range(wanted - num_read)
                    yield [Rejection(row, Reason.BROKEN_FILE, detail) for row in lost]
                    break
        skip, left = max(skip - group_rows, 0), left - wanted


def _read_some(
    parquet: pq.ParquetFile, names: list[str], rows: RowRange, max_rows: int = MAX_ROWS
) -> Iterator[pa.RecordBatch]:
    """Read rows in batches of bounded size."""
    groups, found = range(*rows.row_groups), leaf_places(parquet.schema_arrow)
    places = [place for name in names for place in found[name]]
    row_bytes = max((_row_bytes(parquet, group, places) for group in groups), default=0)
    num_rows = int(max(1, min(max_rows, BATCH_BYTES / max(row_bytes, 1))))
    if num_rows > _CHUNK_ROWS:
        num_rows -= num_rows % _CHUNK_ROWS
    # Not by the file's own method: it takes paths, which several columns may share.
    batches = parquet.reader.iter_batches(
        num_rows, row_groups=list(groups), column_indices=places, use_threads=False
    )
    yield from _limit(batches, rows.skip, rows.num_rows)


def leaf_places(schema: pa.Schema) -> dict[str, range]:
    """Return where in a Parquet file the values of each column are; a struct has several places.

    Not by the paths of names, which a column called `image.bytes` shares with a field of `image`.

    >>> leaf_places(pa.schema({"a": pa.struct({"b": pa.int8(), "c": pa.list_(pa.int8())}),
    ...     "a.b": pa.int8()}))
    {'a': range(0, 2), 'a.b': range(2, 3)}
    """
    found, start = dict[str, range](), 0
    for field in schema:
        found[field.name] = range(start, start := start + _num_leaves(field.type))
    return found


def _num_leaves(type_: pa.DataType) -> int:
    if isinstance(type_, pa.BaseExtensionType):
        type_ = type_.storage_type
    fields = map(type_.field, range(type_.num_fields))
    return sum(_num_leaves(field.type) for field in fields) or 1


def _row_bytes(parquet: pq.ParquetFile, group: int, places: Sequence[int]) -> float:
    """Estimate the bytes of a row in memory."""
    row_group = parquet.metadata.row_group(group)
    num_rows, stored = max(row_group.num_rows, 1), row_group.total_byte_size
    is_plain = not any(parquet.schema.column(place).max_repetition_level for place in places)
    if is_plain and stored * MAX_ROWS <= num_rows * BATCH_BYTES:
        return float(stored / num_rows)
    sizes = (
        max(chunk.total_uncompressed_size, chunk.num_values * _WIDTHS.get(chunk.physical_type, 0))
        for chunk in map(row_group.column, places)
    )
    return float(sum(sizes) / num_rows)


def _limit(batches: Iterator[pa.RecordBatch], skip: int, num_rows: int) -> Iterator[pa.RecordBatch]:
    """Yield the given number of rows after the skipped ones; raise ArrowInvalid for fewer."""
    left = num_rows
    while left:
        batch = next(batches, None)
        if batch is None:
            raise pa.ArrowInvalid(f"{left} rows are missing")
        rows = batch.slice(skip, left)
        skip, left = max(skip - len(batch), 0), left - len(rows)
        if len(rows):
            yield rows


def _check_storage(file: str, error: Exception, num_bytes: int | None = None) -> None:
    """Raise StorageError if reading a file fails: Arrow's errors do not separate it from damage."""
    if isinstance(error, MemoryError):
        raise StorageError(
            f"cannot read {file}: not enough memory ({error}); ask for fewer --workers"
        ) from error
    try:
        with storage.open_file(file) as stream:
            while stream.read(num_bytes or _READ_BYTES) and num_bytes is None:
                pass
    except OSError as failure:
        raise StorageError(f"cannot read {file}: {failure}") from failure
