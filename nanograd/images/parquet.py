"""Rows of Parquet files, in batches of bounded size.

If a page is damaged, its row group is refused from this page on, and all other rows are read.
Arrow's errors do not distinguish damage from a failure of the storage. So after an error, the bytes
of the file are read again: if that fails, the storage is the cause.
"""

import re
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nanograd.digits.levels import scale_of
from nanograd.errors import DataError, Reason, StorageError, UnreadableError
from nanograd.images.columns import flat_columns
from nanograd.images.tensors import SCALE, is_any, is_list, leaf, plain_type
from nanograd.runtime import storage
from nanograd.runtime.events import count

# Maximum rows and bytes of a batch. A batch has many rows because each batch has fixed costs, and
# limited bytes because it is held in memory. 8,192 rows of 784 doubles are 51 MB.
MAX_ROWS, BATCH_BYTES = 8192, 64_000_000
# Bytes that are read at a time, because a whole row group could be larger than the memory.
READ_BYTES = 4 << 20
# The number of rows of a batch is a multiple of this, the number of rows in a matrix product: the
# last bits of a score may depend on the number of rows in its product.
_CHUNK_ROWS = 512
# Bytes of a number in memory; in a file, numbers in lists may take one bit.
_WIDTHS = {"BOOLEAN": 1, "INT32": 4, "INT64": 8, "FLOAT": 4, "DOUBLE": 8}
# Rows of a batch in a damaged row group; smaller batches lose fewer intact rows.
_CAREFUL_ROWS = 128
# Rows count as damaged after this many failed attempts.
_MAX_FAILURES = 2
# Errors of Arrow for damage, storage failures, lack of memory, and names that are not UTF-8.
_FAILURES = (pa.ArrowException, OSError, MemoryError, ValueError)
_NOTHING = pa.record_batch([], names=[])
_MAGIC = b"PAR1"  # a Parquet file begins and ends with these bytes
# In a footer, the key of Arrow's schema, the type and length of its value, and the value in base64.
_SCHEMA = re.compile(rb"(ARROW:schema\x18[\x80-\xff]*[\x00-\x7f])([A-Za-z0-9+/]+=*)")


class RowRange(NamedTuple):
    """A range of rows of a file."""

    row_groups: tuple[int, ...]  # first row group, and the one after the last
    skip: int  # number of rows in the first row group that come before the range
    first_row: int  # number of the range's first row in the file
    num_rows: int  # number of rows in the range


class Decoder:
    """Decodes columns of row groups, in batches of bounded size.

    A row group is always decoded from its start. So the decoder of a range of rows also reads the
    next range of the same row groups.
    """

    def __init__(
        self,
        parquet: "_ParquetFile",
        places: list[int],
        row_groups: tuple[int, ...],
        max_rows: int = MAX_ROWS,
    ) -> None:
        groups = parquet.groups[slice(*row_groups)]
        row_bytes = max([_row_bytes(group, places, parquet.has_lists) for group in groups] or [0])
        batch_rows = int(max(1, min(max_rows, BATCH_BYTES / max(row_bytes, 1))))
        if batch_rows > _CHUNK_ROWS:
            batch_rows -= batch_rows % _CHUNK_ROWS
        self.parquet, self.places, self._row_groups = parquet, places, row_groups
        self.num_rows = sum([group.num_rows for group in groups])
        # `ParquetFile.iter_batches` selects columns by paths, which several columns may share.
        self._batches = parquet.reader.iter_batches(
            batch_rows, row_groups=range(*row_groups), column_indices=places, use_threads=False
        )
        # The batch that was decoded last, and the number of its first row.
        self._batch, self._start = _NOTHING, 0

    def precedes(self, rows: RowRange) -> bool:
        """Return whether the rows are of these row groups, and were not left behind."""
        return rows.row_groups == self._row_groups and rows.skip >= self._start

    def read(self, rows: RowRange) -> Iterator[pa.RecordBatch]:
        """Read rows that the decoder `precedes`; raise ArrowInvalid if the file has fewer rows."""
        done, end = rows.skip, rows.skip + rows.num_rows
        while done < end:
            ready = self._start + len(self._batch)
            if done < ready:
                wanted = self._batch.slice(done - self._start, end - done)
                done += len(wanted)
                yield wanted
                continue
            batch = next(self._batches, None)
            if batch is None:
                raise pa.ArrowInvalid(f"it lacks {count(end - done, 'row')}")
            self._batch, self._start = batch, ready


