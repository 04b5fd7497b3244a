import pickle
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nanograd.errors import UnreadableError
from nanograd.pictures.decode import decode


def _encoded(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def _gradient() -> Image.Image:
    return Image.fromarray(np.arange(0, 252, 3, dtype=np.uint8).reshape(7, 12))


def _reason(data: bytes, **options: int) -> str:
    with pytest.raises(UnreadableError) as caught:
        decode(data, **options)
    return caught.value.reason


@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP", "TIFF", "PPM"])
def test_decode_of_a_lossless_format_returns_the_pixels(kind: str) -> None:
    picture = decode(_encoded(_gradient(), kind))

    assert np.array_equal(np.asarray(picture.convert("L")), np.asarray(_gradient()))


@pytest.mark.parametrize("kind", ["JPEG", "MPO", "WEBP"])
def test_decode_of_a_lossy_format_comes_close(kind: str) -> None:
    picture = decode(_encoded(Image.new("RGB", (31, 17), (200, 40, 90)), kind, quality=95))

    assert picture.size == (31, 17)
    assert np.abs(np.asarray(picture).astype(int) - (200, 40, 90)).max() < 12


def test_decode_turns_a_photo_upright_as_its_exif_says() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6

    picture = decode(_encoded(_gradient(), exif=exif))

    assert np.array_equal(np.asarray(picture), np.rot90(np.asarray(_gradient()), -1))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_decode_puts_transparency_over_white(mode: str) -> None:
    clear = Image.new(mode, (5, 3), 0)

    picture = decode(_encoded(clear))

    assert picture.getextrema() == ((255, 255),) * 3


def test_decode_puts_a_transparent_palette_over_white() -> None:
    palette = Image.new("P", (5, 3), 1)
    palette.putpalette([0, 0, 0, 9, 9, 9])

    picture = decode(_encoded(palette, transparency=1))

    assert picture.getextrema() == ((255, 255),) * 3


def test_decode_puts_a_transparent_grey_over_white() -> None:
    picture = decode(_encoded(Image.new("L", (5, 3), 7), transparency=7))

    assert picture.getextrema() == ((255, 255),) * 3


def test_decode_scales_16_bits_to_8() -> None:
    wide = np.arange(256, dtype=np.uint16).reshape(16, 16) * 257

    picture = decode(_encoded(Image.fromarray(wide)))

    assert np.array_equal(np.asarray(picture), wide // 257)


def test_decode_reads_shares_of_white_in_a_float_tiff() -> None:
    shares = np.linspace(0, 1, 35, dtype=np.float32).reshape(5, 7)

    picture = decode(_encoded(Image.fromarray(shares), "TIFF"))

    assert np.array_equal(np.asarray(picture), np.round(shares * 255))


def test_decode_reads_black_and_white() -> None:
    picture = decode(_encoded(_gradient().convert("1")))

    assert (picture.mode, picture.getextrema()) == ("L", (0, 255))


def test_decode_turns_cmyk_to_rgb() -> None:
    picture = decode(_encoded(Image.new("CMYK", (9, 9), (0, 0, 0, 0)), "JPEG"))

    assert (picture.mode, picture.getpixel((4, 4))) == ("RGB", (255, 255, 255))


def test_decode_of_a_large_jpeg_keeps_what_the_normaliser_needs() -> None:
    picture = decode(_encoded(Image.new("L", (2600, 1400), 99), "JPEG"))

    assert picture.size == (1300, 700)


def test_decode_refuses_too_many_pixels_before_loading_them() -> None:
    header_only = _encoded(Image.new("L", (101, 10)))[:60]

    assert _reason(header_only, max_pixels=1000) == "too_large"


def test_decode_refuses_a_bomb_without_a_warning() -> None:
    bomb = bytearray(_encoded(Image.new("L", (9, 9)), "BMP"))
    bomb[18:26] = np.array([20_000, 20_000], "<i4").tobytes()

    assert _reason(bytes(bomb)) == "too_large"


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "TIFF", "WEBP"])
def test_decode_of_a_file_cut_short_is_broken(kind: str) -> None:
    data = _encoded(Image.effect_noise((64, 48), 90), kind)

    assert _reason(data[: len(data) // 2]) == "broken_image"


@pytest.mark.parametrize(
    "data", [b"no picture", b"\x89PNG\r\n\x1a\n", b"%!PS-Adobe-3.0 EPSF-3.0\n"]
)
def test_decode_of_something_else_is_broken(data: bytes) -> None:
    assert _reason(data) == "broken_image"


def test_decode_of_nothing_is_empty() -> None:
    assert _reason(b"") == "empty"


def test_unreadable_error_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(UnreadableError("blank", "nothing there")))  # noqa: S301

    assert (error.reason, error.detail) == ("blank", "nothing there")
