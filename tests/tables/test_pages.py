"""Large values read piece by piece are those that Arrow reads, of any codec and encoding."""

import json
import tempfile
from collections.abc import Callable
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nanograd.errors import StorageError
from nanograd.tables import files, large, pages, snappy
from nanograd.tables.files import RowRange, read_rows
from tests.helpers.image_columns import PICTURE
from tests.helpers.processes import run_python

CODECS = ["none", "snappy", "zstd", "gzip", "brotli"]


def seeded(seed: str | int) -> Random:
    return Random(seed)  # noqa: S311 - no secrets


def some_value(random: Random) -> bytes | None:
    size = random.choice([0, 1, 5, 100, 20_000, 70_000, 200_001])
    noise = random.randbytes(random.randrange(1, 50))
    mixed = (random.choice([random.randbytes(30), b"abcdefgh" * 5, bytes(90)]) for _ in range(900))
    kinds = (
        lambda: None,
        lambda: random.randbytes(size),
        lambda: bytes([random.randrange(256)]) * size,
        lambda: (noise * size)[:size],
        lambda: b"".join(mixed),
        lambda: noise + b"z" * (size // 2) + noise,  # refers back by more than 64 KiB
    )
    return random.choice(kinds)()


def some_options(random: Random) -> dict[str, Any]:
    return {
        "use_dictionary": random.random() < 0.6,
        "data_page_version": random.choice(["1.0", "2.0"]),
        "write_page_checksum": random.random() < 0.5,
        "write_batch_size": random.choice([1, 7, 1024]),
        "data_page_size": random.choice([1000, 1 << 20]),
        "dictionary_pagesize_limit": random.choice([1000, 100_000, 1 << 28]),
        "row_group_size": random.choice([10, 1000]),
    }


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("is_struct", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_values_are_those_of_arrow(seed: int, is_struct: bool, codec: str) -> None:
    random, stream = seeded(f"{seed} {codec} {is_struct}"), BytesIO()
    values = [some_value(random) for _ in range(random.randrange(1, 40))]
    values += [random.choice(values) for _ in range(random.choice([0, 20]))]
    column = pa.array(values, pa.binary())
    expected = [(0 if value is None else 1, value) for value in values]
    if is_struct:
        rows = [None if value == b"" else {"bytes": value, "path": "x"} for value in values]
        column = pa.array(rows, PICTURE)
        levels = [0 if row is None else 1 if row["bytes"] is None else 2 for row in rows]
        expected = [(level, value or None) for level, value in zip(levels, values, strict=True)]
    table = pa.table({"id": range(len(values)), "image": column})
    pq.write_table(table, stream, compression=codec, **some_options(random))
    source = pa.BufferReader(stream.getvalue())
    parquet = pq.ParquetFile(pa.BufferReader(stream.getvalue()))

    start = 0
    for group in range(parquet.num_row_groups):
        leaf = pages.find_leaf(parquet, group, "image.bytes" if is_struct else "image")
        first = random.randrange(leaf.num_rows)
        for skip, number in ((0, leaf.num_rows), (first, random.randrange(leaf.num_rows - first))):
            found = list(pages.read_values(source, leaf, skip, number))
            assert found == expected[start + skip :][:number]
        start += leaf.num_rows


@pytest.mark.parametrize(
    ("values", "is_large"),
    [
        ([bytes([row]) * 20_000 for row in range(50)], True),
        ([b"x" * 20_000, *[b"y"] * 10_000], True),  # in the dictionary
        ([bytes([row % 256]) * 784 for row in range(3000)], False),
        ([b"", None], False),
    ],
)
def test_column_with_a_large_value_for_any_rows_is_recognised(
    values: list[bytes | None], is_large: bool
) -> None:
    stream = BytesIO()
    pq.write_table(pa.table({"image": pa.array(values, pa.binary())}), stream)
    parquet = pq.ParquetFile(stream)

    leaf = pages.find_leaf(parquet, 0, "image")

    assert pages.holds_large_values(pa.BufferReader(stream.getvalue()), leaf) == is_large
    assert pages.find_leaf(parquet, 0, "other") is None


@pytest.mark.parametrize("codec", ["none", "snappy", "zstd"])
@pytest.mark.parametrize("kept", [None, "label", "image"])
def test_large_rows_are_read_in_batches_cut_by_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: str | None, codec: str
) -> None:
    monkeypatch.setattr(large, "BATCH_BYTES", 1_000_000)
    random = seeded(7)
    values = [
        random.randbytes(200_000) if row % 5 else random.choice([None, b""]) for row in range(60)
    ]
    pictures = [
        None if row % 11 == 3 else {"bytes": values[row], "path": f"{row}"} for row in range(60)
    ]
    columns = {"label": range(60), "image": pa.array(pictures, PICTURE), "raw": values}
    table = pa.table(columns)
    place = str(tmp_path / "rows.parquet")
    pq.write_table(table, place, row_group_size=40, compression=codec)
    names = {None: ["image"], "label": ["label", "raw"], "image": ["label", "image", "raw"]}[kept]

    for rows in (
        RowRange((0, 2), 0, 0, 60),
        RowRange((0, 2), 37, 37, 20),
        RowRange((1, 2), 1, 41, 19),
    ):
        batches = list(read_rows(place, rows, lambda _: names))
        found = pa.Table.from_batches(batches).combine_chunks()
        expected = table.select(names).slice(rows.first_row, rows.num_rows).combine_chunks()
        assert found.equals(expected)
        assert max(batch.nbytes for batch in batches) < 1_500_000


def test_large_values_that_arrow_reads_as_a_dictionary_are_read_in_small_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(large, "BATCH_BYTES", 1_000_000)
    values = [None if row % 9 == 4 else bytes([row]) * 60_000 for row in range(60)]
    table = pa.table({"image": pa.array(values).dictionary_encode()})
    place = str(tmp_path / "rows.parquet")
    pq.write_table(table, place, use_dictionary=False)

    batches = list(read_rows(place, RowRange((0, 1), 7, 7, 50), lambda schema: schema.names))

    assert {batch.schema.field("image").type for batch in batches} == {table["image"].type}
    assert [each for batch in batches for each in batch["image"].to_pylist()] == values[7:57]
    assert max(batch.nbytes for batch in batches) < 1_500_000


def damaged(file: Path, change: Callable[[bytearray, int, int], None]) -> str:
    random = seeded(3)
    values = [random.randbytes(20_000) for _ in range(50)]
    pq.write_table(
        pa.table({"image": values}), file, use_dictionary=False, write_page_checksum=True
    )
    chunk = pq.read_metadata(file).row_group(0).column(0)
    data = bytearray(file.read_bytes())
    change(data, chunk.data_page_offset, chunk.total_compressed_size)
    file.write_bytes(data)
    return str(file)


def flip(data: bytearray, start: int, size: int) -> None:
    data[start + size // 2] ^= 1


def break_header(data: bytearray, start: int, size: int) -> None:
    data[start : start + 4] = b"\xff" * 4


def nest(data: bytearray, start: int, size: int) -> None:
    data[start : start + size] = b"\x1c" * size


@pytest.mark.parametrize("change", [flip, break_header, nest])
def test_damaged_page_of_large_values_is_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[bytearray, int, int], None]
) -> None:
    monkeypatch.setattr(large, "BATCH_BYTES", 1_000_000)
    place = damaged(tmp_path / "rows.parquet", change)

    found = list(read_rows(place, RowRange((0, 1), 0, 0, 50), lambda schema: schema.names))

    [rejections] = found
    assert isinstance(rejections, list)
    assert [each.row for each in rejections] == list(range(50))