class _ParquetFile(pq.ParquetFile):  # type: ignore[misc]
    """A Parquet file that decodes its footer once. pq.ParquetFile would take 50 us longer."""

    schema_arrow = pa.schema([])  # an attribute instead of the property of pq.ParquetFile

    def __init__(self, source: pa.NativeFile, metadata: pq.FileMetaData | None = None) -> None:
        self.reader, self._close_source = pq.core.ParquetReader(), True
        self.reader.open(
            source,
            metadata=metadata,
            buffer_size=READ_BYTES if source.size() > READ_BYTES else 0,
            pre_buffer=False,  # a buffer would hold whole row groups
            page_checksum_verification=True,
        )
        footer, self.schema_arrow = self.metadata, self.reader.schema_arrow
        self.groups = [footer.row_group(group) for group in range(footer.num_row_groups)]
        self.serialized = self.schema_arrow.serialize().to_pybytes()
        self.is_special, self.has_lists = _find_types(self.serialized)


def open_parquet(file: str) -> _ParquetFile:
    """Open a Parquet file and read its footer.

    Raises:
        DataError: the file is not Parquet, is cut short, or its footer contradicts itself.
        StorageError: the storage fails; the file may be intact.
    """
    for is_last in (False, True):  # try twice, because the storage may fail for a moment
        try:
            parquet = _open(file)
            break
        except _FAILURES as error:
            check_storage(file, error, num_bytes=1)
            if is_last:
                is_other = storage.read(file, 4) not in (b"", _MAGIC)
                hint = " (rename it if it is of another kind)" * is_other
                raise DataError(f"{file} is not a complete Parquet file{hint}: {error}") from error
    num_rows = [group.num_rows for group in parquet.groups]
    if sum(num_rows) != parquet.metadata.num_rows or min(num_rows, default=0) < 0:
        raise DataError(f"{file} is not a complete Parquet file: its row groups do not add up")
    return parquet


def _open(file: str) -> _ParquetFile:
    """Open a Parquet file; Ray's types are read as their storage, and dictionaries as their values.

    Arrow refuses a dictionary if some of its text is not UTF-8. In a process that has imported Ray
    Data, Arrow leaves Ray's types to Ray, which refuses tensors that Ray 2.49 to 2.54 wrote. So
    `nanograd.images.tensors` reads all of Ray's types in every process.
    """
    try:
        parquet = _ParquetFile(storage.open_file(file))
        if not parquet.is_special:
            return parquet
    except ValueError as error:
        if isinstance(error, pa.ArrowException):
            raise
    stream = storage.open_file(file)
    # The last 8 bytes are the length of the footer and "PAR1".
    length = int.from_bytes(stream.read_at(4, stream.size() - 8), "little")
    footer = _SCHEMA.sub(_plain_schema, stream.read_at(length, stream.size() - length - 8))
    whole = b"".join([_MAGIC, footer, len(footer).to_bytes(4, "little"), _MAGIC])
    return _ParquetFile(stream, pq.read_metadata(pa.BufferReader(whole)))


def _plain_schema(stored: re.Match[bytes]) -> bytes:
    """Return a stored schema without dictionaries, with Ray's types under names of no type."""
    data = b64decode(stored[2]).replace(b"ray.data.arrow_", b"RAY.DATA.ARROW_")
    schema = pa.ipc.read_schema(pa.py_buffer(data))
    for place, field in enumerate(schema):
        if is_any(field.type, "dictionary"):
            schema = schema.set(place, field.with_type(field.type.value_type))
    text = b64encode(schema.serialize())
    digits, left = bytearray(), len(text)  # the length in base 128, the lowest digit first
    while left > 127:
        digits.append(left % 128 + 128)
        left //= 128
    return b"ARROW:schema\x18" + bytes([*digits, left]) + text


