"""Reading rows while the storage fails, or memory is short."""

import csv
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from nanograd.errors import DataError, StorageError
from nanograd.images import parquet
from nanograd.images.columns import is_binary
from nanograd.images.csv import CsvFile
from nanograd.images.parquet import RowRange, open_parquet
from nanograd.images.reader import read_rows
from nanograd.images.tensors import Refused
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
        disk, file = self, Path(place).open("rb")  # noqa: SIM115 - closed by the reader

        class File:
            closed = False

            def read(self, size: int = -1) -> bytes:
                disk.num_reads += 1
                if any(disk.num_reads in each for each in disk._failing):
                    raise disk._error
                return file.read(size)

            def seek(self, *where: int) -> int:
                return file.seek(*where)

            def tell(self) -> int:
                return file.tell()

            def close(self) -> None:
                file.close()

        return pa.PythonFile(File(), mode="r")


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


def read(file: str) -> tuple[list[int], list[Refused]]:
    ids, rejections = list[int](), list[Refused]()
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


def test_disk_that_fails_once_or_for_a_while_loses_no_row(
    file: str, use: Callable[[FailingDisk], None]
) -> None:
    num_reads = count_reads(file, use)

    for first in range(1, num_reads + 1):
        for length in (1, 2, 3, 7):
            use(FailingDisk(range(first, first + length)))
            try:
                found = read(file)
            except StorageError:
                continue
            assert found == (list(range(NUM_ROWS)), []), (first, length)