@pytest.mark.parametrize("codec", ["none", "snappy", "zstd"])
def test_damage_anywhere_is_an_error_or_another_value(codec: str) -> None:
    random, stream = seeded(codec), BytesIO()
    values = [random.randbytes(300) + bytes(200) for _ in range(20)] * 2
    pq.write_table(pa.table({"image": values}), stream, compression=codec)
    leaf = pages.find_leaf(pq.ParquetFile(stream), 0, "image")

    for _ in range(300):
        data = bytearray(stream.getvalue())
        at = random.choice(
            [leaf.start + random.randrange(60), random.randrange(leaf.start, leaf.end)]
        )
        data[at] ^= 1 << random.randrange(8)
        with suppress(pa.ArrowException, OSError, ValueError):
            found = list(pages.read_values(pa.BufferReader(bytes(data)), leaf, 0, 40))
            assert len(found) == 40


@pytest.mark.parametrize(
    ("data", "message"),
    [(b"\xff" * 100_000, "too many bytes"), (b"\x00" * 9, "empty run"), (b"\x01" * 9, "empty run")],
)
def test_numbers_and_runs_that_never_end_are_damage(data: bytes, message: str) -> None:
    with pytest.raises(pa.ArrowInvalid, match=message):
        pages._decode_runs(data, 3, 10)