def check_storage(file: str, error: Exception, num_bytes: int | None = None) -> None:
    """Read a file, or its first bytes, after an error; raise StorageError if that fails, too."""
    if isinstance(error, MemoryError):
        raise StorageError(
            f"cannot read {file}: not enough memory ({error}); ask for fewer --workers"
        ) from error
    try:
        with storage.open_file(file) as stream:
            while stream.read(num_bytes or READ_BYTES) and num_bytes is None:
                pass
    except OSError as failure:
        raise StorageError(f"cannot read {file}: {failure}") from failure


def read_parquet(
    file: str,
    rows: RowRange | None,
    columns: Callable[[pa.Schema], Sequence[str]],
    unfinished: dict[str, Decoder],
) -> Iterator[pa.RecordBatch | list[UnreadableError]]:
    """Read rows of a Parquet file, see `reader.read_rows`."""
    decoder = unfinished.pop(file, None)
    if decoder and (rows is None or not decoder.precedes(rows)):
        decoder = None
    parquet = decoder.parquet if decoder else open_parquet(file)
    footer = parquet.metadata
    rows = rows or RowRange((0, footer.num_row_groups), 0, 0, footer.num_rows)
    if footer.num_row_groups < rows.row_groups[1]:
        raise DataError(f"{file} was changed after the job began; start the job again")
    schema = parquet.schema_arrow
    names = tuple(columns(schema))
    places, scaled, plain = _places(parquet.serialized, names)
    if decoder is None or decoder.places != places:
        decoder = Decoder(parquet, places, rows.row_groups)
    scales, done = dict[str, int | None](), 0
    for name, leaves in scaled.items():
        chunks = (group.column(leaf) for group in parquet.groups for leaf in leaves)
        scales[name] = scale_of(map(_largest, chunks))

    def finish(batch: pa.RecordBatch) -> pa.RecordBatch:
        return with_scales(batch.cast(plain) if plain else batch, scales)

    try:
        for batch in decoder.read(rows):
            yield finish(batch)
            done += len(batch)
        if decoder.num_rows > rows.skip + rows.num_rows:
            unfinished.clear()
            unfinished[file] = decoder
    except _FAILURES as error:
        if not isinstance(error, MemoryError):  # smaller batches may fit into memory
            check_storage(file, error)
        for some in _read_carefully(file, parquet, rows, places, done):
            yield some if isinstance(some, list) else finish(some)


def _read_carefully(
    file: str, parquet: _ParquetFile, rows: RowRange, places: list[int], done: int
) -> Iterator[pa.RecordBatch | list[UnreadableError]]:
    """Read the rows after the first `done` rows, one row group at a time."""
    skip, left = rows.skip + done, rows.num_rows - done
    for group in range(*rows.row_groups):
        group_rows = parquet.groups[group].num_rows
        wanted = min(max(group_rows - skip, 0), left)
        num_read, failures = 0, 0
        # Read the rows again after an error: only damaged rows fail every time.
        while num_read < wanted:
            some = RowRange((group, group + 1), skip + num_read, 0, wanted - num_read)
            try:
                for batch in Decoder(parquet, places, some.row_groups, _CAREFUL_ROWS).read(some):
                    yield batch
                    num_read, failures = num_read + len(batch), 0
            except _FAILURES as error:
                check_storage(file, error)
                failures += 1
                if failures == _MAX_FAILURES:
                    detail = f"row group {group} is damaged: {error}"
                    yield [UnreadableError(Reason.BROKEN_FILE, detail)] * (wanted - num_read)
                    break
        skip, left = max(skip - group_rows, 0), left - wanted


def _row_bytes(group: pq.RowGroupMetaData, places: Sequence[int], has_lists: bool) -> float:
    """Estimate how many bytes a row takes in memory."""
    num_rows, stored = max(group.num_rows, 1), group.total_byte_size
    if not has_lists and stored * MAX_ROWS <= num_rows * BATCH_BYTES:
        return float(stored / num_rows)
    sizes = (
        max(chunk.total_uncompressed_size, chunk.num_values * _WIDTHS.get(chunk.physical_type, 0))
        for chunk in map(group.column, places)
    )
    return float(sum(sizes) / num_rows)


