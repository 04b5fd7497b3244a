"""Numbers in drawn pictures, and pictures that are no numbers."""

import os
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter, ImageFont, ImageOps

import nanograd
from nanograd.digits.dataset import Mnist
from nanograd.errors import Reason, UnreadableError
from nanograd.images import sources
from nanograd.numbers.locate import find_lines
from nanograd.numbers.recognise import read_line
from nanograd.runtime.arrays import Ints
from simulators.own_numbers import draw_numbers, write_digits
from simulators.photos import photograph
from simulators.strings import HEIGHT, Style, write
from tests.helpers.models import some_model


def test_most_own_numbers_are_read_right() -> None:
    pictures = list(draw_numbers(12, 5))

    read = ["+".join(each.text for each in nanograd.read_numbers(p)) for _, p in pictures]

    assert sum(text == found for (text, _), found in zip(pictures, read, strict=True)) >= 8


@pytest.mark.parametrize("seed", [15, 16, 17])
def test_digit_is_the_most_probable_one_at_its_place(seed: int) -> None:
    """An untrained model chooses the text in the second case."""
    random, sample = np.random.default_rng(seed), sources.load(["sample"]).train
    chosen = sample.images[random.integers(0, len(sample), 5)].reshape(-1, 28, 28)
    ink = write(chosen, Style(touching=True, spread=2.0, wobble=2.0), random)

    [number] = numbers = nanograd.read_numbers(Image.fromarray(255 - ink), some_model())
    assert "image" not in repr(number)  # it would have all pixels
    assert {*numbers} == {*nanograd.read_numbers(Image.fromarray(255 - ink), some_model())}

    assert len(number.digits) >= 4
    for digit in number.digits:
        assert digit.probabilities.argmax() == digit.digit
        assert digit.probabilities.sum() <= 1.0001


def test_own_numbers_depend_on_the_seed_alone() -> None:
    first, again, other = ([t for t, _ in draw_numbers(9, seed)] for seed in (5, 5, 6))

    assert first == again
    assert first != other