def test_disk_that_fails_again_in_the_careful_pass_quarantines_nothing(
    file: str, use: Callable[[FailingDisk], None]
) -> None:
    num_reads = count_reads(file, use)
    whole = -(-Path(file).stat().st_size // parquet.READ_BYTES) + 1

    for second in range(num_reads // 2 + 1, num_reads // 2 + 2 * whole, 3):
        use(FailingDisk(range(num_reads // 2, num_reads // 2 + 1), range(second, second + 1)))
        try:
            found = read(file)
        except StorageError:
            continue
        assert found == (list(range(NUM_ROWS)), []), second


def test_damaged_page_loses_the_rest_of_its_row_group_whatever_the_disk_does(
    file: str, use: Callable[[FailingDisk], None]
) -> None:
    group = pq.read_metadata(file).row_group(1).column(1)
    data = bytearray(Path(file).read_bytes())
    data[group.data_page_offset + 3 * group.total_compressed_size // 4] ^= 1
    Path(file).write_bytes(data)
    use(FailingDisk())

    ids, rejections = read(file)

    assert ids == [*range(ids[-1 - 2 * GROUP_ROWS] + 1), *range(2 * GROUP_ROWS, NUM_ROWS)]
    assert len(ids) + len(rejections) == NUM_ROWS
    assert 0 < len(rejections) < GROUP_ROWS
    assert {reason for _, reason, _ in rejections} == {"broken_file"}


def test_disk_that_stays_broken_is_a_storage_error(
    file: str, use: Callable[[FailingDisk], None]
) -> None:
    num_reads = count_reads(file, use)

    for first in (1, 2, num_reads // 2, num_reads):
        use(FailingDisk(range(first, 10**9)))
        with pytest.raises(
            StorageError, match=r"cannot read .*rows\.parquet: .*Input/output error"
        ):
            read(file)


def test_lack_of_memory_is_no_damage(file: str, use: Callable[[FailingDisk], None]) -> None:
    num_reads = count_reads(file, use)
    once, always = range(num_reads // 2, num_reads // 2 + 1), range(num_reads // 2, 10**9)

    use(FailingDisk(once, error=MemoryError("malloc of 4 GB failed")))
    found = read(file)
    use(FailingDisk(always, error=MemoryError("malloc of 4 GB failed")))
    with pytest.raises(StorageError, match=r"not enough memory.*fewer --workers"):
        read(file)

    assert found == (list(range(NUM_ROWS)), [])


def test_footer_is_read_again_before_a_file_counts_as_broken(
    file: str, use: Callable[[FailingDisk], None], tmp_path: Path
) -> None:
    use(FailingDisk(range(1, 2)))
    footer = open_parquet(file).metadata
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"no parquet")

    assert footer.num_rows == NUM_ROWS
    with pytest.raises(DataError, match="is not a complete Parquet file"):
        open_parquet(str(broken))


Line = tuple[
    str | None, bytes | None, str
]  # a pixel and the text of a line, or what is wrong with it


def read_csv(place: Path, lines: list[bytes]) -> list[Line]:
    """Read one line after another, each as pixel783 and note."""
    header = ",".join([*FLAT_NAMES["pixel0"], "note"]).encode()
    place.write_bytes(b"\n".join([header, *(b"0," * 783 + line for line in lines)]))
    found: list[Line] = []
    rows = RowRange((0, 1), 0, 0, len(lines))
    for part in read_rows(str(place), rows, lambda _: ["pixel783", "note"]):
        if isinstance(part, pa.RecordBatch):
            pixels = part["pixel783"].cast(pa.float64()).to_pylist()
            notes = part["note"].cast(pa.binary()).to_pylist()
            found += [(str(pixel), note, "") for pixel, note in zip(pixels, notes, strict=True)]
        else:
            assert [row for row, _, _ in part] == list(range(len(part)))
            found += [(None, None, detail) for _, _, detail in part]
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
def test_each_line_of_csv_is_read_as_if_it_were_alone(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes]
) -> None:
    assume(sum(b'"' in line for line in lines) < 2)  # quotes may join lines
    place = tmp_path_factory.getbasetemp() / "lines.csv"

    found = read_csv(place, lines)

    assert found == [each for line in lines for each in read_csv(place, [line])]
    assert not any("Arrow" in why or "CSV" in why for _, _, why in found)


NOTES = st.lists(st.text(st.sampled_from('\n\r",a '), max_size=6), min_size=1, max_size=7)


@example(["\r\n", "a", "\n" * 5000], "\n", 1)
@settings(max_examples=50)
@given(NOTES, st.sampled_from(["\n", "\r\n"]), st.integers(0, 3))
def test_text_with_line_breaks_is_read_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, notes: list[str], ends: str, skip: int
) -> None:
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
    ("lines", "rows"),
    [
        ([b'1,"a', b'2,b"', b"3,c"], ["1.0", "3.0"]),  # one value goes on
        ([b'1,"a', b'2,b"x', b"3,c"], [None, "2.0", "3.0"]),  # text after the end of a value
        ([b'1,"a', b"2,b", b'3,c",4', b"5,d"], [None, "2.0", None, "5.0"]),  # a value too many
        ([b'1,"a', b"2,b", b'3,"c', b'4,d"'], [None, "2.0", "3.0"]),
    ],
)
def test_quote_that_no_value_needs_takes_no_other_line_with_it(
    lines: list[bytes], rows: list[str | None], tmp_path: Path
) -> None:
    place = tmp_path / "a.csv"
    header = ",".join([*FLAT_NAMES["pixel0"], "note"]).encode()
    place.write_bytes(b"\n".join([header, *(b"0," * 783 + line for line in lines)]))

    found: list[str | None] = []
    for part in read_rows(str(place), RowRange((0, 1), 0, 0, len(rows)), lambda _: ["pixel783"]):
        if isinstance(part, pa.RecordBatch):
            found += [str(float(each)) for each in part["pixel783"].to_pylist()]
        else:
            found += [None] * len(part)

    assert found == rows


@pytest.mark.parametrize(
    ("cell", "detail"),
    [
        (b" ", "a pixel is null"),
        (b'"\t"', "a pixel is null"),
        (b' "5"', "a pixel is ' \"5\"', not a number"),
        (b"\f5", "a pixel is '\\x0c5', not a number"),
        (b'5, "a, b"', "the line has 787 values, and not 785"),
    ],
)
def test_cell_that_arrow_refuses_takes_no_other_line_with_it(
    cell: bytes, detail: str, tmp_path: Path
) -> None:
    lines = [b"%d,a" % number for number in range(200)]
    lines[3] = cell + b",a"

    found = read_csv(tmp_path / "a.csv", lines)

    assert found[3] == (None, None, detail)
    assert [pixel for pixel, _, _ in found[4:]] == [f"{number}.0" for number in range(4, 200)]


def test_line_is_lost_alone_also_if_arrow_alone_refuses_it(tmp_path: Path) -> None:
    lines = [b"1,a"] * 57
    lines[3] = lines[40] = b"+0x1,a"

    found = read_csv(tmp_path / "a.csv", lines)

    detail = "the line cannot be read as values separated by commas"
    assert [row for row, each in enumerate(found) if each == (None, None, detail)] == [3, 40]
    assert found.count(("1.0", b"a", "")) == 55


FIELDS = {
    "image.bytes": pa.binary(),
    "image.path": pa.string(),
    "id": pa.int64(),
    "image": PICTURE,
    "other": pa.struct([("a.b", pa.large_binary()), ("c", pa.list_(PICTURE))]),
    "other.a.b": pa.string(),
    "a.b": pa.dictionary(pa.int32(), pa.string()),
    "a": pa.struct([("x", pa.map_(pa.string(), pa.int8())), ("b", pa.binary())]),
}


@given(st.permutations(list(FIELDS)), st.sets(st.sampled_from(list(FIELDS)), min_size=1), st.data())
def test_columns_are_read_by_their_place_whatever_their_names(
    order: list[str], wanted: set[str], data: st.DataObject
) -> None:
    table = pa.table({name: pa.array(values_of(name), FIELDS[name]) for name in order})
    with TemporaryDirectory() as folder:
        place = f"{folder}/a.parquet"
        pq.write_table(table, place, row_group_size=data.draw(st.sampled_from([2, 5])))
        groups = pq.ParquetFile(place).metadata.num_row_groups

        names = [name for name in order if name in wanted]
        read = list(read_rows(place, RowRange((0, groups), 0, 0, 5), lambda _: names))

    assert pa.Table.from_batches(read).to_pylist() == table.select(names).to_pylist()


def values_of(name: str) -> list[Any]:
    """Values that show in which column they were, some of them null."""

    def value(type_: pa.DataType, path: str, row: int) -> Any:
        if row == 3:
            return None
        if pa.types.is_struct(type_):
            return {each.name: value(each.type, f"{path}/{each.name}", row) for each in type_}
        if pa.types.is_map(type_):
            return [(f"{path} key", row)]
        if pa.types.is_list(type_):
            return [value(type_.value_type, path, row)] * row
        text = f"{path} {row}"
        return row if pa.types.is_integer(type_) else text.encode() if is_binary(type_) else text

    return [value(FIELDS[name], name, row) for row in range(5)]
