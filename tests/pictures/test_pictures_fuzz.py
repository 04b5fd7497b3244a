from itertools import islice

import pytest

from tests.helpers.picture_fuzzer import files, run, target


def test_changed_files_are_read_or_refused_for_a_known_reason() -> None:
    outcomes = {target(data) for data in islice(files(seed=1), 400)}

    assert {"read", "broken_image", "blank"} <= outcomes


def test_changed_files_follow_from_the_seed() -> None:
    assert list(islice(files(seed=3), 20)) == list(islice(files(seed=3), 20))


@pytest.mark.soak
def test_changed_files_of_ten_minutes_are_read_or_refused() -> None:
    assert run(600, seed=2).total() > 10_000