def leaf_places(schema: pa.Schema) -> dict[str, range]:
    """Return the numbers of the columns in the Parquet file that store each column of the table.

    Parquet stores each field of a struct as a column of its own, a leaf column. They are identified
    by number, because a column `image.bytes` has the same name as the field `bytes` of `image`.

    >>> leaf_places(pa.schema({"a": pa.struct({"b": pa.int8(), "c": pa.list_(pa.int8())}),
    ...     "a.b": pa.int8()}))
    {'a': range(0, 2), 'a.b': range(2, 3)}
    """

    def num_leaves(type_: pa.DataType) -> int:
        if isinstance(type_, pa.BaseExtensionType):
            type_ = type_.storage_type
        fields = map(type_.field, range(type_.num_fields))
        return sum(num_leaves(field.type) for field in fields) or 1

    found, start = dict[str, range](), 0
    for field in schema:
        found[field.name] = range(start, start := start + num_leaves(field.type))
    return found


@lru_cache(maxsize=32)
def _find_types(serialized: bytes) -> tuple[bool, bool]:
    """Return whether a schema has types that `_open` replaces, and whether it may have lists."""
    fields = list(pa.ipc.read_schema(pa.BufferReader(serialized)))
    types = [field.type for field in fields]
    for field in fields:
        field.name  # noqa: B018 - it is decoded here, and may be no UTF-8
        fields += map(field.type.field, range(field.type.num_fields))
    special = any(isinstance(each, pa.ExtensionType | pa.DictionaryType) for each in types)
    return special, special or any(each.num_fields for each in types)


@lru_cache(maxsize=32)
def _places(
    serialized: bytes, names: tuple[str, ...]
) -> tuple[list[int], dict[str, list[int]], pa.Schema | None]:
    """Find how the columns `names` of a table are stored.

    Returns:
        The indices of their leaf columns (see `leaf_places`).
        For each column with pixels as numbers, the indices of its leaf columns. 784 columns with a
        pixel each are one entry, under the name of the first.
        The schema of the columns with plain types instead of view types (see `plain_type`); None if
        no column has a view type.
    """
    schema = pa.ipc.read_schema(pa.BufferReader(serialized))
    places, scaled = leaf_places(schema), dict[str, list[int]]()
    for name in names:
        type_ = schema.field(name).type
        if is_any(type_, "struct") and "data" in type_.names:
            inner = leaf_places(pa.schema(type_.fields))["data"]  # tensors beside their shapes
            scaled[name] = [places[name][place] for place in inner]
        elif isinstance(type_, pa.BaseExtensionType) or (
            is_list(type_) and is_any(leaf(type_), "integer", "floating", "decimal", "boolean")
        ):
            scaled[name] = list(places[name])
    if flat := flat_columns(names):
        scaled[flat[0]] = [places[name][0] for name in flat]
    own = pa.schema([schema.field(name) for name in names], schema.metadata)
    plain = pa.schema([e.with_type(plain_type(e.type)) for e in own], schema.metadata)
    leaves = [place for name in names for place in places[name]]
    return leaves, scaled, None if plain == own else plain


def _largest(chunk: pq.ColumnChunkMetaData) -> float | None:
    """Return the largest number in a column of a row group by the footer; None if unknown."""
    found = chunk.statistics if chunk.physical_type != "BYTE_ARRAY" else None
    if found is None or not found.has_min_max:
        return 0 if found is not None and found.null_count == chunk.num_values else None
    if isinstance(found.max, bytes) and len(found.max) == 2:  # float16
        return float(np.frombuffer(found.max, "<f2")[0])
    return float(found.max) if isinstance(found.max, int | float | Decimal) else None


def with_scales(batch: pa.RecordBatch, scales: Mapping[str, int | None]) -> pa.RecordBatch:
    """Store the scales of columns (see `levels.scale_of`) in their metadata."""
    if not scales:
        return batch
    fields = [
        field
        if (scale := scales.get(field.name)) is None
        else field.with_metadata({**(field.metadata or {}), SCALE: str(scale)})
        for field in batch.schema
    ]
    schema = pa.schema(fields, batch.schema.metadata)
    return pa.RecordBatch.from_arrays(batch.columns, schema=schema)
