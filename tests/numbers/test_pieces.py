"""Lines of known text, divided into their digits."""

import tracemalloc

import numpy as np
import pytest
from PIL import Image, ImageDraw

from nanograd.api import load_model
from nanograd.images import sources
from nanograd.numbers.locate import Line
from nanograd.numbers.pieces import divide
from nanograd.numbers.seams import LINE
from nanograd.runtime.arrays import Floats


def line_of(ink: Floats) -> Line:
    """Return ink, (height, width) of 0 to 1, as a line in the middle of its rows."""
    top = (len(ink) - LINE) / 2
    return Line(ink.astype(np.float32), top, top + LINE, (0.0, 0.0), (1.0, 1.0), 0.0)


def strokes(*lines: list[tuple[int, int]]) -> Line:
    picture = Image.new("L", (120, 56))
    for line in lines:
        ImageDraw.Draw(picture).line(line, 255, 5, joint="curve")
    return line_of(np.asarray(picture) / 255)


ONE, TWO = [(20, 10), (20, 46)], [(90, 10), (90, 46)]
BAR = [(60, 28), (70, 28)]


def test_mark_between_digits_is_left_out_and_part_of_a_digit_is_not() -> None:
    near = [(28, 12), (34, 12)]

    pieces = divide(strokes(ONE, TWO, BAR, near), [1, 1], np.array([23.0, 90.0]), load_model())

    first, second = pieces.boxes.tolist()
    assert first == pytest.approx([18, 10, 37, 47], abs=3)
    assert second == pytest.approx([88, 10, 93, 47], abs=3)
    [other] = pieces.others.tolist()
    assert other == pytest.approx([60, 26, 70, 31], abs=3)


@pytest.mark.parametrize(("end", "apart"), [(80, True), (92, False)])
def test_digits_without_a_gap_are_not_apart(end: int, apart: bool) -> None:
    middle, arm = [(50, 10), (50, 46)], [(50, 28), (end, 28)]
    columns = np.array([20.0, 50.0, 90.0])

    pieces = divide(strokes(ONE, middle, arm, TWO), [1, 1, 1], columns, load_model())

    assert pieces.apart.tolist() == [True, apart, apart]


def test_digits_without_ink_or_a_seam_between_them_have_a_box_and_an_image() -> None:
    pieces = divide(strokes(ONE), [1, 1, 7], np.array([19.0, 21.0, 110.0]), load_model())

    assert pieces.images.max(1).tolist() == [255, 255, 255]
    assert (pieces.boxes[:, 2:] > pieces.boxes[:, :2]).all()


@pytest.mark.parametrize(("gap", "most_wrong"), [(6, 0), (-2, 2)])
def test_model_classifies_the_images_as_the_digits_of_the_line(gap: int, most_wrong: int) -> None:
    draw, sample, model = np.random.default_rng(0), sources.load(["sample"]).train, load_model()
    for _ in range(10):
        chosen, end = draw.integers(0, len(sample), 4), 8
        ink, middles = np.zeros((60, 260)), list[float]()
        for image in sample.images[chosen].reshape(-1, 28, 28):
            digit = np.kron(image[:, image.any(0)], np.ones((2, 2))) / 255
            ink[2:58, end : end + digit.shape[1]] += digit
            middles.append(end + digit.shape[1] / 2)
            end += digit.shape[1] + gap
        line = line_of(np.minimum(ink[:, : end + 8], 1))

        pieces = divide(line, sample.labels[chosen].tolist(), np.array(middles), model)

        assert (np.diff(pieces.boxes[:, 0]) > 0).all()
        wrong = model.probabilities(pieces.images).argmax(1) != sample.labels[chosen]
        most_wrong -= int(wrong.sum())
    assert most_wrong >= 0


def peak_of_ones(count: int) -> int:
    """Return the maximum memory in bytes while a line of `count` ones is divided."""
    columns, ink = 30 * np.arange(count) + 15.0, np.zeros((56, 30 * count))
    for column in columns.astype(int).tolist():
        ink[8:48, column - 2 : column + 3] = 1
    line, model = line_of(ink), load_model()
    tracemalloc.start()
    try:
        divide(line, [1] * count, columns, model)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_grows_with_the_width_of_a_line_and_not_faster() -> None:
    assert peak_of_ones(240) < 5 * peak_of_ones(60)
