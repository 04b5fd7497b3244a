"""Reading rows while the storage fails, or memory is short."""

import csv
from collections.abc import Callable
from io import FileIO
from itertools import combinations
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from nanograd.errors import DataError, StorageError, UnreadableError
from nanograd.images import parquet
from nanograd.images.csv import CsvFile
from nanograd.images.parquet import RowRange, open_parquet
from nanograd.images.reader import read_rows
from nanograd.runtime import storage
from tests.helpers.image_columns import FLAT_NAMES, PICTURE

NUM_ROWS, GROUP_ROWS = 1000, 250
ALL = RowRange((0, 4), 0, 0, NUM_ROWS)


class FailingDisk:
    """A disk whose reads fail, counted over all files, in some ranges of these counts."""

    def __init__(self, *failing: range, error: Exception | None = None) -> None:
        self.num_reads, self._failing = 0, failing
        self._error = error or OSError("Input/output error")

    def open_file(self, place: str) -> Any:
        disk = self

        class File(FileIO):
            def read(self, size: int | None = -1) -> bytes:
                disk.num_reads += 1
                if any(disk.num_reads in each for each in disk._failing):
                    raise disk._error
                return super().read(size) or b""

        return pa.PythonFile(File(place), mode="r")


@pytest.fixture
def table() -> pa.Table:
    return pa.table({"id": range(NUM_ROWS), "image": [bytes([n % 251]) * 784 for n in range(1000)]})


@pytest.fixture
def file(tmp_path: Path, table: pa.Table) -> str:
    place = str(tmp_path / "rows.parquet")
    options = {"use_dictionary": False, "compression": "none", "write_page_checksum": True}
    pq.write_table(
        table, place, row_group_size=GROUP_ROWS, data_page_size=4096, write_batch_size=16, **options
    )
    return place


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Callable[[FailingDisk], None]:
    # Small reads: there are many of them to fail.
    monkeypatch.setattr(parquet, "READ_BYTES", 1 << 13)
    return lambda disk: monkeypatch.setattr(storage, "open_file", disk.open_file)


def read(file: str) -> tuple[list[int], list[UnreadableError]]:
    ids, rejections = list[int](), list[UnreadableError]()
    for batch in read_rows(file, ALL, lambda schema: schema.names):
        if isinstance(batch, pa.RecordBatch):
            ids += batch.column("id").to_pylist()
        else:
            rejections += batch
    return ids, rejections


def count_reads(file: str, use: Callable[[FailingDisk], None]) -> int:
    disk = FailingDisk()
    use(disk)
    assert read(file) == (list(range(NUM_ROWS)), [])
    return disk.num_reads


def test_disk_that_fails_once_or_for_a_while_loses_no_row(file, use):
    num_reads = count_reads(file, use)
    middle, whole = num_reads // 2, -(-Path(file).stat().st_size // parquet.READ_BYTES) + 1
    failing = [
        [range(first, first + length)] for first in range(1, num_reads + 1) for length in (1, 2, 7)
    ]
    # Once more in the careful pass.
    again = range(middle + 1, middle + 2 * whole, 3)
    failing += [[range(middle, middle + 1), range(second, second + 1)] for second in again]

    for ranges in failing:
        use(FailingDisk(*ranges))
        try:
            found = read(file)
        except StorageError:
            continue
        assert found == (list(range(NUM_ROWS)), []), ranges


def test_damaged_page_loses_the_rest_of_its_row_group_whatever_the_disk_does(file, use):
    group = pq.read_metadata(file).row_group(1).column(1)
    data = bytearray(Path(file).read_bytes())
    data[group.data_page_offset + 3 * group.total_compressed_size // 4] ^= 1
    Path(file).write_bytes(data)
    use(FailingDisk())

    ids, rejections = read(file)

    assert ids == [*range(ids[-1 - 2 * GROUP_ROWS] + 1), *range(2 * GROUP_ROWS, NUM_ROWS)]
    assert len(ids) + len(rejections) == NUM_ROWS
    assert 0 < len(rejections) < GROUP_ROWS
    assert {each.reason for each in rejections} == {"broken_file"}


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError("Input/output error"), r"cannot read .*rows\.parquet: .*Input/output error"),
        (MemoryError("malloc of 4 GB failed"), r"not enough memory.*fewer --workers"),
    ],
)
def test_disk_that_stays_broken_or_lack_of_memory_is_a_storage_error(file, use, error, words):
    num_reads = count_reads(file, use)
    middle = num_reads // 2

    use(FailingDisk(range(middle, middle + 1), error=error))
    assert read(file) == (list(range(NUM_ROWS)), [])
    for first in (1, 2, middle, num_reads):
        use(FailingDisk(range(first, 10**9), error=error))
        with pytest.raises(StorageError, match=words):
            read(file)


