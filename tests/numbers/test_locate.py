"""Lines of marks in drawn pictures whose places are known."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from nanograd.digits.dataset import Mnist
from nanograd.errors import Reason, UnreadableError
from nanograd.images import sources
from nanograd.numbers.locate import Way, find_lines
from nanograd.numbers.printed import MARK, PAPER, PRINT, find_rules
from nanograd.numbers.seams import LINE, STRONG
from simulators.strings import Style, write


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


def test_way_with_too_many_lines_fails() -> None:
    picture = draw_bars([box for top in (20, 80, 140) for box in row_of(3, top)])

    assert len(find_lines(picture, Way(most=3)).lines) == 3
    with pytest.raises(UnreadableError) as caught:
        find_lines(picture, Way(most=2))
    assert caught.value.reason is Reason.TOO_MANY_MARKS


def test_rows_that_tails_join_are_cut_apart() -> None:
    rows = [row_of(4, top) for top in (20, 66, 112)]
    picture = draw_bars([box for row in rows for box in row])
    for left, _, _, bottom in (box for row in rows[:2] for box in row[1:]):
        # From a zero into the row below, where it touches the left side of a zero.
        tail = (left + 9, bottom - 2, left - 2, bottom + 22)
        ImageDraw.Draw(picture).line(tail, fill=20, width=5)

    whole, cut = find_lines(picture), find_lines(picture, Way(cut=True))

    assert whole.is_dense
    assert len(whole.lines) < 3
    for line, row in zip(cut.lines, rows, strict=True):
        assert line.place(np.array([0, line.top, 0, 0]))[1] == pytest.approx(row[0][1], abs=6)


@pytest.mark.parametrize("degrees", [4, -4])
def test_cells_of_a_tilted_table_are_in_reading_order(degrees: float) -> None:
    rows = [[3, 1, 2], [1, 3, 3], [3, 2, 1]]
    table = draw_table(rows, 180)
    paper = Image.new("L", (table.width + 80, table.height + 120), 240)
    paper.paste(table, (40, 60))

    found = starts_of(paper.rotate(degrees, Image.Resampling.BICUBIC, fillcolor=240))

    assert [len(starts) for starts in found] == [count for cells in rows for count in cells]


@pytest.mark.parametrize("is_light", [False, True])
def test_ink_of_a_sheet_of_many_digits_is_known(sample: Mnist, is_light: bool) -> None:
    tiles = sample.test.images[:100].reshape(10, 10, 28, 28)[..., 2:-2, 2:-2]
    ink = np.ascontiguousarray(tiles.swapaxes(1, 2)).reshape(240, 240)

    found = find_lines(Image.fromarray(ink if is_light else 255 - ink))

    assert found.inverted == is_light


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


def test_wires_of_a_binding_are_no_line() -> None:
    picture = draw_bars(row_of(4, 120))
    canvas = ImageDraw.Draw(picture)
    for x in range(12, 390, 14):
        canvas.line((x, 20, x + 1, 60), fill=20, width=4)

    (starts,) = starts_of(picture)

    assert starts == pytest.approx([box[0] for box in row_of(4, 120)], abs=5)


@pytest.mark.parametrize("top", [[20], [40, 120]])
def test_long_line_of_narrow_digits_is_no_binding(top: list[int]) -> None:
    boxes = [(x, y, x + 14, y + 40) for y in top for x in range(20, 380, 24)]

    starts = starts_of(draw_bars(boxes))

    assert [len(each) for each in starts] == [15] * len(top)


def test_part_of_a_large_ring_at_the_border_does_not_hide_digits() -> None:
    boxes = row_of(3, 80)
    picture = draw_bars(boxes)
    ImageDraw.Draw(picture).ellipse((352, 50, 448, 145), outline=20, width=20)

    (starts,) = starts_of(picture)

    assert starts == pytest.approx([box[0] for box in boxes], abs=5)


def test_greyish_digits_are_found_on_a_coloured_sheet_of_similar_brightness() -> None:
    boxes = row_of(4, 80)
    mask = draw_bars(boxes).point(lambda level: 255 * (level < 100))
    noise = np.random.default_rng(0).normal(0, 3, (200, 400, 1))
    picture = Image.composite(
        Image.new("RGB", mask.size, (173, 121, 145)), Image.new("RGB", mask.size, (236, 105, 157)),
        mask,
    )  # fmt: skip
    picture = Image.fromarray(np.clip(np.asarray(picture) + noise, 0, 255).astype(np.uint8))

    (starts,) = starts_of(picture)

    assert starts == pytest.approx([box[0] for box in boxes], abs=5)


def test_small_line_beside_a_dark_band_is_found_in_a_small_picture() -> None:
    picture = draw_bars([], (81, 19))
    canvas = ImageDraw.Draw(picture)
    canvas.rectangle((0, 0, 10, 19), fill=100)
    for x in range(20, 68, 12):
        canvas.ellipse((x, 6, x + 6, 14), outline=0)

    (line,) = find_lines(picture).lines

    columns = np.flatnonzero((line.ink > 0.5).any(0))
    assert np.count_nonzero(np.diff(columns, prepend=-9) > 5) == 4


def starts_of(picture: Image.Image) -> list[list[int]]:
    """Return the first columns in the picture of the marks of each line."""
    found = []
    for line in find_lines(picture).lines:
        columns = np.flatnonzero((line.ink > 0.5).any(0))
        starts = columns[np.flatnonzero(np.diff(columns, prepend=-9) > 5)]
        found.append([line.place(np.array([x, 0, x, 0]))[0] for x in starts])
    return found


CASES = {
    "an underline apart": (row_of(4, 80), [(30, 135, 240, 133)]),
    "an underline that touches": (row_of(4, 80), [(30, 119, 240, 119)]),
    "ruled paper": (row_of(4, 80), [(0, y, 399, y) for y in (30, 75, 120, 165)]),
    "squared paper": (
        row_of(4, 80),
        [(0, y, 399, y) for y in range(3, 200, 38)] + [(x, 0, x, 199) for x in range(7, 400, 38)],
    ),
    "wide gaps": (row_of(4, 80, step=95), []),
    "a broken digit": ([*row_of(2, 80), (140, 80, 160, 96), (130, 100, 156, 120)], []),
    "a crop": ([(x, 2, x + 26, 42) for x in (2, 47, 92)], [(128, 1, 128, 43)]),
}


@pytest.mark.parametrize("case", CASES)
def test_digits_are_one_line(case: str) -> None:
    boxes, strokes = CASES[case]
    picture = draw_bars(boxes, (131, 46) if case == "a crop" else (400, 200))
    canvas = ImageDraw.Draw(picture)
    for stroke in strokes:
        canvas.line(stroke, fill=20 if case.startswith("a") else 150, width=3)

    (starts,) = starts_of(picture)

    expected = sorted({box[0] for box in boxes if box[3] - box[1] > 20})
    expected += [128] if case == "a crop" else [130] if case == "a broken digit" else []
    assert starts == pytest.approx(expected, abs=5)


@pytest.mark.parametrize(
    ("degrees", "number", "size"),
    [(0, 5, (400, 400)), (8, 5, (400, 400)), (-8, 5, (400, 400)), (5, 3, (640, 480))],
)
def test_digit_that_touches_a_turned_box_is_found(
    degrees: float, number: int, size: tuple[int, int]
) -> None:
    boxes = row_of(number, 180, left=90)
    picture = draw_bars(boxes, (400, 400))
    canvas = ImageDraw.Draw(picture)
    for left in range(80, 80 + 45 * number, 45):
        canvas.rectangle((left, 168, left + 45, 232), outline=60, width=2)
    canvas.line((boxes[2][2] - 2, 200, boxes[2][2] + 12, 200), fill=20, width=5)
    picture = picture.rotate(degrees, Image.Resampling.BICUBIC, fillcolor=240)
    paper = Image.new("L", size, 240)
    paper.paste(picture)

    (starts,) = starts_of(paper)

    assert len(starts) == number


def draw_table(rows: list[list[int]], side: int, strokes: int = 90) -> Image.Image:
    """Draw a table whose cells have these numbers of digits, 30 pixels high."""
    columns = len(rows[0])
    picture = draw_bars(
        [
            (x, 40 + 60 * row, x + 18, 70 + 60 * row)
            for row, cells in enumerate(rows)
            for column, count in enumerate(cells)
            for x in range(30 + side * column, 30 + side * column + 26 * count, 26)
        ],
        (side * columns + 40, 60 * len(rows) + 50),
    )
    canvas = ImageDraw.Draw(picture)
    for number in range(columns + 1):
        x = 20 + side * number
        canvas.line((x, 25, x, 25 + 60 * len(rows)), fill=strokes, width=2)
    for number in range(len(rows) + 1):
        canvas.line((20, 25 + 60 * number, 20 + side * columns, 25 + 60 * number), strokes, 2)
    return picture


@pytest.mark.parametrize("strokes", [20, 90, 190])
def test_cells_of_a_table_are_lines_of_their_own(strokes: int) -> None:
    rows = [[4, 1, 3], [2, 4, 4], [1, 2, 1]]

    found = starts_of(draw_table(rows, 115, strokes))

    assert [len(starts) for starts in found] == [count for cells in rows for count in cells]


@pytest.mark.parametrize("top", [0, 26])
def test_cells_of_a_table_that_fills_the_picture_are_lines(top: int) -> None:
    rows = [[3, 2, 3], [2, 3, 3], [2, 2, 1]]
    table = draw_table(rows, 115).crop((21, top, 364, 230))

    found = starts_of(table)

    assert [len(starts) for starts in found] == [count for cells in rows for count in cells]


def test_narrow_cells_with_several_digits_are_lines() -> None:
    rows = [[2, 2, 2, 2], [2, 2, 1, 2], [1, 2, 2, 2]]

    found = starts_of(draw_table(rows, 57))

    assert [len(starts) for starts in found] == [count for cells in rows for count in cells]


def test_numbers_across_large_squares_are_lines() -> None:
    picture = draw_bars([*row_of(7, 18), *row_of(6, 90)])
    canvas = ImageDraw.Draw(picture)
    for place in range(7, 400, 86):
        canvas.line((place, 0, place, 199), fill=150, width=2)
        canvas.line((0, place, 399, place), fill=150, width=2)

    assert [len(starts) for starts in starts_of(picture)] == [7, 6]


def test_number_across_large_squares_is_no_row_of_cells() -> None:
    picture = draw_bars(row_of(5, 80))
    canvas = ImageDraw.Draw(picture)
    for place in range(31, 400, 90):  # between digits, and equally far apart
        canvas.line((place, 0, place, 199), fill=150, width=2)
        canvas.line((0, place, 399, place), fill=150, width=2)

    assert [len(starts) for starts in starts_of(picture)] == [5]


@pytest.mark.parametrize("down", [36, 60])
def test_number_whose_digits_hide_rules_of_squared_paper_is_a_line(down: int) -> None:
    picture = Image.new("L", (400, 200), 240)
    canvas = ImageDraw.Draw(picture)
    for x in range(10, 400, 36):
        canvas.line((x, 0, x, 199), fill=170, width=2)
    for y in range(17, 200, down):
        canvas.line((0, y, 399, y), fill=170, width=2)
    for x in (76, 112, 148, 220, 256):
        canvas.rectangle((x, 80, x + 12, 120), fill=20)

    assert [len(starts) for starts in starts_of(picture)] == [5]


def test_one_as_tall_as_its_cell_is_no_rule() -> None:
    kinds = np.full((41, 91), PAPER, np.uint8)
    kinds[[4, 36]] = PRINT
    kinds[:, [3, 45, 87]] = PRINT
    kinds[6:35, 20:24] = MARK

    rules = find_rules(np.array([[8, 21, -32, -22], [9, 60, -31, -69]]), kinds)

    np.testing.assert_array_equal(rules, [3.5, 45.5, 87.5])


def test_boxes_of_a_form_are_one_line() -> None:
    found = starts_of(draw_table([[1] * 6, [1] * 6], 42))

    assert [len(starts) for starts in found] == [6, 6]


@pytest.mark.parametrize(
    ("others", "expected"),
    [
        ([], 5),
        ([(153, 96, 163, 104)], 6),  # a low digit, or what is left of a faint one
        ([(145, 98, 171, 101)], 5),  # a dash
        ([(130, 80, 156, 120)], 0),  # a digit across a side: the boxes are squared paper
        ([(143, 80, 155, 120), (161, 80, 173, 120)], 0),  # two digits in a cell of a table
    ],
)
def test_boxes_with_marks_are_counted(
    others: list[tuple[int, int, int, int]], expected: int
) -> None:
    picture = draw_bars([])
    canvas = ImageDraw.Draw(picture)
    for left in range(36, 336, 50):
        canvas.rectangle((left, 68, left + 44, 132), outline=150, width=2)
    for box in [*(box for box in row_of(6, 80, left=45, step=50) if box[0] != 145), *others]:
        canvas.ellipse(box, outline=20, width=5)

    (line,) = find_lines(picture).lines

    assert line.num_boxes == expected


def test_margin_between_digits_is_no_end_of_a_line() -> None:
    picture = draw_bars(row_of(6, 80))
    for x in (167, 171):
        ImageDraw.Draw(picture).line((x, 0, x, 199), fill=110, width=1)

    assert [len(starts) for starts in starts_of(picture)] == [6]


@pytest.mark.parametrize("first", [12, 24])
def test_smaller_line_is_found_beside_a_taller_one(first: int) -> None:
    # Of a line with digits near half of the usual height, all are found.
    small = [(40, 150 - first, 50, 150), *((x, 132, x + 10, 150) for x in (60, 80, 100))]

    found = starts_of(draw_bars([*row_of(5, 40), *small]))

    assert [len(starts) for starts in found] == [5, 4]


@pytest.mark.parametrize("space", [0, 10])
@pytest.mark.parametrize("level", [60, 170])
def test_sides_of_boxes_are_removed_where_digits_touch_them(space: int, level: int) -> None:
    lefts = [60 + number * (44 + space) for number in range(5)]
    picture = draw_bars([(left, 80, left + 30, 120) for left in lefts])
    canvas = ImageDraw.Draw(picture)
    for number, left in enumerate(lefts):
        side = left - 2 * (number % 3)  # the digit touches it, or is a little to its right
        canvas.rectangle((side, 70, left + 44, 130), outline=level, width=2)

    (line,) = find_lines(picture).lines

    outside = line.ink[: round(line.top) - 4], line.ink[round(line.bottom) + 4 :]
    assert max(float(each.max(initial=0)) for each in outside) < STRONG


def test_digits_beside_a_taller_word_in_joined_letters_have_the_usual_size() -> None:
    picture = draw_bars([(x, 62, x + 13, 82) for x in range(140, 290, 20)], (300, 150))
    canvas = ImageDraw.Draw(picture)
    for left in (10, 34, 58):
        canvas.ellipse((left, 25, left + 30, 82), outline=20, width=5)
    canvas.line((10, 82, 120, 82), fill=20, width=5)

    (line,) = find_lines(picture).lines

    assert line.step[1] * LINE == pytest.approx(21, abs=2)


def test_columns_of_numbers_are_lines_of_their_own() -> None:
    rows = [row_of(3, top, left) for top in (20, 90) for left in (30, 290)]

    found = starts_of(draw_bars([box for row in rows for box in row], (450, 200)))

    assert [len(starts) for starts in found] == [3, 3, 3, 3]


@pytest.mark.parametrize("scale", [10, 20])
def test_small_line_in_a_large_photo_has_its_place(scale: int) -> None:
    picture = Image.new("L", (400 * scale, 300 * scale), 240)
    picture.paste(draw_bars(row_of(5, 80)), (237 * scale, 151 * scale))

    (starts,) = starts_of(picture)

    assert starts == pytest.approx([237 * scale + box[0] for box in row_of(5, 80)], abs=8)


def test_closer_look_at_small_digits_leaves_out_the_table_beside_the_sheet() -> None:
    grain = np.random.default_rng(0).uniform(28, 84, (250, 1)).repeat(6, 0).repeat(2000, 1)
    photo = Image.fromarray(grain.astype(np.uint8))
    rows = [row_of(count, top) for count, top in ((4, 300), (5, 360), (3, 420))]
    sheet = draw_bars([box for row in rows for box in row], (1800, 1300)).convert("LA")
    sheet = sheet.rotate(5, Image.Resampling.BICUBIC, expand=True)
    photo.paste(sheet.getchannel(0), (60, 50), sheet.getchannel(1))

    assert [len(starts) for starts in starts_of(photo)] == [4, 5, 3]


def test_line_of_faint_marks_with_one_dark_dot_is_left_out() -> None:
    picture = draw_bars([(x, 10, x + 80, 210) for x in (40, 180, 320)], (480, 440))
    canvas = ImageDraw.Draw(picture)
    for x in (40, 180, 320):
        canvas.ellipse((x, 230, x + 80, 430), outline=180, width=9)
        canvas.point((x + 40, 232), 115)

    assert [len(starts) for starts in starts_of(picture)] == [3]


@pytest.mark.parametrize("level", [0, 128, 255])
def test_paper_without_marks_is_refused(level: int) -> None:
    with pytest.raises(UnreadableError) as caught:
        find_lines(Image.new("L", (300, 200), level))

    assert caught.value.reason is Reason.BLANK


@pytest.mark.parametrize("seed", [42, 52, 82, 11])
def test_two_digits_that_touch_and_fill_a_picture_are_no_turned_box(seed: int) -> None:
    random, sample = np.random.default_rng(seed), sources.load(["sample"]).train
    chosen = random.integers(0, len(sample), 2)
    ink = write(sample.images[chosen].reshape(-1, 28, 28), Style(touching=True), random)

    [line] = find_lines(Image.fromarray(255 - ink)).lines

    assert line.ink.sum() * np.prod(line.step) == pytest.approx(ink.sum() / 255, rel=0.1)
