import pickle
import warnings

import numpy as np
import pytest
from PIL import Image

from nanograd.errors import Reason, UnreadableError
from nanograd.pictures.decode import decode
from nanograd.settings.specs import PictureOptions
from tests.helpers.odd_files import encoded


def gradient() -> Image.Image:
    return Image.fromarray(np.arange(0, 252, 3, dtype=np.uint8).reshape(7, 12))


def transparent(mode: str) -> bytes:
    """A file of which nothing is visible."""
    picture = Image.new(mode, (5, 3), {"P": 1, "L": 7}.get(mode, 0))
    if mode == "P":
        picture.putpalette([0, 0, 0, 9, 9, 9])
    return encoded(picture, transparency={"P": 1, "L": 7}.get(mode))


@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP", "TIFF", "PPM"])
def test_lossless_format_keeps_the_pixels(kind: str) -> None:
    picture = decode(encoded(gradient(), kind))

    assert np.array_equal(np.asarray(picture.convert("L")), np.asarray(gradient()))


@pytest.mark.parametrize("kind", ["JPEG", "MPO", "WEBP"])
def test_lossy_format_nearly_keeps_the_pixels(kind: str) -> None:
    picture = decode(encoded(Image.new("RGB", (31, 17), (200, 40, 90)), kind, quality=95))

    assert picture.size == (31, 17)
    assert np.abs(np.asarray(picture).astype(int) - (200, 40, 90)).max() < 12


def test_picture_is_rotated_as_its_exif_states() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6

    picture = decode(encoded(gradient(), exif=exif))

    assert np.array_equal(np.asarray(picture), np.rot90(np.asarray(gradient()), -1))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L"])
def test_transparency_is_laid_over_white(mode: str) -> None:
    picture = decode(transparent(mode))

    assert picture.getextrema() == ((255, 255),) * 3


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
@pytest.mark.parametrize(("ink", "ground"), [(255, 0), (200, 0), (100, 255), (0, 255)])
def test_ink_on_nothing_is_laid_over_the_contrasting_ground(
    mode: str, ink: int, ground: int
) -> None:
    alpha = np.zeros((40, 40), np.uint8)
    alpha[5:30, 18:22] = 255
    layer = np.dstack([np.full((40, 40), ink, np.uint8), alpha])
    picture = Image.fromarray(layer, "LA").convert("RGBA")
    if mode != "RGBA":
        picture = picture.convert("LA") if mode == "LA" else picture.quantize(4)

    levels = np.asarray(decode(encoded(picture)).convert("L")).astype(int)

    assert abs(levels[0, 0] - ground) < 8
    assert abs(levels[10, 20] - ink) < 8


def test_white_paper_with_clear_corners_stays_on_white() -> None:
    pixels = np.full((40, 40, 4), 255, np.uint8)
    pixels[5:30, 18:22, :3] = 60
    pixels[:12, :12, 3] = 0

    assert np.asarray(decode(encoded(Image.fromarray(pixels))))[0, 0].tolist() == [255] * 3


def test_warning_that_a_program_makes_an_error_is_one_bad_picture(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    data = encoded(gradient())

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UnreadableError, match="too_large"):
            decode(data)


def test_16_bits_are_scaled_to_8() -> None:
    wide = np.arange(256, dtype=np.uint16).reshape(16, 16) * 257

    picture = decode(encoded(Image.fromarray(wide)))

    assert np.array_equal(np.asarray(picture), wide // 257)


def test_floats_of_a_tiff_are_shares_of_white() -> None:
    shares = np.linspace(0, 1, 35, dtype=np.float32).reshape(5, 7)

    picture = decode(encoded(Image.fromarray(shares), "TIFF"))

    assert np.array_equal(np.asarray(picture), np.round(shares * 255))


def test_black_and_white_becomes_grey() -> None:
    picture = decode(encoded(gradient().convert("1")))

    assert (picture.mode, picture.getextrema()) == ("L", (0, 255))


def test_cmyk_becomes_rgb() -> None:
    picture = decode(encoded(Image.new("CMYK", (9, 9), (0, 0, 0, 0)), "JPEG"))

    assert (picture.mode, picture.getpixel((4, 4))) == ("RGB", (255, 255, 255))


def test_large_jpeg_keeps_the_size_that_the_normaliser_needs() -> None:
    picture = decode(encoded(Image.new("L", (2600, 1400), 99), "JPEG"))

    assert picture.size == (1300, 700)


def test_too_many_pixels_are_refused_before_they_are_loaded() -> None:
    header_only = encoded(Image.new("L", (101, 10)))[:60]

    with pytest.raises(UnreadableError, match=r"^too_large"):
        decode(header_only, PictureOptions(max_pixels=1000))


@pytest.mark.parametrize("brand", [b"heic", b"mif1", b"avif"])
def test_picture_of_a_phone_is_refused_with_its_remedy(brand: bytes) -> None:
    with pytest.raises(UnreadableError, match="export the picture as JPEG"):
        decode(b"\0\0\0\x18ftyp" + brand + bytes(100))


def test_unreadable_error_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(UnreadableError(Reason.BLANK, "nothing there")))  # noqa: S301

    assert (error.reason, error.detail) == (Reason.BLANK, "nothing there")
