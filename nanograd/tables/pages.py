"""Large values of a Parquet column, one after the other, however large the pages that hold them.

Writers cut pages by rows, pyarrow after 1,024 at the earliest: of pictures of 1.5 MB, one page, and
one dictionary, has 1.5 GB. Arrow holds a page twice, compressed and not, and a dictionary beside.
Here a page is decompressed piece by piece. Of a dictionary, the values that rows refer to are
copied to a temporary file. What this module does not know is left to Arrow.

References:
    Apache Parquet, "File format" (data pages, encodings, definition levels) and `parquet.thrift`;
    Apache Thrift, "Thrift compact protocol encoding".
"""

from collections.abc import Iterator
from contextlib import nullcontext
from io import BytesIO
from itertools import islice
from tempfile import TemporaryFile
from typing import IO, Any, NamedTuple
from zlib import crc32

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from nanograd.errors import StorageError
from nanograd.tables import snappy

# Values of at least this size are read here: the work for each does not matter beside its decoding.
LARGE_BYTES = 1 << 14
# A larger dictionary holds large values; others have a megabyte.
_MAX_DICTIONARY_BYTES = 1 << 22
_BLOCK_BYTES = 1 << 22
_HEADER_BYTES, _MAX_HEADER_BYTES = 1 << 10, 1 << 24

_CODECS = ("UNCOMPRESSED", "SNAPPY", "GZIP", "ZSTD", "BROTLI")
_OF_DICTIONARIES = {"PLAIN_DICTIONARY", "RLE_DICTIONARY"}
_ENCODINGS = {"PLAIN", "RLE", "BIT_PACKED", *_OF_DICTIONARIES}
_MAX_INDEX_BITS = 32
# Of parquet.thrift: kinds of pages, and encodings of values and levels.
_DATA, _DICTIONARY, _DATA_2 = 0, 2, 3
_PLAIN, _RLE, _INDICES = 0, 3, (2, 8)
_PIECE_BYTES = 1 << 20


class Leaf(NamedTuple):
    """A column of byte arrays, not repeated, in a row group."""

    start: int  # of its first page in the file
    end: int
    codec: str
    max_level: int  # definition level of values; lower ones are null
    has_dictionary: bool
    num_rows: int
    num_bytes: int  # uncompressed


class _Page(NamedTuple):
    kind: int
    num_values: int
    encoding: int
    start: int  # of its content in the file
    end: int
    num_bytes: int  # uncompressed
    level_bytes: int | None  # definition levels before the compressed content; None: within
    is_compressed: bool
    checksum: int | None
    has_levels_in_runs: bool  # as this module reads them; without levels it does not matter


def find_leaf(parquet: pq.ParquetFile, group: int, path: str) -> Leaf | None:
    """Describe a column of a row group by the path of its names; None if it is left to Arrow."""
    row_group = parquet.metadata.row_group(group)
    for place in range(row_group.num_columns):
        chunk, column = row_group.column(place), parquet.schema.column(place)
        if chunk.path_in_schema == path:
            break
    else:
        return None
    known = chunk.compression in _CODECS and set(chunk.encodings) <= _ENCODINGS
    if chunk.physical_type != "BYTE_ARRAY" or column.max_repetition_level or not known:
        return None
    start, offset = chunk.data_page_offset, chunk.dictionary_page_offset
    # Not by its offset: older writers do not record it.
    has_dictionary = not _OF_DICTIONARIES.isdisjoint(chunk.encodings)
    return Leaf(
        start=min(start, offset or start),
        end=min(start, offset or start) + chunk.total_compressed_size,
        codec=chunk.compression,
        max_level=column.max_definition_level,
        has_dictionary=has_dictionary,
        num_rows=row_group.num_rows,
        num_bytes=chunk.total_uncompressed_size,
    )


def holds_large_values(source: pa.NativeFile, leaf: Leaf) -> bool:
    """Return whether values are large on average, or one in the dictionary is, for any rows."""
    if leaf.num_bytes >= LARGE_BYTES * max(leaf.num_rows, 1):
        return True
    if not leaf.has_dictionary or leaf.num_bytes < LARGE_BYTES:
        return False
    page = next(_pages(source, leaf), None)
    if page is None or page.kind != _DICTIONARY or page.num_bytes < LARGE_BYTES:
        return False
    if page.num_bytes > _MAX_DICTIONARY_BYTES:
        return True
    # As a whole: piece by piece takes a second for some megabytes.
    data, at = source.read_at(page.end - page.start, page.start), 0
    if leaf.codec != "UNCOMPRESSED":
        data = pa.decompress(data, page.num_bytes, leaf.codec.lower(), asbytes=True)
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "little")
        if size >= LARGE_BYTES:
            return True
        at += 4 + size
    return False


