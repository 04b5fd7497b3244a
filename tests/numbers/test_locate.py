"""Lines of marks in drawn pictures whose places are known."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from nanograd.errors import Reason, UnreadableError
from nanograd.numbers.locate import find_lines
from nanograd.numbers.seams import LINE


def draw_bars(
    boxes: list[tuple[int, int, int, int]], size: tuple[int, int] = (400, 200)
) -> Image.Image:
    """Draw hollow zeros into boxes on white paper."""
    picture = Image.new("L", size, 240)
    canvas = ImageDraw.Draw(picture)
    for box in boxes:
        canvas.ellipse(box, outline=20, width=5)
    return picture


def row_of(
    count: int, top: int, left: int = 40, step: int = 45, slope: float = 0
) -> list[tuple[int, int, int, int]]:
    return [
        (x, top + round(slope * x), x + 26, top + round(slope * x) + 40)
        for x in range(left, left + count * step, step)
    ]


@pytest.mark.parametrize("slope", [0.0, 0.12, -0.12])
@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_line_has_its_height_and_its_place_in_the_picture(slope: float, scale: float) -> None:
    boxes = row_of(5, 80, slope=slope)
    picture = draw_bars(boxes)
    picture = picture.resize([round(side * scale) for side in picture.size])

    (line,) = find_lines(picture).lines

    assert line.bottom - line.top == pytest.approx(LINE, abs=3)
    columns = np.flatnonzero((line.ink > 0.5).any(0))
    starts = columns[np.flatnonzero(np.diff(columns, prepend=-9) > 5)]
    ends = columns[np.flatnonzero(np.diff(columns, append=10**6) > 5)] + 1
    assert len(starts) == 5
    for start, end, box in zip(starts, ends, boxes, strict=True):
        rows = np.flatnonzero((line.ink[:, start:end] > 0.5).any(1))
        found = line.place(np.array([start, rows[0], end, rows[-1] + 1]))
        assert found == pytest.approx([scale * side for side in box], abs=3 + 4 * scale)


def test_lines_are_in_reading_order() -> None:
    rows = [row_of(3, 20), row_of(2, 22, left=250), row_of(4, 80, left=60), row_of(2, 140)]
    picture = draw_bars([box for row in reversed(rows) for box in row])

    lines = find_lines(picture).lines

    places = [line.place(np.array([0, 0, *line.ink.shape[::-1]]))[:2] for line in lines]
    expected = [row[0][:2] for row in rows]
    for place, corner in zip(places, expected, strict=True):
        assert place == pytest.approx(corner, abs=15)


def test_specks_rules_and_surrounding_boxes_are_no_lines() -> None:
    boxes = row_of(4, 80)
    picture = draw_bars(boxes)
    canvas = ImageDraw.Draw(picture)
    canvas.rectangle((30, 65, 225, 135), outline=90, width=2)
    for x in (75, 120, 165):
        canvas.line((x - 3, 65, x - 3, 135), fill=90, width=2)
    for x, y in ((300, 30), (350, 150), (20, 170)):
        canvas.ellipse((x, y, x + 3, y + 3), fill=20)

    (line,) = find_lines(picture).lines

    columns = np.flatnonzero((line.ink > 0.5).any(0))
    assert np.count_nonzero(np.diff(columns, prepend=-9) > 5) == 4


def test_small_line_beside_a_dark_band_is_found_in_a_small_picture() -> None:
    picture = draw_bars([], (81, 19))
    canvas = ImageDraw.Draw(picture)
    canvas.rectangle((0, 0, 10, 19), fill=100)
    for x in range(20, 68, 12):
        canvas.ellipse((x, 6, x + 6, 14), outline=0)

    (line,) = find_lines(picture).lines

    columns = np.flatnonzero((line.ink > 0.5).any(0))
    assert np.count_nonzero(np.diff(columns, prepend=-9) > 5) == 4


@pytest.mark.parametrize("level", [0, 128, 255])
def test_paper_without_marks_is_refused(level: int) -> None:
    with pytest.raises(UnreadableError) as caught:
        find_lines(Image.new("L", (300, 200), level))

    assert caught.value.reason is Reason.BLANK
