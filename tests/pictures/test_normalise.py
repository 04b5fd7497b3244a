from contextlib import suppress
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from nanograd.digits.dataset import Mnist
from nanograd.digits.form import are_mnist_like, centre_of_mass
from nanograd.errors import UnreadableError
from nanograd.images import sources
from nanograd.pictures.decode import decode
from nanograd.pictures.normalise import normalise, trace
from nanograd.runtime.arrays import Bytes
from tests.conftest import SHARED
from tests.helpers.sevens import seven


@pytest.fixture(scope="module")
def mnist(mnist_place: str) -> Bytes:
    loaded = sources.load([mnist_place])
    return np.concatenate([loaded.train.images, loaded.test.images]).reshape(-1, 28, 28)


def reason_of(picture: Image.Image) -> str:
    with pytest.raises(UnreadableError) as caught:
        normalise(picture)
    return caught.value.reason


def test_mnist_images_have_mnists_form_unless_they_are_shifted(mnist):
    shifted = np.roll(mnist[::100], (2, -2), axis=(1, 2))

    assert are_mnist_like(mnist.reshape(-1, 784)).all()
    assert not are_mnist_like(shifted.reshape(-1, 784)).any()


@pytest.mark.parametrize("border", [(0, 0), (1, 0), (6, 18)])
def test_mnist_images_bordered_in_colour_or_inverted_keep_their_bits(border, mnist):
    for image in mnist[::700]:
        bordered = np.pad(image, [(each, each) for each in border])

        for picture in (bordered, 255 - bordered):
            assert np.array_equal(normalise(Image.fromarray(picture)), image)
            assert np.array_equal(normalise(Image.fromarray(picture).convert("RGB")), image)


def test_border_with_ink_or_of_large_pictures_is_not_cut_off(mnist):
    image = mnist[7]
    marked, large = np.pad(image, 2), np.pad(image, 19)
    marked[0, 0] = 1

    for picture in (marked, large):
        assert not np.array_equal(normalise(Image.fromarray(picture)), image)


def test_trace_ends_in_the_image_of_normalise_in_mnists_form():
    taken, image = trace(seven()), normalise(seven())

    rows, columns = np.flatnonzero(image.any(1)), np.flatnonzero(image.any(0))
    assert (image.shape, image.dtype, image.max()) == ((28, 28), np.uint8, 255)
    assert max(np.ptp(rows), np.ptp(columns)) + 1 == 20
    assert all(13.5 <= place < 14.5 for place in centre_of_mass(image))
    assert taken.refused is None
    assert taken.marks is not None
    assert taken.marks.shape == taken.search.shape[1:]
    assert np.array_equal(taken.image, image)


def test_forced_polarity_is_obeyed():
    right, wrong = (normalise(seven(), polarity=p) for p in ("dark-on-light", "light-on-dark"))

    assert np.array_equal(right, normalise(seven()))
    assert not np.array_equal(wrong, right)


@pytest.mark.parametrize("pen", [2, 40])
def test_normalise_adjusts_any_pen_to_mnists_width(pen):
    assert 60 < normalise(seven(pen=pen)).sum() / 255 < 130


@pytest.mark.parametrize("tone", [0, 128, 255])
def test_trace_of_a_single_tone_has_the_steps_before_its_refusal(tone):
    picture = Image.new("L", (90, 70), tone)

    taken = trace(picture)

    assert taken.ink is not None
    assert taken.marks is taken.image is None
    assert taken.refused is not None
    assert taken.refused.reason == reason_of(picture) == "blank"


def test_paper_grain_is_not_a_digit():
    grain = np.random.default_rng(0).normal(200, 4, (300, 200)).astype(np.uint8)

    reason = reason_of(Image.fromarray(grain).filter(ImageFilter.BoxBlur(1)))

    assert reason in {"blank", "low_contrast", "too_many_marks"}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("size", [(300, 6), (6, 300), (200, 1), (1, 90), (66, 2), (1000, 20)])
def test_narrow_pictures_are_read_or_refused(size):
    width, height = size
    for level in np.random.default_rng(0).integers(0, 256, (20, 3)):
        pixels = np.full((height, width), level[0], np.uint8)
        pixels[height // 2 :, width // 2 :] = level[1]
        pixels[height // 3 : height // 2 + 1, width // 3 : width // 2 + 1] = level[2]
        with suppress(UnreadableError):
            assert normalise(Image.fromarray(pixels)).shape == (28, 28)


@pytest.mark.parametrize("series", ["drawn", "photo", "scan"])
def test_every_file_of_the_development_set_is_read(series):
    files = sorted((SHARED / "handwriting").glob(f"{series}-*"))
    if not files:
        pytest.skip("the shared handwriting files are not here")

    images = [normalise(decode(file.read_bytes())) for file in files]

    assert all(20 < image.sum() / 255 < 200 for image in images)


def pairs_of_bitmaps(sample: Mnist) -> list[Image.Image]:
    digits = sample.test.images[:120].reshape(60, 2, 28, 28)
    pairs = [np.concatenate(list(pair), axis=1) for pair in digits]
    return [Image.fromarray(pair ^ np.uint8(number % 2 * 255)) for number, pair in enumerate(pairs)]


def pair_of_drawings(sample: Mnist) -> list[Image.Image]:
    picture = Image.new("L", (560, 280), 255)
    picture.paste(seven(shift=(60, 0)), (0, 0))
    picture.paste(seven(shift=(-60, 0)), (280, 0))
    return [picture]


def pairs_of_ones(sample: Mnist) -> list[Image.Image]:
    ones = [each.reshape(28, 28) for each in sample.test.images[sample.test.labels == 1][:20]]
    ones = [np.pad(each[:, each.any(0)], ((0, 0), (2, 2))) for each in ones]
    pairs = [np.concatenate([one, other], axis=1) for one, other in pairwise(ones)]
    drawn = [Image.fromarray(255 - np.pad(pair, 12)) for pair in pairs]
    return [each.resize((5 * each.width, 5 * each.height)) for each in drawn]


@pytest.mark.parametrize("pairs", [pairs_of_bitmaps, pair_of_drawings, pairs_of_ones])
def test_two_digits_side_by_side_are_refused(pairs, sample):
    assert {reason_of(picture) for picture in pairs(sample)} == {"too_many_marks"}


def test_halves_of_a_zero_are_one_digit():
    for gap in (20, 35, 50):  # degrees
        picture = Image.new("L", (280, 280), 255)
        for side in (0, 180):
            ends = side + 90 + gap / 2, side + 270 - gap / 2
            ImageDraw.Draw(picture).arc((90, 60, 190, 220), *ends, fill=0, width=12)
        assert normalise(picture).shape == (28, 28)


def test_one_digit_in_a_wide_bitmap_is_read(sample):
    for digit in sample.test.images[:60].reshape(-1, 28, 28):
        normalise(Image.fromarray(np.pad(digit, ((0, 0), (8, 20)))))
