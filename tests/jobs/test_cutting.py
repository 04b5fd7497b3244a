import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanograd.errors import Origin, Reason, Rejected
from nanograd.images.inputs import InputFile
from nanograd.images.scan import ScannedFile
from nanograd.jobs.cutting import cut, group, limit, wanted_rows

GROUPS = [[], [0], [1], [2499], [10_000], [50_000, 50_000, 7], [7] * 1000, [193, 1_000_000, 0, 5]]


@pytest.mark.parametrize("all_rows", [0, 10_000, 10_000_000])
@pytest.mark.parametrize("groups", GROUPS, ids=str)
def test_pieces_have_no_gap_or_overlap(groups: list[int], all_rows: int) -> None:
    pieces = list(cut(groups, wanted_rows(all_rows)))

    ends = [0, *(piece.first_row + piece.num_rows for piece in pieces)]
    assert [piece.first_row for piece in pieces] == ends[:-1]
    assert ends[-1] == sum(groups)
    for piece in pieces:
        assert piece.first_row == sum(groups[: piece.row_groups[0]]) + piece.skip
        assert ends[-1] == 0 or piece.num_rows > 0 or groups[-1] == 0
        assert piece.skip + piece.num_rows <= sum(groups[slice(*piece.row_groups)])


@pytest.mark.parametrize(
    ("groups", "all_rows", "sizes"),
    [
        ([10_000], 10_000, [2500] * 4),
        ([60_000], 60_000, [7500] * 8),
        ([10_000], 1_000_000, [10_000]),
        ([1_000_000], 1_000_000, [125_000] * 8),
        ([100] * 100, 10_000, [2500] * 4),
        ([60_000] * 2, 10_000_000, [60_000] * 2),
    ],
)
def test_size_of_pieces_follows_from_the_job_and_the_row_groups(
    groups: list[int], all_rows: int, sizes: list[int]
) -> None:
    assert [piece.num_rows for piece in cut(groups, wanted_rows(all_rows))] == sizes


@pytest.mark.parametrize(
    ("groups", "num_bytes", "sizes"),
    [
        ([3000], 4_500_000_000, [375] * 8),
        ([100] * 30, 4_500_000_000, [200] * 15),
        ([100] * 30, 1_000_000_000, [800, 800, 800, 600]),
        ([3], 10**12, [1, 1, 1]),
        ([0], 10**12, [0]),
        ([10_000], 8_000_000, [2500] * 4),
    ],
)
def test_large_rows_make_smaller_pieces(
    groups: list[int], num_bytes: int, sizes: list[int]
) -> None:
    assert [piece.num_rows for piece in cut(groups, wanted_rows(sum(groups)), num_bytes)] == sizes


def scanned(number: int, num_rows: int) -> ScannedFile:
    """Describe a file of so many rows; of one that cannot be read for -1."""
    file = InputFile(f"{number:06d}", 1, 1)
    if num_rows < 0:
        return ScannedFile(file, rejected=Rejected(Origin("a", None), Reason.BROKEN_FILE, ""))
    return ScannedFile(file, pa.schema([]), (num_rows,), num_bytes=784 * num_rows)


@given(
    st.lists(st.sampled_from([-1, 0, 1, 10, 2499, 10_000]), max_size=150), st.integers(0, 200_000)
)
def test_every_row_is_in_one_part_and_a_limit_takes_the_first(sizes: list[int], most: int) -> None:
    files = [scanned(number, num_rows) for number, num_rows in enumerate(sizes)]

    parts = list(group(files))
    limited = list(limit(group(files), most))

    rows = [(each.file.place, rows.first_row) for part in parts for each, rows in part]
    assert sorted({place for place, _ in rows}) == [each.file.place for each in files]
    assert len(set(rows)) == len(rows)
    assert sum(rows.num_rows for part in parts for _, rows in part) == sum(max(n, 0) for n in sizes)
    assert all(len(part) == 1 for part in parts if any(each.rejected for each, _ in part))
    taken = sum(rows.num_rows for part in limited for _, rows in part)
    assert taken == min(most, sum(max(n, 0) for n in sizes))


@pytest.mark.parametrize(("num_files", "most"), [(64, 64), (65, 1), (5000, 20), (100_000, 65)])
def test_small_files_share_parts_where_there_are_many(num_files: int, most: int) -> None:
    parts = list(group([scanned(number, 10) for number in range(num_files)]))

    assert len(parts) <= most


@pytest.mark.parametrize(("sizes", "rows"), [([10] * 30, 25), ([10_000], 100), ([7, 7, 2500], 7)])
def test_rows_per_file_decide_the_size_of_parts(sizes: list[int], rows: int) -> None:
    files = [scanned(number, num_rows) for number, num_rows in enumerate(sizes)]

    parts = [sum(each.num_rows for _, each in part) for part in group(files, rows)]

    assert sum(parts) == sum(sizes)
    assert max(parts) <= max(rows + 10, max(sizes) // 8 + 1)


def test_files_of_an_earlier_part_are_not_mixed_with_others() -> None:
    files = [scanned(number, 10) for number in range(300)]
    places = [file.file.place for file in files]

    parts = list(group(files, None, [places[3:6], places[250:]]))

    found = [[each.file.place for each, _ in part] for part in parts]
    assert places[3:6] in found
    assert places[250:] in found
    assert sorted(place for part in found for place in part) == places
