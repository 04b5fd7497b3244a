"""The files of a table that arrives in pieces, their schemas and formats."""

import json
import resource
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nanograd.errors import DataError, Reason, StorageError, UnreadableError, UsageError
from nanograd.images import writers
from nanograd.runtime import machine
from tests.helpers.folders import contents

TABLE = pa.table({"id": range(193), "digit": [row % 10 for row in range(193)]})


def write(table: pa.Table, piece: int, *args: Any, **settings: Any) -> dict[str, bytes]:
    pieces = [table.slice(start, piece) for start in range(0, len(table), piece)]
    return writers.encode_files("part", table.schema, pieces, *args, **settings)


def rows_of(files: dict[str, Any]) -> list[int]:
    tables = [pq.read_table(pa.BufferReader(data)) for data in files.values()]
    return [row for table in tables for row in table["id"].to_pylist()]


@pytest.mark.parametrize(("piece", "rows"), [(1, 10**9), (7, 10), (193, 10**9)])
def test_pieces_make_the_file_of_the_whole(monkeypatch, piece, rows):
    expected = {each: writers.encode(TABLE, each) for each in ("csv", "jsonl")}
    monkeypatch.setattr(writers, "_JSON_ROWS", rows)

    found = {each: write(TABLE, piece, each) for each in ("parquet", "csv", "jsonl")}

    assert found["parquet"] == {"part.parquet": writers.to_parquet(TABLE)}
    for format_, data in expected.items():
        assert found[format_] == {f"part.{format_}": data}


@pytest.mark.parametrize(("max_rows", "num_files"), [(1, 193), (50, 4), (193, 1)])
def test_files_have_at_most_so_many_rows(max_rows, num_files):
    found = write(TABLE, 7, "parquet", max_rows=max_rows)

    sizes = [pq.read_metadata(pa.BufferReader(data)).num_rows for data in found.values()]
    assert (len(found), max(sizes), sum(sizes)) == (num_files, min(max_rows, 193), 193)
    assert "part.parquet" in found
    assert ("part-1.parquet" in found) == (num_files > 1)
    assert sorted(rows_of(found)) == list(range(193))


def test_columns_become_folders_whose_names_are_quoted():
    values = ["a/b", None, "", "ü=1 ", ".."]
    table = pa.table({"id": range(5), "who": values, "seen": [True, None, False, True, True]})

    found = write(table, 2, "parquet", partition_by=["who", "seen"])

    null = "__HIVE_DEFAULT_PARTITION__"
    assert sorted(found) == sorted(
        f"who={who}/seen={seen}/part.parquet"
        for who, seen in [
            *[("a%2Fb", "true"), (null, null), ("", "false")],
            *[("%C3%BC%3D1%20", "true"), ("..", "true")],
        ]
    )
    assert sorted(rows_of(found)) == list(range(5))


@pytest.mark.parametrize("partition_by", [(), ("digit",)])
def test_empty_table_makes_a_file_with_its_schema_on_request(partition_by):
    settings = {"format_": "parquet", "partition_by": partition_by}
    [(name, data)] = write(TABLE[:0], 1, **settings, even_empty=True).items()

    assert write(TABLE[:0], 1, **settings) == {}
    assert name == "digit=__HIVE_DEFAULT_PARTITION__/" * len(partition_by) + "part.parquet"
    assert pq.read_schema(pa.BufferReader(data)).names[0] == "id"


def test_too_many_folders_and_names_that_cannot_be_read_are_refused():
    many = pa.table({"id": range(1001), "value": range(1001)})
    long = pa.table({"id": [1], "value": ["ü" * 50]})
    null = pa.table({"id": [1, 2], "value": [None, "__HIVE_DEFAULT_PARTITION__"]})

    with pytest.raises(DataError, match="more than 1,000 folders"):
        write(many, 100, "parquet", partition_by=["value"])
    with pytest.raises(DataError, match="too long"):
        write(long, 1, "parquet", partition_by=["value"])
    with pytest.raises(DataError, match="would be read as null"):
        write(null, 1, "parquet", partition_by=["value"])


def test_column_that_cannot_name_folders_is_a_usage_error():
    schema = pa.schema([("id", pa.int64()), ("x", pa.float64()), ("at", pa.date32())])

    writers.check_partition_columns(schema, ["id", "at"])
    for names in (["none"], ["x"], ["id", "at", "id"]):
        found = f"--partition-by {', '.join(names)}: .*: id, at; --keep"
        with pytest.raises(UsageError, match=found):
            writers.check_partition_columns(schema, names)
    with pytest.raises(UsageError, match="each once and not all"):
        writers.check_partition_columns(schema.remove(1), ["id", "at"])


