"""Small jobs run in this process; Ray takes over what is left of large ones."""

from collections.abc import Iterable, Sequence

import pytest

from nanograd.batch import run_small
from nanograd.jobs.part import DonePart, Part, Work
from nanograd.runtime.events import Event
from tests.helpers.jobs import receipt_of


def parts_of(*rows: int) -> list[Part]:
    return [Part(id=f"{n:02d}", files=(f"file-{n}",), num_rows=each) for n, each in enumerate(rows)]


@pytest.mark.parametrize(
    ("row_s", "rows", "num_here"),
    [
        (0.01, [10] * 7, 7),
        (0.1, [10] * 19, 19),  # 19 s
        (0.1, [10] * 21, 2),  # 21 s; a second is measured first
        (3.0, [7], 1),  # nothing is left for Ray
        (30.0, [1, 1], 1),
        (0.01, [1, 5000], 2),  # the first part is too short to say anything
        (0.2, [0, 10, 0, 500, 0], 2),
        (0.2, [10, 10, 0, 0], 4),
        (0.1, [], 0),
    ],
)
def test_job_moves_to_ray_when_its_first_seconds_show_that_it_is_long(row_s, rows, num_here):
    here, there, events, parts = list[str](), list[str](), list[Event](), parts_of(*rows)

    def run_here(work: Work, part: Part) -> DonePart:
        here.append(part.id)
        return DonePart(work(part), row_s * part.num_rows)

    def run_there(parts: Sequence[Part]) -> Iterable[DonePart]:
        for part in parts:
            there.append(part.id)
            yield DonePart(receipt_of(part), 0.0)

    starts = [run_there]
    done = list(run_small(receipt_of, starts.pop, events.append, run_here)(parts))

    assert [each.receipt.part for each in done] == [part.id for part in parts]
    assert here == [part.id for part in parts[:num_here]]
    assert there == [part.id for part in parts[num_here:]]
    assert 1 - len(starts) == len(events) == (num_here < len(parts))
