import numpy as np
import pytest
from numpy.typing import NDArray

from nanograd.digits import variants as module
from nanograd.digits.form import are_mnist_like
from nanograd.digits.variants import (
    Variant,
    add_variants,
    draw,
    draw_variants,
    num_variants,
    variants,
)

IN_TURN = variants()
NUM_SHAPES = len(IN_TURN)
# Draws of width, slant, pen, its change, waves and phase: an upright digit, a thin even pen.
PLAIN = [0.5, 0.5, 0.1, 0.0, 0.0, 0.0]


def images_of(shape: Variant, *draws: float) -> NDArray[np.uint8]:
    """Draw a shape, the points in the middle of their ranges, with these last draws."""
    middle = np.full(2 * len(shape.least), 0.5)
    return draw(shape, np.array([[*middle, *draws]])).reshape(28, 28)


def test_each_position_of_the_pen_is_a_mean_of_points():
    for shape in IN_TURN:
        np.testing.assert_allclose(shape.path.sum(axis=1), 1)
        assert (np.abs(shape.path).max(axis=0) > 0.8).all()  # the pen passes each point closely
        assert (shape.least <= shape.most).all()
    assert {shape.digit for shape in IN_TURN} == set(range(10))


def test_line_turns_at_its_points_and_curve_passes_smoothly():
    corner = [[0, 0], [1, 0], [1, 1]]

    line = module.parse("seven-new", lines=[corner])
    curve = module.parse("seven-new", curves=[corner])

    straight, bent = (each.path @ each.least for each in (line, curve))
    assert (np.isclose(straight[:, 0], 1) | np.isclose(straight[:, 1], 0)).all()
    turns = [np.diff(np.unwrap(np.arctan2(*np.diff(path, axis=0).T))) for path in (straight, bent)]
    assert np.abs(turns[0]).max() > 0.7
    assert np.abs(turns[1]).max() < 0.2
    np.testing.assert_allclose(bent[[0, -1]], [[0, 0], [1, 1]], atol=1e-12)


@pytest.mark.parametrize(
    ("lines", "rows", "columns"),
    [([[[0, 0], [0, 1]]], 20, 3), ([[[0, 0], [1, 0]]], 3, 20), ([[[0, 0], [1, 1]]], 20, 20)],
)
def test_longest_side_is_twenty(lines, rows, columns):
    image = images_of(module.parse("one-new", lines=lines, width=(1, 1)), *PLAIN)

    assert (image.any(axis=1).sum(), image.any(axis=0).sum()) == (rows, columns)


def test_slant_moves_the_top_to_the_left_or_to_the_right():
    one = module.parse("one-new", lines=[[[0, 0], [0, 1]]])

    top, middle = (
        [images_of(one, 0.5, slant, *PLAIN[2:])[rows].sum(axis=0).argmax() for slant in (0, 1)]
        for rows in (slice(5, 8), slice(13, 15))
    )
    assert top[0] < middle[0] and middle[1] < top[1]


def test_drawings_have_mnists_form_and_follow_from_seed_and_position():
    drawn, other = draw_variants(34 * NUM_SHAPES, 3), draw_variants(3 * NUM_SHAPES, 4)

    for number in (1, 7, NUM_SHAPES + 1):  # fewer than are drawn at once
        assert draw_variants(number, 3).sha256() == drawn.take(slice(number)).sha256()
    known = {image.tobytes() for image in (*drawn.images, *other.images)}
    assert len(known) == len(drawn) + len(other)
    # Where nearly all ink is on one side, the frame stops the centre of mass before the middle.
    assert are_mnist_like(drawn.images).mean() > 0.998


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5])
def test_share_of_drawings_is_added_and_nothing_changed(sample, share):
    digits = sample.train
    assert add_variants(digits.take(slice(0)), share, 0).images.shape == (0, 784)

    more = add_variants(digits, share, 3)

    assert len(more) == len(digits) + num_variants(len(digits), share)
    assert more.take(slice(len(digits))).sha256() == digits.sha256()
    shapes = np.array([shape.digit for shape in IN_TURN])
    expected = np.resize(shapes, num_variants(len(digits), share))
    np.testing.assert_array_equal(more.labels[len(digits) :], expected)