def test_page_that_expands_beyond_its_header_is_damage() -> None:
    blocks = iter([bytes(1 << 20)] * 3)
    content = pages._Content(blocks, 2 << 20)

    with pytest.raises(pa.ArrowInvalid, match="longer than its header says"):
        content.read_rest()


def test_full_temporary_folder_is_no_damage_of_the_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(large, "BATCH_BYTES", 1_000_000)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    values = [bytes([row % 3]) * 60_000 for row in range(100)]
    place = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"image": values}), place, dictionary_pagesize_limit=1 << 28)

    with pytest.raises(StorageError, match="cannot make a temporary file"):
        list(read_rows(str(place), RowRange((0, 1), 0, 0, 100), lambda schema: schema.names))


def test_page_of_an_unknown_kind_is_left_to_arrow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(large, "BATCH_BYTES", 1_000_000)
    monkeypatch.setattr(pages, "_PLAIN", 99)
    values = [bytes([row]) * 20_000 for row in range(100)]
    pq.write_table(pa.table({"image": values}), tmp_path / "rows.parquet", use_dictionary=False)

    rows = RowRange((0, 1), 0, 0, 100)
    found = list(read_rows(str(tmp_path / "rows.parquet"), rows, lambda schema: schema.names))

    assert pa.Table.from_batches(found)["image"].to_pylist() == values


@pytest.mark.parametrize("size", [1, 7, 1000, 100_000])
def test_snappy_is_decompressed_whatever_the_blocks(size: int) -> None:
    random = seeded(size)
    data = b"".join(some_value(random) or b"" for _ in range(40))
    packed = pa.compress(data, "snappy", asbytes=True)
    blocks = [packed[start : start + size] for start in range(0, len(packed), size)]
    # Blocks shorter than a number are joined: a file's have megabytes.
    blocks[:7] = [b"".join(blocks[:7])]

    assert b"".join(snappy.decompress(iter(blocks))) == data
    for cut in (1, len(packed) // 2, len(packed) - 1):
        with pytest.raises((pa.ArrowInvalid, OSError)):
            list(snappy.decompress(iter([packed[:cut]])))
    with pytest.raises(pa.ArrowInvalid):
        list(snappy.decompress(iter([packed, b"more"])))


def test_rows_in_memory_do_not_depend_on_the_rows_of_a_page(tmp_path: Path) -> None:
    code = f"""
import json, os, resource
import pyarrow as pa, pyarrow.parquet as pq
from nanograd.tables.files import RowRange, read_rows
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
place = {str(tmp_path / "rows.parquet")!r}
if not os.path.exists(place):
    values = [os.urandom(1_000_000) for _ in range(250)]
    pq.write_table(pa.table({{"image": values}}), place)
else:
    before = peak()
    batches = read_rows(place, RowRange((0, 1), 0, 0, 250), lambda schema: schema.names)
    print(json.dumps([sum(map(len, batches)), peak() - before]))
"""
    run_python(code)
    rows, megabytes = json.loads(run_python(code).stdout)

    assert rows == 250
    assert megabytes < 450  # Arrow takes 700 and more


def test_numbers_that_take_no_bytes_in_a_file_are_cut_by_their_size_in_memory(
    tmp_path: Path,
) -> None:
    black = pa.FixedSizeListArray.from_arrays(pa.repeat(pa.scalar(0.0), 3000 * 4096), 4096)
    pq.write_table(pa.table({"image": black}), tmp_path / "rows.parquet")

    rows = RowRange((0, 1), 0, 0, 3000)
    found = list(read_rows(str(tmp_path / "rows.parquet"), rows, lambda schema: schema.names))

    assert (tmp_path / "rows.parquet").stat().st_size < 1_000_000
    assert [len(each) for each in found] == [1536, 1464]
    assert all(len(each) % files._CHUNK_ROWS == 0 for each in found[:-1])
