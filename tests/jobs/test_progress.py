from collections.abc import Iterator

from nanograd.jobs.job import Job, ProgressMeter
from nanograd.jobs.part import Part
from nanograd.jobs.receipts import Receipt
from nanograd.runtime.events import Event, JobProgress, ignore
from tests.helpers.jobs import receipt_of


def receipts(num_parts: int) -> Iterator[Receipt]:
    """Parts of 100 rows, one of them bad."""
    for number in range(num_parts):
        yield receipt_of(Part(id=str(number), files=(), num_rows=100), quarantined=1)


def job_of(num_parts: int) -> Job:
    parts = [Part(id=str(number), files=(), num_rows=100) for number in range(num_parts)]
    return Job(output="", identity={"command": "predict"}, parts=parts, overwrite=False)


def progress(
    seconds_per_part: float, *, parts: int = 10, done_before: int = 0, waited: float = 0.0
) -> list[JobProgress]:
    """The progress of a job whose parts take so long, its start aside."""
    events: list[Event] = []
    now = [0.0]
    meter = ProgressMeter(job_of(parts), events.append, clock=lambda: now[0])
    meter.start(list(receipts(done_before)))
    now[0] += waited
    for receipt in receipts(parts - done_before):
        now[0] += seconds_per_part
        meter.add(receipt, seconds_per_part)
    return [event for event in events[1:] if isinstance(event, JobProgress)]


def test_each_part_adds_its_rows() -> None:
    events = progress(0.25)

    assert [event.row for event in events] == list(range(100, 1001, 100))
    assert [event.quarantined for event in events] == list(range(1, 11))
    assert [event.complete for event in events] == [False] * 9 + [True]


def test_time_left_follows_from_the_speed_so_far() -> None:
    assert [event.left_s for event in progress(2.5)] == [22.5 - 2.5 * part for part in range(10)]


def test_rows_and_time_before_the_first_part_do_not_count_for_the_speed() -> None:
    events = progress(5, done_before=8, waited=7)

    assert [event.row for event in events] == [900, 1000]
    assert [event.rows_per_s for event in events] == [20, 20]


def test_clock_that_stands_still_divides_by_no_zero() -> None:
    assert [event.rows_per_s for event in progress(0, parts=1)] == [100_000]


def test_running_phase_begins_with_the_earliest_part() -> None:
    meter = ProgressMeter(job_of(3), ignore, clock=lambda: 20.0)
    idle = meter.running()
    for receipt, seconds in zip(receipts(2), [2.0, 5.0], strict=True):
        meter.add(receipt, seconds)

    assert idle == (0, 20.0, 20.0)
    assert meter.running() == (200, 15.0, 20.0)