def read_values(
    source: pa.NativeFile, leaf: Leaf, skip: int, num_rows: int
) -> Iterator[tuple[int, bytes | None]]:
    """Yield the definition level and the value of each row, from row `skip` of the row group on.

    Raises:
        pa.ArrowInvalid: a page is damaged, or rows are missing.
        pa.ArrowNotImplementedError: a page is of a kind that Arrow must read.
    """
    wanted = _find_indices(source, leaf, skip, num_rows) if leaf.has_dictionary else set()
    with _open_copies() if wanted else nullcontext(BytesIO()) as copies:
        places = _copy_dictionary(source, leaf, wanted, copies) if wanted else {}
        for page, first, end in _data_pages(source, leaf, skip, num_rows):
            levels, content = _read_levels(source, page, leaf)
            given = levels == leaf.max_level
            before, last = int(given[:first].sum()), int(given[:end].sum())
            values: Iterator[bytes]
            if page.encoding == _PLAIN:
                values = islice(_plain(content, page.num_bytes), before, last)
            else:
                values = _copied(copies, places, _read_indices(content, last)[before:])
            for level in levels[first:end].tolist():
                yield level, next(values) if level == leaf.max_level else None


def _find_indices(source: pa.NativeFile, leaf: Leaf, skip: int, num_rows: int) -> set[int]:
    """Return the places of the dictionary to which rows refer."""
    found: set[int] = set()
    for page, first, end in _data_pages(source, leaf, skip, num_rows):
        if page.encoding != _PLAIN:
            levels, content = _read_levels(source, page, leaf)
            given = levels == leaf.max_level
            before, last = int(given[:first].sum()), int(given[:end].sum())
            found.update(_read_indices(content, last)[before:].tolist())
    return found


def _copy_dictionary(
    source: pa.NativeFile, leaf: Leaf, wanted: set[int], copies: IO[bytes]
) -> dict[int, tuple[int, int]]:
    """Copy the wanted values of the dictionary to a file; return where they are, and their size."""
    page = next(_pages(source, leaf), None)
    if page is None or page.kind != _DICTIONARY:
        raise pa.ArrowInvalid("a column has no dictionary")
    places: dict[int, tuple[int, int]] = {}
    values = _plain(_content(source, page, leaf.codec), page.num_bytes)
    for number, value in enumerate(islice(values, min(page.num_values, max(wanted) + 1))):
        if number in wanted:
            places[number] = copies.tell(), len(value)
            _append(copies, value)
    return places


def _open_copies() -> IO[bytes]:
    try:
        return TemporaryFile(buffering=0)  # a buffer could fail again when it is closed
    except OSError as error:
        raise StorageError(
            f"cannot make a temporary file: {error.strerror}; set TMPDIR to a local folder"
        ) from error


def _append(copies: IO[bytes], value: bytes) -> None:
    """Write all of a value; a full disk is no damage of the input."""
    left = memoryview(value)
    try:
        while left:
            left = left[copies.write(left) :]
    except OSError as error:
        raise StorageError(
            f"cannot copy a dictionary to a temporary file: {error.strerror}; set TMPDIR to a "
            "folder with more space"
        ) from error


def _copied(
    copies: IO[bytes], places: dict[int, tuple[int, int]], indices: NDArray[np.int64]
) -> Iterator[bytes]:
    for index in indices.tolist():
        if index not in places:
            raise pa.ArrowInvalid(f"the dictionary has no value {index}")
        start, size = places[index]
        copies.seek(start)
        yield copies.read(size)


def _plain(content: "_Content", most: int) -> Iterator[bytes]:
    """Yield values of at most so many bytes that follow each other, each after its size."""
    while True:
        size = int.from_bytes(content.read(4), "little")
        if size > most:
            raise pa.ArrowInvalid("a value is longer than its page")
        yield content.read(size)


