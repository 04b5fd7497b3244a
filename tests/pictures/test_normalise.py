from collections.abc import Callable
from functools import partial
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageOps

from nanograd import sources
from nanograd.digits.dataset import Mnist
from nanograd.digits.form import are_mnist_like, centre_of_mass
from nanograd.errors import UnreadableError
from nanograd.pictures.decode import decode
from nanograd.pictures.normalise import normalise, trace

Images = NDArray[np.uint8]
SHARED = Path(__file__).parents[2].parent / "shared/data"


@pytest.fixture(scope="module")
def mnist(mnist_place: str) -> Images:
    loaded = sources.load([mnist_place])
    return np.concatenate([loaded.train.images, loaded.test.images]).reshape(-1, 28, 28)


def seven(
    size: int = 280,
    pen: int = 20,
    ink: int = 0,
    paper: int = 255,
    shift: tuple[int, int] = (0, 0),
) -> Image.Image:
    """A 7 that fills the middle third of a square sheet."""
    picture = Image.new("L", (size, size), paper)
    points = [(size * 0.35, size * 0.3), (size * 0.65, size * 0.3), (size * 0.45, size * 0.7)]
    moved = [(x + shift[0], y + shift[1]) for x, y in points]
    ImageDraw.Draw(picture).line(moved, fill=ink, width=pen, joint="curve")
    return picture


def agreement(image: Images, other: Images) -> float:
    """Share of ink that two images have in common, 0 to 1."""
    return float(np.minimum(image, other).sum() / np.maximum(image, other).sum())


def reason_of(picture: Image.Image) -> str:
    with pytest.raises(UnreadableError) as caught:
        normalise(picture)
    return caught.value.reason


def test_every_mnist_image_has_mnists_form(mnist: Images) -> None:
    assert are_mnist_like(mnist.reshape(-1, 784)).all()


def test_mnist_images_also_in_colour_or_inverted_keep_their_bits(mnist: Images) -> None:
    for image in mnist[::350]:
        stream = BytesIO()
        Image.fromarray(image).save(stream, "PNG")

        assert np.array_equal(normalise(decode(stream.getvalue())), image)
        assert np.array_equal(normalise(Image.fromarray(image).convert("RGB")), image)
        assert np.array_equal(normalise(Image.fromarray(255 - image)), image)


@pytest.mark.parametrize("border", [(0, 0), (2, 2), (1, 0), (6, 18), (18, 18)])
def test_mnist_images_with_a_border_keep_their_bits(border: tuple[int, int], mnist: Images) -> None:
    for image in mnist[::700]:
        bordered = np.pad(image, [(each, each) for each in border])

        for picture in (bordered, 255 - bordered):
            assert np.array_equal(normalise(Image.fromarray(picture)), image)
            colour = Image.fromarray(picture).convert("RGB")
            assert np.array_equal(normalise(colour), image)


def test_border_with_ink_or_of_large_pictures_is_not_cut_off(mnist: Images) -> None:
    image = mnist[7]
    marked, large = np.pad(image, 2), np.pad(image, 19)
    marked[0, 0] = 1

    for picture in (marked, large):
        assert not np.array_equal(normalise(Image.fromarray(picture)), image)


def test_shifted_mnist_images_do_not_have_mnists_form(mnist: Images) -> None:
    shifted = np.roll(mnist[::100], (2, -2), axis=(1, 2))

    assert not are_mnist_like(shifted.reshape(-1, 784)).any()


def test_shifted_mnist_images_are_shifted_back(mnist: Images) -> None:
    for image in mnist[::2000]:
        shifted = Image.new("L", (40, 36))
        shifted.paste(Image.fromarray(image), (9, 2))

        assert agreement(normalise(shifted), image) > 0.5


def test_normalise_gives_mnists_form() -> None:
    image = normalise(seven())

    rows, columns = np.flatnonzero(image.any(1)), np.flatnonzero(image.any(0))
    assert (image.shape, image.dtype, image.max()) == ((28, 28), np.uint8, 255)
    assert max(np.ptp(rows), np.ptp(columns)) + 1 == 20
    assert all(13.5 <= place < 14.5 for place in centre_of_mass(image))


