import pytest

from nanograd.batch.scan import cut

GROUPS = [[], [0], [1], [2499], [10_000], [50_000, 50_000, 7], [7] * 1000, [193, 1_000_000, 0, 5]]


@pytest.mark.parametrize("all_rows", [0, 10_000, 10_000_000])
@pytest.mark.parametrize("groups", GROUPS, ids=str)
def test_pieces_have_no_gap_or_overlap(groups: list[int], all_rows: int) -> None:
    pieces = list(cut(groups, all_rows))

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
    assert [piece.num_rows for piece in cut(groups, all_rows)] == sizes
