"""Types that hold every value of another: of numbers by their bits, of times by their range."""

import json

import pyarrow as pa

from nanograd.images.batches import leaf_places
from nanograd.images.files import open_parquet

# Nanoseconds in a unit of Arrow's or of Parquet's types of times.
_UNITS = {
    **{"ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9, "d": 86_400 * 10**9},
    **{"nanoseconds": 1, "microseconds": 10**3, "milliseconds": 10**6},
}


def holds(wide: pa.DataType, narrow: pa.DataType) -> bool:
    """Test whether a number type holds every value of another exactly; true for other types.

    >>> holds(pa.float64(), pa.int32()), holds(pa.float64(), pa.int64())
    (True, False)
    >>> holds(pa.int64(), pa.uint32()), holds(pa.int64(), pa.uint64())
    (True, False)
    """
    is_ = pa.types
    if is_.is_floating(wide) and is_.is_decimal(narrow):
        return False
    if not is_.is_integer(narrow) or not is_.is_primitive(wide):
        return True
    if is_.is_floating(wide):
        return bool(narrow.bit_width <= {16: 8, 32: 16, 64: 32}[wide.bit_width])
    signs = is_.is_signed_integer(wide), is_.is_signed_integer(narrow)
    return bool(
        narrow.bit_width < wide.bit_width
        if signs[0] > signs[1]
        else signs[0] == signs[1] and narrow.bit_width <= wide.bit_width
    )


def fits(file: str, schema: pa.Schema, name: str, wide: pa.DataType) -> bool:
    """Test by the footer whether the times in a column fit into a type of a finer unit.

    Args:
        file: place of a Parquet file.
        schema: its columns.
        name: of a column; one that the file lacks fits.
        wide: the type; one of other values than times holds them.
    """
    if name not in schema.names or not _unit(wide):
        return True
    narrow = schema.field(name).type
    if not _unit(narrow) or _unit(narrow) <= _unit(wide):
        return True
    with open_parquet(file) as parquet:
        [place] = leaf_places(parquet.schema_arrow)[name]
        footer, stored = (
            parquet.metadata,
            json.loads(parquet.schema.column(place).logical_type.to_json()),
        )
        unit = _UNITS.get(stored.get("timeUnit", ""), _unit(narrow))
        for number in range(footer.num_row_groups):
            chunk = footer.row_group(number).column(place)
            found = chunk.statistics
            if found is not None and found.has_min_max:
                most = max(abs(found.min_raw), abs(found.max_raw))
                if most * unit // _unit(wide) >= 1 << 63:
                    return False
            elif found is None or found.null_count != chunk.num_values:
                return False
    return True


def _unit(type_: pa.DataType) -> int:
    """Return the nanoseconds in a unit of a type of times; 0 for other types."""
    is_ = pa.types
    if is_.is_date32(type_):
        return _UNITS["d"]
    if is_.is_date64(type_):
        return _UNITS["ms"]
    return _UNITS[type_.unit] if is_.is_timestamp(type_) or is_.is_duration(type_) else 0
