"""Reading rows while the storage fails, or memory is short."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nanograd.errors import DataError, Rejection, StorageError
from nanograd.runtime import storage
from nanograd.tables import files
from nanograd.tables.files import RowRange, open_parquet, read_rows

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
    monkeypatch.setattr(files, "_READ_BYTES", 1 << 13)
    return lambda disk: monkeypatch.setattr(storage, "open_file", disk.open_file)


def read(file: str) -> tuple[list[int], list[Rejection]]:
    ids, rejections = list[int](), list[Rejection]()
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
    whole = -(-Path(file).stat().st_size // files._READ_BYTES) + 1

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
    assert {each.reason for each in rejections} == {"broken_file"}


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