def _data_pages(
    source: pa.NativeFile, leaf: Leaf, skip: int, num_rows: int
) -> Iterator[tuple[_Page, int, int]]:
    """Yield the pages with some of the rows, each with the first and the end of them in it."""
    row, stop = 0, skip + num_rows
    for page in _pages(source, leaf):
        if page.kind not in (_DATA, _DATA_2):
            continue
        if page.encoding not in (_PLAIN, *_INDICES):
            raise pa.ArrowNotImplementedError(f"pages of encoding {page.encoding}")
        if leaf.max_level and not page.has_levels_in_runs:
            raise pa.ArrowNotImplementedError("levels in bits")
        if not 0 <= page.num_values <= leaf.num_rows - row:
            raise pa.ArrowInvalid("a page has more values than its row group")
        first, end = max(skip - row, 0), min(stop - row, page.num_values)
        if first < end:
            yield page, first, end
        row += page.num_values
        if row >= stop:
            return
    raise pa.ArrowInvalid(f"{stop - row} rows are missing")


def _pages(source: pa.NativeFile, leaf: Leaf) -> Iterator[_Page]:
    at = leaf.start
    while at < leaf.end:
        size, fields, length = _HEADER_BYTES, None, 0
        while fields is None:
            data = source.read_at(min(size, leaf.end - at), at)
            try:
                fields, length = _parse_thrift(data, 0)
            except IndexError:  # statistics may make a header longer
                if size >= min(_MAX_HEADER_BYTES, leaf.end - at):
                    raise pa.ArrowInvalid("the header of a page is damaged") from None
                size *= 8
            except RecursionError:
                raise pa.ArrowInvalid("the header of a page is damaged") from None
        try:
            page = _page(fields, at + length)
        except (KeyError, TypeError, AttributeError) as error:
            raise pa.ArrowInvalid("the header of a page is damaged") from error
        if not at < page.end <= leaf.end:
            raise pa.ArrowInvalid("a page is longer than its column")
        yield page
        at = page.end


def _page(fields: dict[int, Any], start: int) -> _Page:
    kind = fields[1]
    # The numbers of these fields are those of PageHeader and its parts in parquet.thrift.
    about = fields.get({_DATA: 5, _DICTIONARY: 7, _DATA_2: 8}.get(kind, 0), {1: 0, 2: _PLAIN})
    second = kind == _DATA_2
    numbers = [fields[2], fields[3], about[1], about[4] if second else about[2]]
    numbers.append(about[5] if second else 0)
    is_right = all(type(each) is int and 0 <= each < 1 << 31 for each in numbers)
    if not is_right or type(fields.get(4, 0)) is not int or numbers[-1] > fields[3]:
        raise pa.ArrowInvalid("the header of a page is damaged")
    return _Page(
        kind=kind,
        num_values=about[1],
        encoding=about[4] if second else about[2],
        start=start,
        end=start + fields[3],
        num_bytes=fields[2],
        level_bytes=about[5] if second else None,
        is_compressed=about.get(7, True) if second else True,
        has_levels_in_runs=kind != _DATA or about[3] == _RLE,
        checksum=fields.get(4),
    )


def _parse_thrift(data: bytes, at: int) -> tuple[dict[int, Any], int]:
    """Parse a struct of the compact protocol; return its fields by number, and its end."""
    fields: dict[int, Any] = {}
    number = 0
    while data[at]:
        delta, kind = data[at] >> 4, data[at] & 15
        at += 1
        if delta:
            number += delta
        else:
            number, at = _parse_zigzag(data, at)
        fields[number], at = _parse_value(data, at, kind)
    return fields, at + 1


def _parse_value(data: bytes, at: int, kind: int) -> tuple[Any, int]:
    match kind:
        case 1 | 2:
            return kind == 1, at
        case 3:
            return data[at], at + 1
        case 4 | 5 | 6:
            return _parse_zigzag(data, at)
        case 7:
            return data[at : at + 8], at + 8
        case 8:
            size, at = snappy.parse_number(data, at)
            return data[at : at + size], at + size
        case 12:
            return _parse_thrift(data, at)
    raise pa.ArrowInvalid("the header of a page is damaged")


def _parse_zigzag(data: bytes, at: int) -> tuple[int, int]:
    number, at = snappy.parse_number(data, at)
    return number >> 1 ^ -(number & 1), at


class _Content:
    """The decompressed bytes of a page, from its beginning to its end."""

    def __init__(self, pieces: Iterator[bytes], num_bytes: int) -> None:
        self._pieces, self._piece, self._at = _bounded(pieces, num_bytes), b"", 0

    def read(self, size: int) -> bytes:
        """Return exactly so many bytes."""
        if self._at + size <= len(self._piece):
            self._at += size
            return self._piece[self._at - size : self._at]
        found = [self._piece[self._at :]]
        size -= len(found[0])
        while size > 0:
            self._piece = next(self._pieces, b"")
            if not self._piece:
                raise pa.ArrowInvalid("a page is shorter than its values")
            found.append(self._piece[:size])
            self._at = len(found[-1])
            size -= self._at
        return b"".join(found)

    def read_rest(self) -> bytes:
        """Return all that is left."""
        return b"".join([self._piece[self._at :], *self._pieces])


