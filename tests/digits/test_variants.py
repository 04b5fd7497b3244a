from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from nanograd.data.mnist import Mnist
from nanograd.digits.form import are_mnist_like, centre_of_mass
from nanograd.digits.variants import add_flag, add_tail, add_variants, draw_four, num_variants

Image = NDArray[np.uint8]
BLANK = np.zeros((28, 28), np.uint8)
MIDDLING = np.full(7, 0.5)
FOOTED = np.array([0.5, 0.5, 0.5, 0.1, 0.5, 0.5, 0.5])
_ANY = st.floats(0, 0.999)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5])
def test_share_of_ones_fours_and_nines_is_added_and_nothing_changed(
    sample: Mnist, share: float
) -> None:
    digits = sample.train

    more = add_variants(digits, share, 3)

    assert len(more) == len(digits) + num_variants(digits, share)
    assert more.take(slice(len(digits))).sha256() == digits.sha256()
    added = np.bincount(more.labels[len(digits) :], minlength=10)
    expected = np.round(share * np.bincount(digits.labels, minlength=10))
    np.testing.assert_array_equal(added, np.where(np.isin(np.arange(10), (1, 4, 9)), expected, 0))


def test_added_digits_differ_from_all_originals(sample: Mnist) -> None:
    added = add_variants(sample.train, 0.3, 3).images[len(sample.train) :]

    known = {image.tobytes() for image in sample.train.images}
    assert not any(image.tobytes() in known for image in added)


def test_variants_follow_from_the_seed(sample: Mnist) -> None:
    first, again, other = (add_variants(sample.train, 0.5, seed).sha256() for seed in (1, 1, 2))

    assert first == again != other


def test_larger_share_adds_to_the_smaller_one(sample: Mnist) -> None:
    some, more = (
        {image.tobytes() for image in add_variants(sample.train, share, 1).images}
        for share in (0.2, 0.6)
    )

    assert some < more


def test_no_digits_have_no_variants(sample: Mnist) -> None:
    assert add_variants(sample.train.take(slice(0)), 0.5, 0).images.shape == (0, 784)


@pytest.mark.parametrize("digit", [1, 4, 9])
def test_redrawn_digits_are_centred(sample: Mnist, digit: int) -> None:
    digits = sample.train.take(np.flatnonzero(sample.train.labels == digit))

    images = add_variants(digits, 0.99, 0).images[len(digits) :].reshape(-1, 28, 28)

    centres = np.array([centre_of_mass(image) for image in images])
    # A digit with a speck beside it may reach the frame.
    assert np.mean(np.abs(centres - 14) <= 0.6) > 0.98
    assert (images.max(axis=(1, 2)) > 200).all()


@pytest.mark.parametrize("rows", [(0, -1), (0, 0), (0, 1), (12, 14), (27, 27), (11, 15)])
def test_blank_image_dot_or_dash_is_returned_unchanged(rows: tuple[int, int]) -> None:
    image = BLANK.copy()
    image[rows[0] : rows[1] + 1, 10:13] = 255

    for redraw, num_draws in ((add_flag, 7), (add_tail, 2)):
        np.testing.assert_array_equal(redraw(image, np.full(num_draws, 0.5)), image)


def bar() -> Image:
    image = BLANK.copy()
    image[4:24, 13:16] = 255
    return image


def test_flag_hangs_to_the_left_of_the_upper_end() -> None:
    image = add_flag(bar(), MIDDLING)

    upper, lower = (np.flatnonzero(rows.max(axis=0) > 127) for rows in (image[:14], image[15:]))
    assert upper.min() <= lower.min() - 3
    assert upper.max() <= lower.max() + 1


def test_flag_that_starts_lower_may_be_level() -> None:
    image = add_flag(bar(), np.array([0.5, 0.99, 0.5, 0.5, 0.5, 0.5, 0.99]))

    rows = np.flatnonzero(image.max(axis=1) > 127)
    left = np.flatnonzero((image[:, : np.flatnonzero(image[rows[0]] > 127)[0]] > 127).any(axis=1))
    assert 0.2 <= (left[0] - rows[0]) / len(rows) <= 0.35
    assert left[-1] - left[0] <= 4


@pytest.mark.parametrize("draw", [MIDDLING, FOOTED])
def test_foot_reaches_to_both_sides_of_some_ones(draw: NDArray[np.float64]) -> None:
    image = add_flag(bar(), draw)

    bottom = np.flatnonzero(image.max(axis=1) > 127)[-1]
    stem, foot = (np.flatnonzero(image[row] > 127) for row in (bottom - 8, bottom - 1))
    footed = draw is FOOTED
    assert (foot.min() <= stem.min() - 3) == (foot.max() >= stem.max() + 3) == footed


def rows_of_four(draw: list[float], drop: float) -> list[NDArray[np.bool_]]:
    """The rows with ink of a four whose stem starts there."""
    image = draw_four(BLANK, np.array([*draw[:4], drop, *draw[4:]]))
    assert are_mnist_like(image.reshape(1, 784)).all()
    return [row for row in image > 127 if row.any()]


@given(st.lists(_ANY, min_size=6, max_size=6), _ANY)
def test_four_has_mnists_form_and_a_stroke_down_to_the_left_end_of_its_bar(
    draw: list[float], drop: float
) -> None:
    leftmost = [np.flatnonzero(row)[0] for row in rows_of_four(draw, drop)]

    bar = int(np.argmin(leftmost))
    assert bar / len(leftmost) >= 0.3
    assert all(below <= above for above, below in pairwise(leftmost[: bar + 1]))


@pytest.mark.parametrize(("drop", "crosses"), [(0.0, False), (0.9, True)])
def test_stem_of_four_starts_at_the_top_or_crosses_the_bar(drop: float, crosses: bool) -> None:
    rows = rows_of_four([0.5, 0.5, 0.5, 0.5, 0.1, 0.2], drop)

    strokes = [(np.diff(row.astype(int)) == 1).sum() for row in (rows[0], rows[9])]
    assert strokes == [1, 2]
    assert (np.flatnonzero(rows[0])[-1] < np.flatnonzero(rows[9])[-1] - 2) == crosses


def nine() -> Image:
    """A square loop and a stem on its right."""
    image = BLANK.copy()
    image[4:14, 8:18] = 255
    image[7:11, 11:15] = 0
    image[4:24, 15:18] = 255
    return image


@pytest.mark.parametrize("reach", [0.0, 0.9])
def test_tail_extends_to_the_left_at_the_lower_end(reach: float) -> None:
    image = add_tail(nine(), np.array([reach, 0.25]))

    rows = np.flatnonzero((image > 127).any(axis=1))
    stem, tail = (np.flatnonzero(image[row] > 127) for row in (rows[-1] - 7, rows[-1] - 1))
    assert 3 <= stem.min() - tail.min() <= 0.7 * len(rows)
    assert (stem.min() - tail.min() > 7) == (reach > 0.5)
    assert tail.max() <= stem.max() + 1


def test_tail_may_rise() -> None:
    level, risen = (add_tail(nine(), np.array([0.9, rise])) for rise in (0.2, 0.99))

    ends = [
        np.flatnonzero(image[:, np.flatnonzero((image[16:] > 127).any(axis=0))[0]][16:] > 127)
        for image in (level, risen)
    ]
    assert ends[1].max() < ends[0].max()
