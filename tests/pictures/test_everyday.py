"""Pictures as people take them: each must give nearly what the same digit gives on plain paper."""

from contextlib import suppress

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from nanograd.digits.dataset import Mnist
from nanograd.errors import UnreadableError
from nanograd.pictures import light, lines, paper, surroundings
from nanograd.pictures.morphology import adjust_pen
from nanograd.pictures.normalise import normalise, trace
from tests.pictures.test_normalise import agreement, seven

Floats = NDArray[np.float64]


def likeness(image: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """Agreement but for one pixel: the centre of mass may fall to either side of an edge."""
    shifts = [(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1)]
    return max(agreement(np.roll(image, shift, (0, 1)), other) for shift in shifts)


def lit(picture: Image.Image, shade: Floats) -> Image.Image:
    return Image.fromarray((np.asarray(picture) * shade).astype(np.uint8))


def vignette(strength: float, middle: float = 0.1) -> Floats:
    y, x = np.mgrid[-1:1:280j, -1:1:280j]
    return np.asarray(np.exp(-strength * (((x - middle) ** 2 + y**2) / 2) ** 1.5))


def hard_shadow() -> Floats:
    y, x = np.mgrid[-1:1:280j, -1:1:280j]
    return np.where(x + 0.4 * y > 0.3, 0.5, 1.0)


def pale_seven() -> Image.Image:
    return seven(pen=8, ink=130, paper=200)


@pytest.mark.parametrize("strength", [0.4, 0.8, 1.2])
@pytest.mark.parametrize("middle", [0.0, 0.2])
def test_dark_corners_do_not_change_the_digit(strength: float, middle: float) -> None:
    image = normalise(lit(pale_seven(), vignette(strength, middle)))

    assert agreement(image, normalise(pale_seven())) > 0.75


def test_light_surface_equals_the_light_that_fell() -> None:
    shade = vignette(0.8)

    surface = light.light_surface(lit(pale_seven(), shade))

    assert surface is not None
    assert np.abs(surface - shade).max() < 0.06


@pytest.mark.parametrize("shade", [np.ones((280, 280)), hard_shadow()], ids=["even", "hard shadow"])
def test_even_light_and_hard_shadows_are_no_smooth_surface(shade: Floats) -> None:
    assert light.light_surface(lit(pale_seven(), shade)) is None


def test_faint_pencil_in_a_soft_shadow_is_the_digit() -> None:
    y, x = np.mgrid[-1:1:280j, -1:1:280j]
    shade = 1 - 0.45 * np.clip((x + 0.4 * y + 0.2) / 0.3, 0, 1)
    faint = seven(pen=6, ink=165, paper=200)

    assert agreement(normalise(lit(faint, shade)), normalise(faint)) > 0.6


@pytest.mark.parametrize("radius", [0.8, 1.0])
@pytest.mark.parametrize("ink", [150, 165, 175])
def test_thin_pale_pen_in_a_round_shadow_is_the_digit(ink: int, radius: float) -> None:
    y, x = np.mgrid[-1:1:280j, -1:1:280j]
    shade = 1 - 0.5 * np.clip((radius - np.hypot(x - 1, y - 1)) / 0.25 + 0.5, 0, 1)
    faint = seven(pen=3, ink=ink, paper=200)

    assert agreement(normalise(lit(faint, shade)), normalise(faint)) > 0.9


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("size", [(300, 6), (6, 300), (200, 1), (1, 90), (66, 2), (1000, 20)])
def test_narrow_pictures_are_read_or_refused(size: tuple[int, int]) -> None:
    width, height = size
    for level in np.random.default_rng(0).integers(0, 256, (20, 3)):
        pixels = np.full((height, width), level[0], np.uint8)
        pixels[height // 2 :, width // 2 :] = level[1]
        pixels[height // 3 : height // 2 + 1, width // 3 : width // 2 + 1] = level[2]
        with suppress(UnreadableError):
            assert normalise(Image.fromarray(pixels)).shape == (28, 28)


def squared(picture: Image.Image, strength: float) -> Image.Image:
    """On squared paper, slightly tilted, as a lens sees it."""
    y, x = np.mgrid[:280, :280]
    away = [np.abs((along + 0.02 * other + 35) % 60 - 30) for along, other in ((y, x), (x, y))]
    taken = strength * np.clip(2 - np.minimum(*away), 0, 1)
    return lit(picture, 1 - taken)


@pytest.mark.parametrize("strength", [0.25, 0.35, 0.45])
def test_squares_as_dark_as_the_pencil_are_paper(strength: float) -> None:
    taken = trace(squared(pale_seven(), strength))

    assert taken.lines is not None
    assert taken.image is not None
    assert likeness(taken.image, normalise(pale_seven())) > 0.75


@pytest.mark.parametrize("pen", [4, 20, 40])
def test_strokes_of_a_digit_are_no_lines(pen: int) -> None:
    ink = 1 - np.asarray(seven(size=160, pen=pen), np.float32) / 255

    assert lines.find_lines(ink) is None


def test_dots_around_a_digit_are_left_out() -> None:
    picture = seven(pen=6, ink=100)
    draw = ImageDraw.Draw(picture)
    for y, x in np.argwhere(np.ones((6, 6))) * 50 + 13:
        draw.circle((x, y), 3, fill=120)

    assert agreement(normalise(picture), normalise(seven(pen=6, ink=100))) > 0.7


def bound(picture: Image.Image, turns: int) -> Image.Image:
    """With the rings of a binding at one side and a dark edge at the next."""
    pixels = np.rot90(np.asarray(picture), turns).copy()
    pixels[:12] = 30
    pixels[:, :6] = 50
    for x in range(5, 280, 12):
        pixels[12:24, x : x + 5] = 40
    return Image.fromarray(np.rot90(pixels, -turns))


@pytest.mark.parametrize("turns", range(4))
def test_binding_at_any_side_is_left_out(turns: int) -> None:
    taken = trace(bound(pale_seven(), turns))

    assert taken.box is not None
    assert taken.image is not None
    assert agreement(taken.image, normalise(pale_seven())) > 0.8


def on_table(margins: tuple[int, int, int, int], turn: float, table: int) -> Image.Image:
    """A seven on an unevenly lit sheet; left, top, right and bottom of it a rough table."""
    left, top, right, bottom = margins
    sheet = lit(seven(pen=14, ink=60, paper=240), np.linspace(0.75, 1, 280)[:, None])
    size = (280 + left + right, 280 + top + bottom)
    rough = np.random.default_rng(0).normal(table, 6, size[::-1]).clip(0, 255).astype(np.uint8)
    picture = Image.fromarray(rough)
    turned = sheet.rotate(turn, Image.Resampling.BICUBIC)
    cover = Image.new("L", (280, 280), 255).rotate(turn)
    picture.paste(turned, (left, top), cover)
    return picture


@pytest.mark.parametrize("negative", [0, 255])
@pytest.mark.parametrize("turn", [0, 6])
@pytest.mark.parametrize("table", [30, 90])
@pytest.mark.parametrize(
    "margins", [(60, 60, 60, 60), (30, 50, 0, 70), (25, 0, 25, 25), (30, 80, 30, 0)]
)
def test_sheet_or_board_within_surroundings_has_its_digit(
    margins: tuple[int, int, int, int], table: int, turn: float, negative: int
) -> None:
    picture = Image.fromarray(np.asarray(on_table(margins, turn, table)) ^ np.uint8(negative))
    alone = seven(pen=14, ink=60, paper=240).rotate(turn, Image.Resampling.BICUBIC, fillcolor=240)

    assert likeness(normalise(picture), normalise(alone)) > 0.7


def test_bright_digit_is_no_sheet() -> None:
    zero = Image.new("L", (280, 280), 30)
    ImageDraw.Draw(zero).ellipse((90, 70, 190, 210), outline=220, width=24)

    assert surroundings.spread_sheet(np.asarray(zero), 1, 0.08) is None
    assert trace(zero).inverted


@pytest.mark.parametrize("drawn", ["rectangle", "ellipse"])
@pytest.mark.parametrize("pen", [2, 8])
@pytest.mark.parametrize("edge", [20, 50])
def test_box_or_ring_around_a_digit_is_left_out(drawn: str, pen: int, edge: int) -> None:
    picture = seven(pen=12)
    box = (edge, edge - 10, 280 - edge, 290 - edge)
    getattr(ImageDraw.Draw(picture), drawn)(box, outline=90, width=pen)

    assert likeness(normalise(picture), normalise(seven(pen=12))) > 0.9


def test_dot_within_a_zero_is_no_digit() -> None:
    zero = Image.new("L", (280, 280), 255)
    ImageDraw.Draw(zero).ellipse((90, 60, 190, 220), outline=0, width=14)
    dotted = zero.copy()
    ImageDraw.Draw(dotted).circle((140, 140), 12, fill=0)

    assert likeness(normalise(dotted), normalise(zero)) > 0.8


def bold(*, negative: bool, side: int) -> Image.Image:
    """A seven cropped to its strokes, which are a third as wide as it is."""
    picture = seven(pen=44)
    box = Image.fromarray(255 - np.asarray(picture)).getbbox()
    crop = picture.crop(box).resize((side * 3 // 4, side), Image.Resampling.BOX)
    return Image.fromarray(255 - np.asarray(crop)) if negative else crop


@pytest.mark.parametrize("side", [14, 20, 60, 100, 300])
@pytest.mark.parametrize("negative", [False, True])
def test_tight_crops_of_bold_strokes_are_digits_in_both_polarities(
    side: int, negative: bool
) -> None:
    taken = trace(bold(negative=negative, side=side))

    assert taken.inverted is negative
    assert taken.image is not None
    assert agreement(taken.image, normalise(bold(negative=False, side=100))) > 0.6


def test_tight_crop_has_no_surroundings() -> None:
    assert surroundings.find_sheet(np.asarray(bold(negative=False, side=150)) < 128) is None


def test_polarity_of_bitmaps_without_margin(sample: Mnist) -> None:
    crops = []
    for image in sample.test.images[:200].reshape(-1, 28, 28):
        rows, columns = np.flatnonzero(image.max(1) > 60), np.flatnonzero(image.max(0) > 60)
        crops.append(image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])

    light_ink = [paper.is_light_on_dark(Image.fromarray(crop)) for crop in crops]
    dark_ink = [paper.is_light_on_dark(Image.fromarray(255 - crop)) for crop in crops]

    assert sum(light_ink) >= 197
    assert sum(dark_ink) <= 3


def test_thinning_keeps_a_stroke_beside_a_filled_loop() -> None:
    ink = np.zeros((80, 50), np.float32)
    ink[:40, :] = 1
    ink[40:, 20:30] = 1

    thinned = adjust_pen(ink)

    assert (thinned[60:80].max(1) > 0.5).all()


GREY_ON_ORANGE, RED_ON_GREEN = ((255, 140, 0), (160, 160, 160)), ((60, 150, 60), (230, 40, 60))


@pytest.mark.parametrize("colours", [GREY_ON_ORANGE, RED_ON_GREEN])
@pytest.mark.parametrize("exchanged", [False, True])
def test_ink_that_differs_in_hue_alone_is_ink(
    colours: tuple[tuple[int, int, int], tuple[int, int, int]], exchanged: bool
) -> None:
    ground, ink = colours[::-1] if exchanged else colours
    size, mask = seven().size, seven()
    picture = Image.composite(Image.new("RGB", size, ground), Image.new("RGB", size, ink), mask)

    assert agreement(normalise(picture), normalise(seven())) > 0.85


def test_pictures_without_colour_have_no_direction_of_hue() -> None:
    assert light.by_hue(seven()) is None
    assert light.by_hue(seven().convert("RGB")) is None


@pytest.mark.parametrize("strength", [0.25, 0.45])
def test_squared_paper_without_a_digit_is_blank(strength: float) -> None:
    sheet = Image.new("L", (280, 280), 200)

    with pytest.raises(UnreadableError) as caught:
        normalise(squared(sheet, strength))

    assert caught.value.reason == "blank"


def test_top_stroke_of_a_five_belongs_to_it_though_it_is_apart() -> None:
    picture = Image.new("L", (280, 280), 255)
    draw = ImageDraw.Draw(picture)
    draw.arc((80, 120, 180, 230), 200, 140, fill=0, width=8)
    draw.line((120, 84, 190, 76), fill=0, width=8)

    rows = np.flatnonzero(trace(picture).marks.any(axis=1))

    assert rows[0] < 50
