import pickle
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from nanograd.errors import UnreadableError, UsageError
from nanograd.pictures.decode import decode
from nanograd.settings.specs import PictureOptions
from tests.helpers.odd_files import encoded

WIDE = np.arange(256, dtype=np.uint16).reshape(16, 16) * 257
SHARES = np.linspace(0, 1, 35, dtype=np.float32).reshape(5, 7)
GRADIENT = np.arange(0, 252, 3, dtype=np.uint8).reshape(7, 12)


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(Image.fromarray(GRADIENT), exif=exif)


@pytest.mark.parametrize(
    ("data", "pixels"),
    [
        *((encoded(Image.fromarray(GRADIENT), kind), GRADIENT) for kind in ("PNG", "BMP", "TIFF")),
        *((encoded(Image.fromarray(GRADIENT), kind), GRADIENT) for kind in ("GIF", "PPM")),
        (turned(), np.rot90(GRADIENT, -1)),
        (encoded(Image.fromarray(WIDE)), WIDE // 257),
        (encoded(Image.fromarray(SHARES), "TIFF"), np.round(SHARES * 255)),
        (encoded(Image.fromarray(WIDE), "TIFF", tiffinfo={262: 0}), 255 - WIDE // 257),
    ],
    ids=[
        *("PNG", "BMP", "TIFF", "GIF", "PPM", "turned-by-EXIF", "16-bits", "shares-of-white"),
        "16-bits-0-is-white",
    ],
)
def test_lossless_file_gives_its_pixels_in_8_bits(data, pixels):
    assert np.array_equal(np.asarray(decode(data).convert("L")), pixels)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "L"])
def test_fully_transparent_picture_is_white(mode):
    picture = Image.new(mode, (5, 3), 7 if mode == "L" else 0)

    decoded = decode(encoded(picture, transparency=7 if mode == "L" else None))

    assert decoded.getextrema() == ((255, 255),) * 3


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
@pytest.mark.parametrize(("ink", "ground"), [(200, 0), (100, 255), (0, 255)])
def test_ink_on_nothing_is_laid_over_the_contrasting_ground(mode, ink, ground):
    alpha = np.zeros((40, 40), np.uint8)
    alpha[5:30, 18:22] = 255
    layer = np.dstack([np.full((40, 40), ink, np.uint8), alpha])
    picture = Image.fromarray(layer, "LA").convert("RGBA")
    if mode != "RGBA":
        picture = picture.convert("LA") if mode == "LA" else picture.quantize(4)

    levels = np.asarray(decode(encoded(picture)).convert("L")).astype(int)

    assert abs(levels[0, 0] - ground) < 8
    assert abs(levels[10, 20] - ink) < 8


def test_white_paper_with_clear_corners_stays_on_white():
    pixels = np.full((40, 40, 4), 255, np.uint8)
    pixels[5:30, 18:22, :3] = 60
    pixels[:12, :12, 3] = 0

    assert np.asarray(decode(encoded(Image.fromarray(pixels))))[0, 0].tolist() == [255] * 3


def test_large_jpeg_keeps_the_size_that_the_normaliser_needs():
    data = encoded(Image.new("L", (2600, 1400), 99), "JPEG")

    assert decode(data).size == (1300, 700)
    assert decode(data, whole=True).size == (2600, 1400)


def test_warning_that_a_program_makes_an_error_is_one_bad_picture(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    data = encoded(Image.fromarray(GRADIENT))

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UnreadableError, match="too_large"):
            decode(data)


def test_more_pixels_than_pillow_decodes_are_refused_with_the_number_of_the_setting():
    data = bytearray(encoded(Image.new("L", (9, 9))))
    data[16:24] = struct.pack(">II", 30_000, 30_000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))

    with pytest.raises(UnreadableError, match=r"too_large: .*more than 50000000 pixels"):
        decode(bytes(data))
    with pytest.raises(UsageError, match="max-pixels is 178956971: it must be at most"):
        PictureOptions(max_pixels=2 * (Image.MAX_IMAGE_PIXELS or 0) + 1)


@pytest.mark.parametrize(
    ("start", "remedy"),
    [
        (b"\0\0\0\x18ftypheic", "the picture as JPEG"),
        (b"%PDF-1.7", "the picture as JPEG or PNG"),
        (b"\x1f\x8b\x08", "only ZIP files"),
        (bytes(257) + b"ustar", "only ZIP files"),
        (b"PAR1", "train and predict read tables"),
        (b"PK\3\4", "rename it to .zip"),
    ],
)
def test_file_of_another_kind_is_refused_with_its_remedy(start, remedy):
    with pytest.raises(UnreadableError, match=remedy) as caught:
        decode(start + bytes(100))

    again = pickle.loads(pickle.dumps(caught.value))  # noqa: S301
    assert (again.reason, again.detail) == (caught.value.reason, caught.value.detail)


@pytest.mark.parametrize(("size", "said"), [(1, "1 byte"), (1200, "1,200 bytes")])
def test_message_counts_bytes_in_singular_and_plural(size, said):
    with pytest.raises(UnreadableError, match=rf"its content \({said}\) is not a picture in PNG"):
        decode(bytes(size))


def test_pages_of_a_file_are_not_lost() -> None:
    page, copy = Image.fromarray(GRADIENT), Image.fromarray(GRADIENT).reduce(2)
    copy.encoderinfo = {"tiffinfo": {254: 1}}  # "reduced-resolution image" in TIFF's terms

    read = decode(encoded(page, "TIFF", save_all=True, append_images=[copy]))

    assert (np.asarray(read) == GRADIENT).all()
    with pytest.raises(UnreadableError, match=r"^broken_image: the file has several pages"):
        decode(encoded(page, "TIFF", save_all=True, append_images=[page.rotate(90)]))