def test_quarantine_table_holds_rows_of_the_file_and_whole_files():
    odd = "\udcff.parquet"
    row, error = ["7.png", "a.parquet", 103], UnreadableError(Reason.BLANK, "nothing there")
    broken = UnreadableError(Reason.BROKEN_FILE, "\udcff is no whole file")

    one = writers.quarantine_table(
        writers.source_table([row[1]], [row[2]], pa.array([row[0]])), [error]
    )
    table = pa.concat_tables([one, writers.refuse_rows(odd, [None], [broken])])

    assert table.schema.equals(writers.QUARANTINE)
    assert [list(row.values()) for row in table.to_pylist()] == [
        ["7.png", "a.parquet", 103, "blank", "nothing there"],
        [*[r"\udcff.parquet"] * 2, None, "broken_file", r"\udcff is no whole file"],
    ]
    assert writers.refuse_rows(odd, [], []).schema.equals(writers.QUARANTINE)


F32 = pa.float32()
IN_JSON: list[tuple[pa.DataType, list[Any], list[Any]]] = [
    (F32, [0.1, 1 / 3, 1e-7, 2], [0.1, 0.33333334, 1e-7, 2]),  # the shortest digits
    (F32, [np.nan, np.inf], [None, None]),
    (pa.list_(F32, 2), [[0.1, np.nan], None, [3, None]], [[0.1, None], None, [3, None]]),
    (pa.struct({"x": pa.list_(pa.float64())}), [{"x": [np.inf, 0.5]}], [{"x": [None, 0.5]}]),
    (pa.map_(pa.string(), F32), [[("a", np.nan)], None], [[{"key": "a", "value": None}], None]),
    (pa.time64("ns"), [1, None], ["00:00:00.000000001", None]),
]


@pytest.mark.parametrize(("type_", "values", "written"), IN_JSON, ids=str)
def test_json_lines_have_the_values_that_json_can_hold(type_, values, written):
    table = pa.table({"at": pa.array(values, type_), "id": range(len(values))})

    lines = writers.encode(table, "jsonl").decode().splitlines()

    assert list(map(json.loads, lines)) == [{"at": e, "id": n} for n, e in enumerate(written)]


@pytest.mark.parametrize("format_", ["parquet", "csv", "jsonl"])
def test_columns_are_read_back_beside_any_kept_column(tmp_path, format_):
    errors = [UnreadableError(Reason.EMPTY, 'no "bytes",\nat all')] * 2
    table = writers.refuse_rows("a.parquet", range(2), errors)
    kept = [("long", pa.array(["x" * 3_000_000] * 2))]
    if format_ != "csv":
        maps = pa.map_(pa.string(), pa.float64())
        kept.append(("map", pa.array([[("a", 1.5), ("b", np.nan)], []], maps)))
    for name, column in kept:
        table = table.append_column(name, column)

    data = writers.to_parquet(table) if format_ == "parquet" else writers.encode(table, format_)
    (tmp_path / f"part.{format_}").write_bytes(data)

    assert writers.read(str(tmp_path / f"part.{format_}"), writers.QUARANTINE) == table.select(
        writers.QUARANTINE.names
    )


@pytest.mark.parametrize("format_", ["parquet", "jsonl"])
def test_file_that_is_damaged_is_named(tmp_path, format_):
    place = tmp_path / f"part.{format_}"
    place.write_bytes(b'{"path": "a')

    with pytest.raises(DataError, match=rf"{place} is damaged .*--verify writes it again"):
        writers.read(str(place), writers.QUARANTINE)


def test_text_in_a_list_that_is_not_utf8_is_refused_with_its_column():
    texts = pa.array([b"a\xff"]).view(pa.string())
    table = pa.table({"words": pa.ListArray.from_arrays([0, 1], texts)})

    with pytest.raises(
        DataError, match=r"column 'words' of type list<.*: text is not UTF-8; leave"
    ):
        writers.encode(table, "jsonl")


def test_pictures_are_whole_files_even_after_a_full_disk_or_a_kill(tmp_path, sample):
    digits = sample.test.take(slice(0, 50))
    dead = f".0.png.{machine.owner()}0.0.nanograd-tmp"  # this process started at another time
    killed = tmp_path / "png" / str(digits.labels[0]) / dead
    killed.parent.mkdir(parents=True)
    killed.write_bytes(b"")

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60, limits[1]))  # as on a full disk
    try:
        with pytest.raises(StorageError, match=r"cannot write .*\.png"):
            writers.write_pictures(digits, str(tmp_path / "png"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not contents(tmp_path)
    killed.write_bytes(b"")
    writers.write_pictures(digits, str(tmp_path / "png"))

    assert len(found := contents(tmp_path)) == 50
    assert all(len(data) > 60 for data in found.values())