def test_digits_at_the_border_of_a_closely_cut_picture_are_read() -> None:
    random, right = np.random.default_rng(4), 0
    texts = ["".join(map(str, random.integers(0, 10, 5))) for _ in range(12)]
    for text in texts:
        ink = write(write_digits(text, random), Style(), random)
        cut = Image.fromarray(ink).crop(Image.fromarray(ink).getbbox())
        small = np.asarray(cut.resize((cut.width * 3 // 5, cut.height * 3 // 5)))
        paper = 190 + 6 * random.normal(size=small.shape)
        picture = Image.fromarray(np.uint8(paper * (1 - small / 510)))

        with suppress(UnreadableError):
            numbers = nanograd.read_numbers(picture)
            right += [each.text for each in numbers] == [text]
            boxes = np.array([digit.box for each in numbers for digit in each.digits])
            assert boxes.min() >= 0
            assert (boxes[:, 2:] <= picture.size).all()

    assert right >= 10


def sheet_of(rows: int, columns: int) -> tuple[list[str], Image.Image]:
    """Draw lines of digits below each other."""
    random = np.random.default_rng(8)
    texts = ["".join(map(str, random.integers(0, 10, columns))) for _ in range(rows)]
    lines = [write(write_digits(text, random), Style(), random) for text in texts]
    sheet = Image.new("L", (max(each.shape[1] for each in lines), 90 * rows), 255)
    for number, line in enumerate(lines):
        sheet.paste(Image.fromarray(255 - line), (0, 90 * number + 10))
    return texts, sheet


def test_sheet_of_200_digits_has_its_lines_in_order() -> None:
    texts, sheet = sheet_of(20, 10)

    numbers = nanograd.read_numbers(sheet, Path(nanograd.__file__).parent / "models" / "digits")

    assert len(numbers) == 20
    right = sum(number.text == text for number, text in zip(numbers, texts, strict=True))
    assert right >= 17


def test_rows_that_touch_are_read() -> None:
    texts, read = list[str](), list[str]()
    for seed in (0, 3, 4):
        random = np.random.default_rng(seed)
        rows = ["".join(map(str, random.integers(0, 10, 4))) for _ in range(5)]
        ink = [write(write_digits(text, random), Style(spread=0.5), random) for text in rows]
        sheet = np.zeros((400, 400), np.uint8)
        for number, line in enumerate(ink):
            inside, across = (np.flatnonzero((line > 60).any(axis)) for axis in (1, 0))
            part = line[inside[0] : inside[-1] + 1, across[0] : across[-1] + 1]
            place = sheet[80 + 44 * number :, 90:][: part.shape[0], : part.shape[1]]
            np.maximum(place, part, out=place)
        texts += rows
        found = nanograd.read_numbers(Image.fromarray(255 - sheet))
        read += [number.text for number in found]

    assert sum(text == found for text, found in zip(texts, read, strict=True)) >= 14


@pytest.mark.parametrize("seed", range(4))
def test_blue_digits_on_brown_paper_are_read(seed: int) -> None:
    # The blue of the ink is brighter than that of the paper.
    text, picture = list(draw_numbers(4, seed))[3]
    ink = ImageOps.expand(ImageOps.invert(picture.convert("L")), 80)
    coloured = Image.composite(
        Image.new("RGB", ink.size, (70, 80, 140)), Image.new("RGB", ink.size, (165, 140, 110)), ink
    )

    assert [number.text for number in nanograd.read_numbers(coloured)] == [text]


@pytest.mark.parametrize("seed", range(4))
def test_blue_digits_under_a_yellow_highlighter_are_read(seed: int) -> None:
    text, picture = list(draw_numbers(4, seed))[3]
    ink = ImageOps.expand(ImageOps.invert(picture.convert("L")), 80)
    blue, sheet = Image.new("RGB", ink.size, (25, 30, 150)), Image.new("RGB", ink.size, "white")
    left, top, right, bottom = ink.getbbox() or (0, 0, 0, 0)
    box = left - 9, top - 9, right + 9, bottom + 9
    ImageDraw.Draw(sheet).rectangle(box, (248, 232, 48))

    read = nanograd.read_numbers(Image.composite(blue, sheet, ink))

    assert [number.text for number in read] == [text]


@pytest.mark.parametrize("seed", range(4))
def test_digit_that_a_pale_line_across_the_paper_touches_is_read(seed: int) -> None:
    text, picture = list(draw_numbers(4, seed))[3]
    ink = ImageOps.expand(ImageOps.invert(picture.convert("L")), 120)
    left, _, right, _ = ink.getbbox() or (0, 0, 0, 0)
    paper = Image.new("L", ink.size, 240)
    ImageDraw.Draw(paper).line(((left + right) // 2, 0, (left + right) // 2, ink.height), 160, 3)

    read = nanograd.read_numbers(Image.composite(Image.new("L", ink.size, 30), paper, ink))

    assert [number.text for number in read] == [text]


@pytest.mark.parametrize(
    ("text", "touching", "least"),
    [("1", False, 18), ("11", False, 20), ("11", True, 17), ("111", False, 18)],
)
def test_ones_that_are_alone_are_read(text: str, touching: bool, least: int) -> None:
    random, read = np.random.default_rng(0), list[str]()

    for _ in range(20):
        ink = write(write_digits(text, random), Style(touching=touching), random)
        with suppress(UnreadableError):
            read += [number.text for number in nanograd.read_numbers(Image.fromarray(255 - ink))]

    assert read.count(text) >= least
    assert touching or set(read) == {text}


@pytest.mark.parametrize("index", [178, 228, 319, 361, 595, 731])
def test_paper_around_a_digit_is_no_zero(sample: Mnist, index: int) -> None:
    digit = Image.fromarray(sample.test.images[index].reshape(28, 28))
    digit = digit.crop(digit.getbbox())
    page = Image.new("L", (120, 110), 255)
    page.paste(20, (30, 33), digit.resize((round(digit.width * 40 / digit.height), 40)))

    read = [number.text for number in nanograd.read_numbers(page)]

    assert read == [str(sample.test.labels[index])]


@pytest.mark.parametrize("ones", ["1", "11"])
def test_ones_below_a_number_of_their_size_are_read(ones: str) -> None:
    random, read = np.random.default_rng(1), list[list[str]]()

    for _ in range(12):
        page = Image.new("L", (260, 220), 255)
        for top, text in ((20, "4625"), (120, ones)):
            ink = write(write_digits(text, random), Style(), random)
            page.paste(Image.fromarray(255 - ink), (20, top))
        read.append([number.text for number in nanograd.read_numbers(page)])

    assert [texts[:1] for texts in read].count(["4625"]) >= 11
    assert [texts[1:] for texts in read].count([ones]) >= 9


def test_first_row_of_a_page_with_columns_is_no_edge_of_a_sheet() -> None:
    page = Image.new("L", (1600, 1200), 255)
    for row in range(6):
        for column in range(3):
            page.paste(sheet_of(1, 4)[1], (60 + 520 * column, 60 + 180 * row))

    assert len(nanograd.read_numbers(page)) == 18


def test_pale_digits_are_read_on_a_sheet_with_a_dark_edge() -> None:
    texts, sheet = sheet_of(2, 5)
    pale = ImageOps.expand(sheet, 40, 255).point(lambda level: 158 + level * 65 // 255)
    ImageDraw.Draw(pale).rectangle((0, 0, pale.width - 1, pale.height - 1), outline=0, width=11)

    assert [number.text for number in nanograd.read_numbers(pale)] == texts


@pytest.mark.parametrize("degrees", [0, 4])
def test_pale_digits_are_read_on_a_sheet_on_a_dark_table(degrees: int) -> None:
    texts, sheet = sheet_of(2, 5)
    pale = ImageOps.expand(sheet, 40, 255).point(lambda level: 190 + level * 35 // 255)
    pale = pale.convert("LA").rotate(degrees, Image.Resampling.BICUBIC, expand=True)
    size = pale.height + 120, pale.width + 160
    grain = np.random.default_rng(0).integers(75, 105, (size[0], 1), np.uint8).repeat(size[1], 1)
    photo = Image.fromarray(grain)
    photo.paste(pale.getchannel(0), (80, 60), pale.getchannel(1))

    assert [number.text for number in nanograd.read_numbers(photo)] == texts


@pytest.mark.parametrize("level", [120, 150, 170])
def test_pale_digits_beside_black_print_on_ruled_paper_are_read(level: int) -> None:
    [text], sheet = sheet_of(1, 5)
    page = Image.new("L", (1200, 400), 235)
    for row in range(25, 400, 50):
        ImageDraw.Draw(page).line((0, row, 1200, row), 190, 2)
    ImageDraw.Draw(page).text((60, 150), "Name", 0, ImageFont.load_default(70))
    page.paste(level, (330, 145), ImageOps.invert(sheet))

    assert [number.text for number in nanograd.read_numbers(page)] == [text]


@pytest.mark.parametrize("level", [60, 90])
@pytest.mark.parametrize("share", [0.0, 0.58])
def test_pale_digits_after_or_below_dark_ones_are_read(level: int, share: float) -> None:
    texts, sheet = sheet_of(3, 5)
    pale = np.asarray(ImageOps.invert(sheet)).astype(int)
    row = pale[100:180]
    columns = np.flatnonzero(row.any(0))
    start = columns[0] + round(share * np.ptp(columns))
    row[:, start:] = row[:, start:] * level // 255
    picture = Image.fromarray((255 - 0.85 * pale).astype(np.uint8))

    assert [number.text for number in nanograd.read_numbers(picture)] == texts


def test_digits_of_straight_strokes_are_no_boxes() -> None:
    segments = [(0, 0, 1, 0), (0, 0, 0, 1), (1, 0, 1, 1), (0, 1, 1, 1), (0, 1, 0, 2), (1, 1, 1, 2)]
    shown = {"4": [1, 2, 3, 5], "8": range(7), "5": [0, 1, 3, 5, 6], "3": [0, 2, 3, 5, 6]}
    page = Image.new("L", (700, 300), 235)
    for number, digit in enumerate("48533"):
        for segment in shown[digit]:
            x, y, right, bottom = [*segments, (0, 2, 1, 2)][segment]
            gap = 3 * (right > x), 3 * (bottom > y)
            start = 100 + 90 * number + 45 * x + gap[0], 100 + 45 * y + gap[1]
            end = 100 + 90 * number + 45 * right - gap[0], 100 + 45 * bottom - gap[1]
            ImageDraw.Draw(page).line((start, end), 20, 8)

    assert [number.text for number in nanograd.read_numbers(page)] == ["48533"]


@pytest.mark.parametrize("seed", [254, 309], ids=["a part is like a seven", "a dark shadow"])
def test_faint_number_in_a_shadow_is_read(sample: Mnist, seed: int) -> None:
    random, digits = np.random.default_rng(seed), sample.test
    chosen = random.integers(0, len(digits), 5)
    ink = write(digits.images[chosen].reshape(-1, 28, 28), Style(), random)
    photo = photograph(ink, "faint in shadow", seed, HEIGHT)

    [number] = nanograd.read_numbers(Image.open(BytesIO(photo)))

    assert number.text == "".join(map(str, digits.labels[chosen]))


def texts_of_page(texts: list[str], corners: Ints, random: np.random.Generator) -> list[str]:
    """Read a page that has each text at its corner."""
    page = Image.new("L", (900, int(corners[:, 1].max()) + 90))
    for text, (left, top) in zip(texts, corners.tolist(), strict=True):
        line = write(write_digits(text, random), Style(spread=0.5), random)[8:-8, 8:-8]
        page.paste(Image.fromarray(line), (left, top))
    read = nanograd.read_numbers(page.point(lambda ink: 235 - round(200 / 255 * ink)))
    return [number.text for number in read]


def test_numbers_are_whole_though_their_first_digits_look_like_surroundings() -> None:
    random = np.random.default_rng(28)
    texts = ["".join(map(str, random.integers(0, 10, length))) for length in (1, 2, 3, 4, 6, 1)]

    assert texts_of_page(texts, np.array([(6, 30 + 88 * row) for row in range(6)]), random) == texts


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_first_digits_of_many_lines_are_no_rings_of_a_binding(seed: int) -> None:
    random = np.random.default_rng(seed)
    texts = ["".join(map(str, random.integers(0, 10, random.integers(3, 8)))) for _ in range(12)]
    corners = random.integers((8, -8), (60, 9), (12, 2)) + [(0, 20 + 60 * row) for row in range(12)]

    assert texts_of_page(texts, corners, random) == texts


@pytest.mark.parametrize("slope", [0.0, 0.8])
def test_digit_in_a_shadow_on_a_sheet_with_a_table_is_read(slope: float) -> None:
    [text], sheet = sheet_of(1, 3)
    page = np.asarray(ImageOps.expand(sheet, (8, 20), 255), float) * 170 / 255 + 45
    rows, columns = np.indices(page.shape)
    edge = 0.72 * page.shape[1] + slope * (rows - len(page) / 2)
    page *= 1 - 0.6 / (1 + np.exp((edge - columns) / 2))
    photo = Image.fromarray(np.pad(page, 6, constant_values=60).astype(np.uint8))

    found = nanograd.read_numbers(photo.resize([5 * side for side in photo.size]))

    assert [number.text for number in found] == [text]


def letters(text: str) -> Image.Image:
    picture = Image.new("L", (500, 120), 255)
    ImageDraw.Draw(picture).text((20, 20), text, 0, ImageFont.load_default(60))
    return picture


@pytest.mark.parametrize(
    "picture",
    [
        letters("Hamwky"),
        sheet_of(1, 5)[1].rotate(180),
        sheet_of(1, 5)[1].rotate(90, expand=True),
        Image.effect_noise((300, 200), 60),
        Image.linear_gradient("L"),
    ],
    ids=["letters", "upside down", "on its side", "noise", "gradient"],
)
def test_what_is_no_number_is_refused_or_doubtful(picture: Image.Image) -> None:
    try:
        numbers = nanograd.read_numbers(picture)
    except UnreadableError as error:
        assert error.reason in (Reason.BLANK, Reason.LOW_CONTRAST)
    else:
        assert all(0 <= number.confidence <= 1 for number in numbers)
        assert 0 < len(numbers) <= 20


def strokes(*lines: list[tuple[float, float]]) -> Image.Image:
    picture = Image.new("L", (260, 140), 250)
    for line in lines:
        ImageDraw.Draw(picture).line(line, 20, 5, joint="curve")
    return picture


TURN = np.linspace(0, 2 * np.pi, 60)
HEART = np.stack([
    130 + 51 * np.sin(TURN) ** 3,
    70 - 42 * np.cos(TURN) + 16 * np.cos(2 * TURN) + 6 * np.cos(3 * TURN) + 3 * np.cos(4 * TURN),
], axis=1)  # fmt: skip
FACE = 70 + 50 * np.stack([np.sin(TURN), np.cos(TURN)], axis=1)


@pytest.mark.parametrize(
    "picture",
    [
        strokes([(40, 70), (90, 70)], [(150, 70), (200, 70)]),
        strokes(*([(20 + 60 * n, 70), (50 + 60 * n, 71)] for n in range(4))),
        letters("WWW"),
        letters("AKM"),
        strokes([(x, y) for x, y in HEART.tolist()]),
        strokes([(x, y) for x, y in FACE.tolist()], [(50, 50), (50, 58)], [(90, 50), (90, 58)],
                [(45, 85), (60, 97), (80, 97), (95, 85)]),
        strokes([(20, 70), (240, 72)]),
        strokes([(90, 30), (170, 110)], [(170, 30), (90, 110)]),
    ],
    ids=["two hyphens", "hyphens", "WWW", "AKM", "heart", "smiley", "rule", "cross"],
)  # fmt: skip
def test_marks_that_are_no_digits_are_refused(picture: Image.Image) -> None:
    with pytest.raises(UnreadableError) as caught:
        nanograd.read_numbers(picture)

    assert caught.value.reason is Reason.BLANK


@pytest.mark.parametrize(
    "text",
    ["A12", "12-34", "3.14", "KM 913", "12/34", "1/2", "Peter 93", "92 EUR", "12 kg", "(12) 34",
     "Hauptweg 172", "Nr 5", "Datum: 4608"],
)  # fmt: skip
def test_marks_and_words_beside_digits_are_left_out(text: str) -> None:
    numbers = nanograd.read_numbers(letters(text))

    assert [each.text for each in numbers] == ["".join(filter(str.isdigit, text))]


DRAWN = """
import nanograd
from simulators.own_numbers import draw_numbers
for _, picture in draw_numbers(12, 1):
    for number in nanograd.read_numbers(picture):
        print(number.text, number.confidence, [each.probabilities for each in number.digits])
"""


def test_processes_return_the_same_bits() -> None:
    outputs = {
        subprocess.run(
            [sys.executable, "-c", DRAWN],
            env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True,
        ).stdout
        for seed in "12"
    }  # fmt: skip

    assert len(outputs) == 1


def test_boxes_end_at_the_border_of_a_tight_crop() -> None:
    [_], sheet = sheet_of(1, 3)
    # A thin pen is widened before the digits are read.
    thin = sheet.resize([6 * side for side in sheet.size]).filter(ImageFilter.MaxFilter(9))
    crop = thin.crop(ImageOps.invert(thin).getbbox())

    [number] = nanograd.read_numbers(crop)

    boxes = np.array([number.box, *(digit.box for digit in number.digits), *number.left_out])
    assert (boxes >= 0).all()
    assert (boxes[:, 2:] <= crop.size).all()
    assert (boxes[:, :2] < boxes[:, 2:]).all()


LARGE = """
import resource, sys
import numpy as np
from PIL import Image
import nanograd
[number] = nanograd.read_numbers(sys.argv[1])
print(number.text, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_photo_of_40_megapixels_needs_less_than_1_gib(tmp_path: Path) -> None:
    [text], sheet = sheet_of(1, 6)
    photo = Image.new("RGB", (7300, 5500), (225, 220, 210))
    photo.paste(sheet.resize([4 * side for side in sheet.size]), (1500, 2500))
    photo.save(tmp_path / "large.jpg")

    done = subprocess.run(
        [sys.executable, "-c", LARGE, tmp_path / "large.jpg"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip

    found, peak = done.stdout.split()
    assert found == text
    assert int(peak) * 1024 < 2**30


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (600, 400), (5000, 60)])
@pytest.mark.parametrize("tone", [0, 128, 255])
def test_picture_of_one_tone_is_blank(size: tuple[int, int], tone: int) -> None:
    with pytest.raises(UnreadableError) as caught:
        nanograd.read_numbers(Image.new("L", size, tone))

    assert caught.value.reason is Reason.BLANK


@pytest.mark.parametrize("file", sorted(Path(__file__).with_name("pictures").iterdir()))
def test_numbers_in_pictures_that_once_failed_are_read(file: Path) -> None:
    """The name of a file says what is difficult, and the numbers."""
    numbers = nanograd.read_numbers(file)

    assert [each.text for each in numbers] == [e for e in file.stem.split("-") if e.isdigit()]
    assert min(each.confidence for each in numbers) > 0.9


def test_frames_of_a_turned_form_are_no_digits() -> None:
    file = next(Path(__file__).parent.glob("turned-form-*"))

    numbers = nanograd.read_numbers(file)

    assert [each.text for each in numbers] == file.stem.split("-")[2:]


@pytest.mark.parametrize("seed", [7, 10, 11, 19])
def test_text_with_a_digit_for_each_box_is_more_probable(sample: Mnist, seed: int) -> None:
    draw = np.random.default_rng(seed)
    images = sample.test.images.reshape(-1, 28, 28)[draw.integers(1000, size=5)]
    ink = write(images, Style(touching=True), draw)
    (line,) = find_lines(Image.fromarray(255 - ink)).lines

    free, fitting, other = (
        read_line(replace(line, num_boxes=number), some_model()) for number in (0, 5, 6)
    )

    assert free and fitting and other
    assert free.text == fitting.text and len(free.text) == 5
    assert other.confidence < free.confidence < fitting.confidence
