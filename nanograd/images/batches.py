"""Batches of rows: their size, columns and scales; and failures of the storage."""

from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nanograd.data.csv import flat_columns
from nanograd.digits.levels import scale_of
from nanograd.errors import StorageError
from nanograd.images.shapes import SCALE, is_list
from nanograd.runtime import storage

# Rows and bytes of a batch: many, because fixed costs are per batch; fewer where a row is large,
# because all of them are in memory. 8,192 rows of 784 doubles are 51 MB.
MAX_ROWS, BATCH_BYTES = 8192, 64_000_000
# Bytes of a row group read at a time: a whole one could be larger than the memory.
READ_BYTES = 4 << 20


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


def find_scales(parquet: pq.ParquetFile, names: Sequence[str]) -> dict[str, int | None]:
    """Return the scale of each column of pixels by the footer, of flat ones at their first."""
    schema, places = parquet.schema_arrow, leaf_places(parquet.schema_arrow)
    found = dict[str, Sequence[int]]()
    for name in names:
        type_ = schema.field(name).type
        if pa.types.is_struct(type_) and "data" in type_.names:  # tensors beside their shapes
            inner = leaf_places(pa.schema(type_.fields))["data"]
            found[name] = [places[name][place] for place in inner]
        elif isinstance(type_, pa.BaseExtensionType) or is_list(type_):
            found[name] = places[name]
    if flat := flat_columns(names):
        found[flat[0]] = [places[name][0] for name in flat]
    return {name: scale_of(_largest(parquet, some)) for name, some in found.items()}


def _largest(parquet: pq.ParquetFile, places: Sequence[int]) -> Iterator[float | None]:
    """Yield the largest number of each row group and place by the footer; None if unknown."""
    for group in range(parquet.metadata.num_row_groups):
        row_group = parquet.metadata.row_group(group)
        for chunk in map(row_group.column, places):
            found = chunk.statistics if chunk.physical_type != "BYTE_ARRAY" else None
            if found is None or not found.has_min_max:
                is_null = found is not None and found.null_count == chunk.num_values
                yield 0 if is_null else None
            elif isinstance(found.max, bytes) and len(found.max) == 2:  # a half
                yield float(np.frombuffer(found.max, "<f2")[0])
            else:
                yield float(found.max) if isinstance(found.max, int | float | Decimal) else None


def with_scales(batch: pa.RecordBatch, scales: Mapping[str, int | None]) -> pa.RecordBatch:
    """Record the scales of columns, see `levels.scale_of`, in their metadata."""
    fields = [
        field
        if (scale := scales.get(field.name)) is None
        else field.with_metadata({**(field.metadata or {}), SCALE: str(scale)})
        for field in batch.schema
    ]
    schema = pa.schema(fields, batch.schema.metadata)
    return pa.RecordBatch.from_arrays(batch.columns, schema=schema)


def check_storage(file: str, error: Exception, num_bytes: int | None = None) -> None:
    """Raise StorageError if reading a file fails: Arrow's errors do not separate it from damage."""
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
