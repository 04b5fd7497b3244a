"""Small jobs run in this process; Ray takes over what is left of large ones."""

from collections.abc import Iterable, Sequence

import pytest

from nanograd.batch import run_small
from nanograd.jobs.part import DonePart, Part, RunParts, Work
from nanograd.jobs.receipts import Receipt
from nanograd.runtime.events import Event
from tests.helpers.jobs import receipt_of


def parts_of(*rows: int) -> list[Part]:
    return [Part(id=f"{n:02d}", files=(f"file-{n}",), num_rows=each) for n, each in enumerate(rows)]


class Clocked:
    """Parts run here and on Ray; a row takes some time, by the clock of the test."""

    def __init__(self, row_s: float) -> None:
        self.row_s, self.here, self.there = row_s, list[str](), list[str]()
        self.starts, self.events = 0, list[Event]()

    def work(self, part: Part) -> Receipt:
        return receipt_of(part)

    def run_here(self, work: Work, part: Part) -> DonePart:
        self.here.append(part.id)
        return DonePart(work(part), self.row_s * part.num_rows)

    def start_ray(self) -> RunParts:
        self.starts += 1

        def run(parts: Sequence[Part]) -> Iterable[DonePart]:
            for part in parts:
                self.there.append(part.id)
                yield DonePart(self.work(part), 0.0)

        return run

    def pool(self) -> RunParts:
        return run_small(self.work, self.start_ray, self.events.append, self.run_here)


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
    clocked, parts = Clocked(row_s), parts_of(*rows)

    done = list(clocked.pool()(parts))

    assert [each.receipt.part for each in done] == [part.id for part in parts]
    assert clocked.here == [part.id for part in parts[:num_here]]
    assert clocked.there == [part.id for part in parts[num_here:]]
    assert clocked.starts == len(clocked.events) == (num_here < len(parts))