def test_footer_is_read_again_before_a_file_counts_as_broken(file, use, tmp_path):
    use(FailingDisk(range(1, 2)))
    footer = open_parquet(file).metadata
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"no parquet")

    assert footer.num_rows == NUM_ROWS
    with pytest.raises(DataError, match=r"is not a complete Parquet file \(rename it"):
        open_parquet(str(broken))


@settings(max_examples=60, deadline=None)
@given(
    ranges=st.lists(st.tuples(st.integers(0, 49), st.integers(1, 30), st.booleans()), max_size=6),
    columns=st.lists(st.sampled_from([["id"], ["image", "id"]]), min_size=6, max_size=6),
)
@example(ranges=[(0, 25, False), (25, 25, False)], columns=[["id"]] * 6)
@example(ranges=[(0, 25, False), (24, 26, False)], columns=[["id"]] * 6)
def test_decoder_of_one_range_reads_the_next_range_as_a_new_one_does(
    ranges, columns, tmp_path_factory
):
    places = [str(tmp_path_factory.mktemp("files") / name) for name in ("a.parquet", "b.parquet")]
    for number, place in enumerate(places):
        ids = range(100 * number, 100 * number + 50)
        pq.write_table(pa.table({"id": ids, "image": [bytes([n]) for n in ids]}), place)
    unfinished = dict[str, parquet.Decoder]()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parquet, "BATCH_BYTES", 200)  # several batches
        for (skip, number, other), names in zip(ranges, columns, strict=False):
            rows = RowRange((0, 1), skip, skip, min(number, 50 - skip))
            found, alone = (
                list(read_rows(places[other], rows, lambda _, names=names: names, decoders))
                for decoders in (unfinished, {})
            )
            assert [each.num_rows for each in found] == [each.num_rows for each in alone]
            assert found == alone


def test_file_is_opened_once_for_all_ranges_of_a_row_group(tmp_path, monkeypatch):
    place, opened = str(tmp_path / "rows.parquet"), list[str]()
    pq.write_table(pa.table({"id": range(40)}), place)
    open_file = storage.open_file
    monkeypatch.setattr(
        storage, "open_file", lambda each: [opened.append(each), open_file(each)][1]
    )
    unfinished, found = dict[str, parquet.Decoder](), list[int]()
    for first in range(0, 40, 10):
        rows = RowRange((0, 1), first, first, 10)
        for batch in read_rows(place, rows, lambda schema: schema.names, unfinished):
            found += batch["id"].to_pylist()
    assert found == list(range(40))
    assert opened == [place]
    assert not unfinished


# A pixel and the text of a line, or what is wrong with it.
Line = tuple[str | None, bytes | None, str]


def read_csv(place: Path, lines: list[bytes], num_rows: int | None = None) -> list[Line]:
    """Read rows, each as pixel783 and note."""
    header = ",".join([*FLAT_NAMES["pixel0"], "note"]).encode()
    place.write_bytes(b"\n".join([header, *(b"0," * 783 + line for line in lines)]))
    found: list[Line] = []
    rows = RowRange((0, 1), 0, 0, num_rows or len(lines))
    for part in read_rows(str(place), rows, lambda _: ["pixel783", "note"]):
        if isinstance(part, pa.RecordBatch):
            pixels = part["pixel783"].cast(pa.float64()).to_pylist()
            notes = part["note"].cast(pa.binary()).to_pylist()
            found += [(str(pixel), note, "") for pixel, note in zip(pixels, notes, strict=True)]
        else:
            found += [(None, None, each.detail) for each in part]
    return found


PIECES = st.sampled_from(
    [*' \t\f\v",."5', '""', "0x1", "-1", "+", "e1", "nan", "inf", "x", "\0", "é"]
)
LINES = st.lists(st.lists(PIECES, max_size=6).map("".join).map(str.encode), min_size=1, max_size=7)


@example([b"1, ", b" ,", b"2,\t"])
@example([b'1,"a', b"2,b", b"3,c"])
@example([b'1,"a"b', b"2,b", b"3,c"])
@example([b'1,12" pipe', b"2,open", b"3,c"])
@example([b"0x1,a", b"0.5,b", b"x,c"])
@settings(max_examples=50)
@given(LINES)
def test_each_line_of_csv_is_read_as_if_it_were_alone(tmp_path_factory, lines):
    assume(sum(b'"' in line for line in lines) < 2)  # quotes may join lines
    place = tmp_path_factory.getbasetemp() / "lines.csv"

    found = read_csv(place, lines)

    assert found == [each for line in lines for each in read_csv(place, [line])]
    assert not any("Arrow" in why or "CSV" in why for _, _, why in found)