@pytest.mark.parametrize(("ink", "paper"), [(0, 255), (255, 0), (60, 190), (150, 40), (120, 160)])
def test_normalise_finds_ink_of_any_tone(ink: int, paper: int) -> None:
    assert agreement(normalise(seven(ink=ink, paper=paper)), normalise(seven())) > 0.85


def test_normalise_obeys_a_forced_polarity() -> None:
    picture = seven(ink=0, paper=255)

    forced = normalise(picture, polarity="dark-on-light")

    assert np.array_equal(forced, normalise(picture))


def test_normalise_refuses_an_unknown_polarity() -> None:
    with pytest.raises(ValueError, match="polarity"):
        normalise(seven(), polarity="dark")


@pytest.mark.parametrize("size", [56, 193, 900, 2000])
def test_normalise_is_independent_of_the_pictures_size(size: int) -> None:
    image = normalise(seven(size=size, pen=round(size / 14)))

    # The centre of mass may fall to either side of a pixel's edge.
    shifts = [(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1)]
    plain = normalise(seven())
    assert max(agreement(np.roll(image, shift, (0, 1)), plain) for shift in shifts) > 0.7


@pytest.mark.parametrize("pen", [2, 4, 8, 40])
def test_normalise_adjusts_any_pen_to_mnists_width(pen: int) -> None:
    image = normalise(seven(pen=pen))

    assert 60 < image.sum() / 255 < 130


def coloured(ink: str) -> Image.Image:
    size = seven().size
    return Image.composite(Image.new("RGB", size, "white"), Image.new("RGB", size, ink), seven())


def unevenly_lit() -> Image.Image:
    grey = np.asarray(seven(ink=60), dtype=float)
    y, x = np.mgrid[0:1:280j, 0:1:280j]
    noise = np.random.default_rng(3).normal(0, 3, grey.shape)
    lit = np.clip(grey * (0.95 - 0.35 * x - 0.3 * y**2) + noise, 0, 255)
    return Image.fromarray(lit.astype(np.uint8))


def framed_with_a_speck() -> Image.Image:
    picture = seven()
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, 0, 279, 279), outline=100)
    draw.rectangle((20, 250, 23, 253), fill=0)
    return picture


def sheet_on_white() -> Image.Image:
    picture = Image.new("L", (400, 400), 255)
    picture.paste(seven(paper=225).crop((60, 40, 220, 240)), (120, 100))
    return picture


def lined(strength: int, squared: bool) -> Image.Image:
    picture = Image.new("L", (280, 280), 255)
    draw = ImageDraw.Draw(picture)
    for place in range(10, 280, 45):
        draw.line((0, place, 279, place + 6), fill=strength, width=3)
        if squared:
            draw.line((place, 0, place - 6, 279), fill=strength, width=3)
    return ImageChops.darker(picture, seven())


# Pictures of the seven, and the least agreement with the plain one.
SEVENS: dict[str, tuple[Callable[[], Image.Image], float]] = {
    **{ink: (partial(coloured, ink), 0.85) for ink in ("red", "blue", "green", "goldenrod")},
    "uneven light": (unevenly_lit, 0.75),
    "specks and a frame": (framed_with_a_speck, 0.9),
    "the edge of a sheet on white": (sheet_on_white, 0.8),
    "touching the frame": (lambda: seven().crop(ImageOps.invert(seven()).getbbox()), 0.75),
    "ruled": (partial(lined, 225, False), 0.85),
    "darkly ruled": (partial(lined, 200, False), 0.85),
    "squared": (partial(lined, 225, True), 0.85),
    "darkly squared": (partial(lined, 200, True), 0.85),
}


@pytest.mark.parametrize("kind", SEVENS)
def test_normalise_finds_the_digit_in_every_kind_of_picture(kind: str) -> None:
    picture, least = SEVENS[kind]

    assert agreement(normalise(picture()), normalise(seven())) > least