def _bounded(pieces: Iterator[bytes], num_bytes: int) -> Iterator[bytes]:
    """Yield pieces of at most so many bytes, whatever a damaged page expands to."""
    for piece in pieces:
        num_bytes -= len(piece)
        if num_bytes < 0:
            raise pa.ArrowInvalid("a page is longer than its header says")
        yield piece


def _content(source: pa.NativeFile, page: _Page, codec: str) -> _Content:
    """Return the content of a page after the levels that are not compressed."""
    if page.checksum is not None:
        found = 0
        for block in _blocks(source, page.start, page.end):
            found = crc32(block, found)
        if found != page.checksum % (1 << 32):
            raise pa.ArrowInvalid("the checksum of a page does not match")
    blocks = _blocks(source, page.start + (page.level_bytes or 0), page.end)
    if codec == "UNCOMPRESSED" or not page.is_compressed:
        return _Content(blocks, page.num_bytes)
    if codec == "SNAPPY":
        return _Content(snappy.decompress(blocks), page.num_bytes)
    stream = pa.CompressedInputStream(pa.PythonFile(_Blocks(blocks), mode="r"), codec.lower())
    return _Content(iter(lambda: stream.read(_PIECE_BYTES), b""), page.num_bytes)


class _Blocks:
    """Blocks as a file that Arrow reads."""

    closed = False

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks, self._left = blocks, b""

    def read(self, size: int) -> bytes:
        """Return up to so many bytes, none at the end."""
        self._left = self._left or next(self._blocks, b"")
        found, self._left = self._left[:size], self._left[size:]
        return found

    def close(self) -> None:
        """Do nothing: the file is another's."""


def _blocks(source: pa.NativeFile, start: int, end: int) -> Iterator[bytes]:
    for at in range(start, end, _BLOCK_BYTES):
        block = source.read_at(min(_BLOCK_BYTES, end - at), at)
        if len(block) < min(_BLOCK_BYTES, end - at):
            raise pa.ArrowInvalid("the file is cut short")
        yield block


def _read_levels(
    source: pa.NativeFile, page: _Page, leaf: Leaf
) -> tuple[NDArray[np.int64], _Content]:
    """Return the definition levels of a page, and the content after them."""
    content = _content(source, page, leaf.codec)
    if page.level_bytes is not None:
        data = source.read_at(page.level_bytes, page.start)
    else:
        data = content.read(int.from_bytes(content.read(4), "little")) if leaf.max_level else b""
    if not leaf.max_level:
        return np.zeros(page.num_values, np.int64), content
    return _decode_runs(data, leaf.max_level.bit_length(), page.num_values), content


def _read_indices(content: _Content, number: int) -> NDArray[np.int64]:
    """Return the places in the dictionary of the first values of a page that are not null."""
    if not number:  # a page of nulls may be empty
        return np.zeros(0, np.int64)
    [width] = content.read(1)
    if width > _MAX_INDEX_BITS:
        raise pa.ArrowInvalid("the places of a dictionary have too many bits")
    return _decode_runs(content.read_rest(), width, number)


def _decode_runs(data: bytes, width: int, number: int) -> NDArray[np.int64]:
    """Decode numbers of so many bits, in runs and in groups of eight."""
    if not width:
        return np.zeros(number, np.int64)
    found = [np.zeros(0, np.int64)]
    at, left = 0, number
    while left > 0:
        try:
            header, at = snappy.parse_number(data, at)
        except IndexError:
            raise pa.ArrowInvalid("a page is shorter than its values") from None
        if not header >> 1:
            raise pa.ArrowInvalid("a page has an empty run")
        size = (header >> 1) * width if header & 1 else (width + 7) // 8
        content, at = data[at : at + size], at + size
        if header & 1:
            bits = np.unpackbits(np.frombuffer(content, np.uint8), bitorder="little")
            run = bits[: len(bits) // width * width].reshape(-1, width) @ (1 << np.arange(width))
        else:
            run = np.full(min(header >> 1, left), int.from_bytes(content, "little"))
        found.append(run[:left])
        left -= len(found[-1])
    return np.concatenate(found)