NOTES = st.lists(st.text(st.sampled_from('\n\r",a '), max_size=6), min_size=1, max_size=7)


@example(["\r\n", "a", "\n" * 5000], "\n", 1)
@settings(max_examples=50)
@given(NOTES, st.sampled_from(["\n", "\r\n"]), st.integers(0, 3))
def test_text_with_line_breaks_is_read_as_it_was_written(tmp_path_factory, notes, ends, skip):
    place = tmp_path_factory.getbasetemp() / "notes.csv"
    with place.open("w", newline="") as stream:
        writer = csv.writer(stream, lineterminator=ends, quoting=csv.QUOTE_ALL)
        writer.writerow(["no\nte", *FLAT_NAMES["pixel0"]])
        writer.writerows([note, *[number] * 784] for number, note in enumerate(notes))
    wanted = notes[skip:]

    rows = RowRange((0, 1), skip, skip, len(wanted))
    read = list(read_rows(str(place), rows, lambda _: ["pixel7", "no\nte"])) if wanted else []

    assert CsvFile(str(place)).scan()[0] == len(notes)
    table = pa.Table.from_batches(read) if read else pa.table({"pixel7": [], "no\nte": []})
    assert [note or "" for note in table["no\nte"].to_pylist()] == wanted
    assert table["pixel7"].to_pylist() == list(range(skip, len(notes)))


@pytest.mark.parametrize(
    ("lines", "pixels"),
    [
        ([b'1,"a', b'2,b"', b"3,c"], ["1.0", "3.0"]),  # one value goes on
        ([b'1,"a', b'2,b"x', b"3,c"], [None, "2.0", "3.0"]),  # text after the end of a value
        ([b'1,"a', b"2,b", b'3,c",4', b"5,d"], [None, "2.0", None, "5.0"]),  # a value too many
        ([b'1,"a', b"2,b", b'3,"c', b'4,d"'], [None, "2.0", "3.0"]),
    ],
)
def test_quote_that_no_value_needs_takes_no_other_line_with_it(lines, pixels, tmp_path):
    found = read_csv(tmp_path / "a.csv", lines, len(pixels))

    assert [pixel for pixel, _, _ in found] == pixels


@pytest.mark.parametrize(
    ("cell", "detail"),
    [
        (b" ", "null"),
        (b'"\t"', "null"),
        (b' "5"', "not a number"),
        (b"\f5", "not a number"),
        (b'5, "a, b"', "787 values"),
        (b"+0x1", "cannot be read"),  # Arrow alone refuses it
    ],
)
def test_cell_that_arrow_refuses_takes_no_other_line_with_it(cell, detail, tmp_path):
    lines = [b"%d,a" % number for number in range(200)]
    lines[3] = lines[140] = cell + b",a"

    found = read_csv(tmp_path / "a.csv", lines)

    assert all(detail in found.pop(row)[2] for row in (140, 3))
    assert [pixel for pixel, _, _ in found] == [
        f"{number}.0" for number in range(200) if number not in (3, 140)
    ]


def test_columns_are_read_by_their_place_whatever_their_names(tmp_path):
    nested = pa.struct([("x", pa.map_(pa.string(), pa.int8())), ("b", pa.list_(PICTURE))])
    picture = {"bytes": b"3", "path": "p"}
    inner = [{"x": [("k", 4)], "b": [picture]}, None, {"x": [], "b": []}]
    columns = {
        "image.bytes": pa.array([b"1", None, b"2"]),
        "image": pa.array([picture, None, {"bytes": None, "path": None}], PICTURE),
        "a": pa.array(inner, nested),
        "a.b": pa.array(["6", None, "7"]).dictionary_encode(),
        "image.path": pa.array(["8", None, "9"]),
    }
    place = str(tmp_path / "a.parquet")
    for names in (list(columns), list(reversed(columns))):
        table = pa.table({name: columns[name] for name in names})
        pq.write_table(table, place, row_group_size=2)

        for wanted in combinations(names, 2):
            found = list(read_rows(place, None, lambda _, wanted=wanted: wanted))  # type: ignore[misc]
            assert pa.Table.from_batches(found).to_pylist() == table.select(wanted).to_pylist()