def test_normalise_keeps_a_separate_top_stroke() -> None:
    picture = seven()
    ImageDraw.Draw(picture).rectangle((110, 225, 160, 240), fill=0)

    whole, without = normalise(picture), normalise(seven())

    assert agreement(whole, without) < 0.8


def test_normalise_widens_a_one_of_a_single_column() -> None:
    picture = Image.new("L", (28, 28), 0)
    ImageDraw.Draw(picture).line((10, 4, 10, 20), fill=255)

    image = normalise(picture)

    assert np.ptp(np.flatnonzero(image.any(1))) + 1 == 20
    assert 1.5 < image.sum() / 255 / 20 < 3.5


def test_trace_ends_in_the_image_of_normalise() -> None:
    taken = trace(seven())

    assert taken.refused is None
    assert taken.search is not None
    assert taken.marks is not None
    assert taken.marks.shape == taken.search.shape[1:]
    assert np.array_equal(taken.image, normalise(seven()))


@pytest.mark.parametrize("tone", [0, 128, 255])
def test_trace_of_a_single_tone_has_the_steps_before_its_refusal(tone: int) -> None:
    picture = Image.new("L", (90, 70), tone)

    taken = trace(picture)

    assert reason_of(picture) == "blank"
    assert taken.ink is not None
    assert taken.marks is taken.image is None
    assert taken.refused is not None
    assert taken.refused.reason == "blank"


def test_paper_grain_is_not_a_digit() -> None:
    grain = np.random.default_rng(0).normal(200, 4, (300, 200)).astype(np.uint8)

    reason = reason_of(Image.fromarray(grain).filter(ImageFilter.BoxBlur(1)))

    assert reason in {"blank", "low_contrast", "too_many_marks"}


@pytest.mark.parametrize("inverted", [False, True])
def test_normalise_separates_ink_from_paper_under_a_shadow(inverted: bool) -> None:
    y, x = np.mgrid[0:1:280j, 0:1:280j]
    light = 1 - 0.5 * np.clip((x + 0.6 * y - 0.8) / 0.2, 0, 1)
    picture = Image.fromarray((np.asarray(seven(pen=12)) * light).astype(np.uint8))
    if inverted:
        picture = ImageOps.invert(picture)

    taken = trace(picture)

    assert taken.inverted is inverted
    assert taken.image is not None
    assert agreement(taken.image, normalise(seven(pen=12))) > 0.7


def test_a_piece_of_another_digit_at_the_border_is_left_out() -> None:
    picture = seven(pen=8)
    ImageDraw.Draw(picture).ellipse((250, 60, 330, 220), outline=0, width=16)

    assert agreement(normalise(picture), normalise(seven(pen=8))) > 0.9


def test_two_digits_side_by_side_are_too_many() -> None:
    picture = Image.new("L", (560, 280), 255)
    picture.paste(seven(shift=(60, 0)), (0, 0))
    picture.paste(seven(shift=(-60, 0)), (280, 0))

    assert reason_of(picture) == "too_many_marks"


@pytest.mark.parametrize("series", ["drawn", "photo", "scan"])
def test_every_file_of_the_development_set_is_read(series: str) -> None:
    files = sorted((SHARED / "handwriting").glob(f"{series}-*"))
    if not files:
        pytest.skip("the shared handwriting files are not here")

    images = [normalise(decode(file.read_bytes())) for file in files]

    assert all(20 < image.sum() / 255 < 200 for image in images)


@pytest.mark.parametrize("inverted", [False, True])
def test_two_digits_side_by_side_are_refused(sample: Mnist, *, inverted: bool) -> None:
    digits = sample.test.images[:120].reshape(-1, 28, 28) ^ np.uint8(255 * inverted)

    for left, right in zip(digits[::2], digits[1::2], strict=True):
        with pytest.raises(UnreadableError, match="too_many_marks"):
            normalise(Image.fromarray(np.concatenate([left, right], axis=1)))


def test_one_digit_in_a_wide_bitmap_is_read(sample: Mnist) -> None:
    for digit in sample.test.images[:60].reshape(-1, 28, 28):
        wide = np.pad(digit, ((0, 0), (8, 20)))

        normalise(Image.fromarray(wide))
