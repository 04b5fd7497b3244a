from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nanograd.batch.progress import Progress
from nanograd.data.mnist import Mnist
from nanograd.runtime.events import Figures, Rate, ignore
from tests.helpers.runs import train

Shown = list[Figures]


def receipts(num_parts: int) -> Iterator[dict[str, int]]:
    """Parts of 100 rows, one of them bad."""
    for _ in range(num_parts):
        yield {"rows": 100, "quarantined": 1}


def shown(
    seconds_per_part: float, *, parts: int = 10, done_before: int = 0, waited: float = 0.0
) -> Shown:
    """What is shown of a job whose parts take so long."""
    figures: Shown = []
    now = [0.0]
    progress = Progress("predict", parts, 100 * parts, figures.append, clock=lambda: now[0])
    for receipt in receipts(done_before):
        progress.start_from(receipt)
    now[0] += waited
    for receipt in receipts(parts - done_before):
        now[0] += seconds_per_part
        progress.add(receipt, seconds_per_part)
    return figures


def column(figures: Shown, name: str) -> list[Any]:
    return [each[name] for each in figures]


def test_each_part_is_shown_with_what_it_adds() -> None:
    figures = shown(0.25)

    assert column(figures, "row") == list(range(100, 1001, 100))
    assert column(figures, "quarantined") == list(range(1, 11))
    assert column(figures, "complete") == [False] * 9 + [True]


def test_time_left_is_the_rest_at_the_speed_so_far() -> None:
    assert column(shown(2.5), "left_s") == [22.5 - 2.5 * part for part in range(10)]


def test_rows_of_an_earlier_command_count_but_not_for_the_speed() -> None:
    figures = shown(5, done_before=8)

    assert column(figures, "row") == [900, 1000]
    assert column(figures, "rows_per_s") == [20, 20]


def test_job_whose_clock_stands_still_has_a_speed_all_the_same() -> None:
    assert column(shown(0, parts=1), "rows_per_s") == [100_000]


def test_time_before_the_first_part_does_not_count_for_the_speed() -> None:
    assert column(shown(2.5, parts=1, waited=7), "rows_per_s") == [40]


def test_running_phase_begins_with_the_part_that_was_begun_first() -> None:
    progress = Progress("predict", 3, 300, ignore, clock=lambda: 20.0)
    idle = progress.running()
    for receipt, seconds in zip(receipts(2), [2.0, 5.0], strict=True):
        progress.add(receipt, seconds)

    assert idle == (0, 20.0, 20.0)
    assert progress.running() == (200, 15.0, 20.0)


def test_rate_forgets_what_is_long_ago() -> None:
    now = [0.0]
    rate = Rate(over_s=10.0, clock=lambda: now[0])
    found = []

    for second in range(41):
        now[0] = float(second)
        # Ten a second, from the middle on two.
        found.append(rate.at(10 * min(second, 20) + 2 * max(second - 20, 0)))

    assert found[0] == 0
    assert found[20] == 10
    assert 2 < found[25] < 10
    assert found[40] == 2


def test_run_shows_every_epoch_and_ends_complete(few_digits: Mnist, tmp_path: Path) -> None:
    figures: Shown = []

    train(few_digits, tmp_path / "run", show=figures.append, epochs=3, committee=2)

    progress = [each for each in figures if each["event"] == "progress"]
    epochs = [each for each in figures if each["event"] == "epoch"]
    rounds = column(progress, "round")
    assert rounds == sorted(rounds)
    assert rounds[-1] == progress[-1]["rounds"] == epochs[2]["round"] + epochs[-1]["round"]
    # 631 images three times in each net, and those that are redrawn
    images = column(progress, "image")
    assert images == sorted(images)
    assert 2 * 3 * 631 < images[-1] < 2 * 3 * 631 * 1.03
    assert column(progress, "complete") == [False] * (len(progress) - 1) + [True]
    assert [(each["net"], each["epoch"]) for each in epochs] == [
        (net, epoch) for net in (1, 2) for epoch in (1, 2, 3)
    ]
    assert progress[-1]["loss"] == epochs[-1]["loss"]
    assert progress[-1]["val_accuracy"] == epochs[-1]["val_accuracy"]
    assert set(progress[-1]["workers"].values()) == {"working"}
