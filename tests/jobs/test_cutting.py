"""Rows are cut into parts without a gap or an overlap."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanograd.errors import Reason, UnreadableError
from nanograd.images.columns import Columns, ImageColumn, ImageKind
from nanograd.images.inputs import InputFile
from nanograd.images.scan import ScannedFile
from nanograd.jobs.part import cut, group, part_id, plan_parts, wanted_rows

GROUPS = [[], [0], [2499], [50_000, 50_000, 7], [7] * 1000, [193, 1_000_000, 0, 5]]


@pytest.mark.parametrize("all_rows", [0, 10_000, 10_000_000])
@pytest.mark.parametrize("groups", GROUPS, ids=str)
def test_pieces_have_no_gap_or_overlap(groups, all_rows):
    pieces = list(cut(groups, wanted_rows(all_rows)))

    ends = [0, *(piece.first_row + piece.num_rows for piece in pieces)]
    assert [piece.first_row for piece in pieces] == ends[:-1]
    assert ends[-1] == sum(groups)
    for piece in pieces:
        assert piece.first_row == sum(groups[: piece.row_groups[0]]) + piece.skip
        assert ends[-1] == 0 or piece.num_rows > 0 or groups[-1] == 0
        assert piece.skip + piece.num_rows <= sum(groups[slice(*piece.row_groups)])


@pytest.mark.parametrize(
    ("groups", "all_rows", "num_bytes", "sizes"),
    [
        ([10_000], 10_000, 0, [2500] * 4),
        ([60_000], 60_000, 0, [7500] * 8),
        ([10_000], 1_000_000, 0, [10_000]),
        ([1_000_000], 1_000_000, 0, [125_000] * 8),
        ([100] * 100, 10_000, 0, [2500] * 4),
        ([60_000] * 2, 10_000_000, 0, [60_000] * 2),
        ([3000], 3000, 4_500_000_000, [375] * 8),
        ([100] * 30, 3000, 4_500_000_000, [200] * 15),
        ([100] * 30, 3000, 1_000_000_000, [800, 800, 800, 600]),
        ([3], 3, 10**12, [1, 1, 1]),
        ([0], 0, 10**12, [0]),
        ([10_000], 10_000, 8_000_000, [2500] * 4),
    ],
)
def test_size_of_pieces_follows_from_the_job_the_row_groups_and_the_bytes(
    groups, all_rows, num_bytes, sizes
):
    pieces = cut(groups, wanted_rows(all_rows), num_bytes)

    assert [piece.num_rows for piece in pieces] == sizes


def scanned(number: int, num_rows: int) -> ScannedFile:
    """Describe a file of so many rows; of one that cannot be read for -1."""
    file = InputFile(f"{number:06d}", 1, 1)
    if num_rows < 0:
        return ScannedFile(file, rejected=UnreadableError(Reason.BROKEN_FILE, ""))
    columns = Columns(ImageColumn(ImageKind.ENCODED, ("image",)), None)
    return ScannedFile(file, group_rows=(num_rows,), num_bytes=784 * num_rows, columns=columns)


@given(
    st.lists(st.sampled_from([-1, 0, 1, 10, 2499, 10_000]), max_size=150), st.integers(0, 200_000)
)
def test_every_row_is_in_one_part_and_a_limit_takes_the_first(sizes, most):
    files = [scanned(number, num_rows) for number, num_rows in enumerate(sizes)]

    parts = list(plan_parts([], group(files)))
    limited = list(plan_parts([], group(files), most))

    rows = [
        (place, rows.first_row)
        for part in parts
        for place, rows in zip(part.files, part.ranges, strict=True)
    ]
    all_rows = sum(max(n, 0) for n in sizes)
    assert sorted({place for place, _ in rows}) == [each.file.place for each in files]
    assert len(set(rows)) == len(rows)
    assert sum(part.num_rows for part in parts) == all_rows
    assert all(len(part.files) == 1 for part in parts if part.rejection)
    assert len({part.name for part in parts}) == len({part.id for part in parts}) == len(parts)
    assert sum(part.num_rows for part in limited) == min(most, all_rows)


@pytest.mark.parametrize(("num_files", "most"), [(64, 64), (65, 1), (10_000, 40)])
def test_small_files_share_parts_where_there_are_many(num_files, most):
    parts = list(group([scanned(number, 10) for number in range(num_files)]))

    assert len(parts) <= most


@pytest.mark.parametrize(("sizes", "rows"), [([10] * 30, 25), ([10_000], 100), ([7, 7, 2500], 7)])
def test_rows_per_file_decide_the_size_of_parts(sizes, rows):
    files = [scanned(number, num_rows) for number, num_rows in enumerate(sizes)]

    parts = [sum(each.num_rows for _, each in part) for part in group(files, rows)]

    assert sum(parts) == sum(sizes)
    assert max(parts) <= max(rows + 10, max(sizes) // 8 + 1)


def test_files_of_an_earlier_part_are_not_mixed_with_others():
    files = [scanned(number, 10) for number in range(300)]
    places = [file.file.place for file in files]

    parts = list(group(files, None, [places[3:6], places[250:]]))

    found = [[each.file.place for each, _ in part] for part in parts]
    assert places[3:6] in found
    assert places[250:] in found
    assert sorted(place for part in found for place in part) == places


def test_part_ids_are_short_and_tell_their_ingredients_apart():
    ids = {part_id("a", 1), part_id("a", 2), part_id("a1"), part_id("a", 1, ""), part_id("1", "a")}

    assert len(ids) == 5
    assert all(len(id_) == 16 for id_ in ids)
