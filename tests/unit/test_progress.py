from collections.abc import Iterator

from nanograd.batch.progress import Progress


def receipts(num_parts: int) -> Iterator[dict[str, int]]:
    """Parts of 100 rows, one of them bad."""
    for _ in range(num_parts):
        yield {"rows": 100, "quarantined": 1}


def told(
    seconds_per_part: float, *, parts: int = 10, done_before: int = 0, waited: float = 0.0
) -> list[str]:
    """What is said of a job whose parts take so long."""
    lines: list[str] = []
    now = [0.0]
    progress = Progress(parts, 100 * parts, lines.append, clock=lambda: now[0])
    for receipt in receipts(done_before):
        progress.start_from(receipt)
    now[0] += waited
    for receipt in receipts(parts - done_before):
        now[0] += seconds_per_part
        progress.add(receipt, seconds_per_part)
    return lines


def test_short_job_says_one_line_at_its_end() -> None:
    assert told(0.25) == ["part 10/10  1,000 of 1,000 rows  400 rows/s  10 quarantined"]


def test_long_job_says_a_line_every_five_seconds_with_the_time_left() -> None:
    assert told(2.5) == [
        "part 2/10  200 of 1,000 rows  40 rows/s  2 quarantined  20 s left",
        "part 4/10  400 of 1,000 rows  40 rows/s  4 quarantined  15 s left",
        "part 6/10  600 of 1,000 rows  40 rows/s  6 quarantined  10 s left",
        "part 8/10  800 of 1,000 rows  40 rows/s  8 quarantined  5 s left",
        "part 10/10  1,000 of 1,000 rows  40 rows/s  10 quarantined",
    ]


def test_rows_of_an_earlier_command_count_but_not_for_the_speed() -> None:
    assert told(5, done_before=8) == [
        "part 9/10  900 of 1,000 rows  20 rows/s  9 quarantined  5 s left",
        "part 10/10  1,000 of 1,000 rows  20 rows/s  10 quarantined",
    ]


def test_job_whose_clock_stands_still_has_a_speed_all_the_same() -> None:
    assert told(0, parts=1) == ["part 1/1  100 of 100 rows  100,000 rows/s  1 quarantined"]


def test_time_before_the_first_part_does_not_count_for_the_speed() -> None:
    assert told(2.5, parts=1, waited=7)[-1:] == [
        "part 1/1  100 of 100 rows  40 rows/s  1 quarantined"
    ]


def test_running_phase_begins_with_the_part_that_was_begun_first() -> None:
    progress = Progress(3, 300, lambda line: None, clock=lambda: 20.0)
    idle = progress.running()
    for receipt, seconds in zip(receipts(2), [2.0, 5.0], strict=True):
        progress.add(receipt, seconds)

    assert idle == (0, 20.0, 20.0)
    assert progress.running() == (200, 15.0, 20.0)
