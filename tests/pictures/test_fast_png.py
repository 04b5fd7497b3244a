import zlib
from collections.abc import Callable
from functools import partial
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nanograd.images.rows import read_encoded, read_plain, to_form
from nanograd.pictures.fast_png import decode_plain, encode_plain
from nanograd.runtime.arrays import Bytes, Ints
from nanograd.settings.specs import ReadOptions
from tests.helpers.odd_files import chunk, encoded

HEADER = b"\0\0\0\x1c\0\0\0\x1c\x08\0\0\0\0"


def saved(image: Bytes, **options: Any) -> bytes:
    return encoded(Image.fromarray(image.reshape(28, 28)), "PNG", **options)


def filtered(image: Bytes, kinds: Ints) -> bytes:
    """A file whose line n has the filter kinds[n], by the formulas of the specification."""
    lines = b""
    above = [0] * 28
    for row, kind in zip(image.reshape(28, 28).tolist(), kinds.tolist(), strict=True):
        predicted = []
        for x in range(28):
            left, corner = (row[x - 1], above[x - 1]) if x else (0, 0)
            up = above[x]
            estimate = left + up - corner
            nearest = min((left, up, corner), key=lambda value: abs(estimate - value))
            predicted.append((0, left, up, (left + up) // 2, nearest)[kind])
        lines += bytes([kind, *((p - q) % 256 for p, q in zip(row, predicted, strict=True))])
        above = row
    return file(lines)


def file(lines: bytes, header: bytes = HEADER, more: bytes = b"", split: bool = False) -> bytes:
    packed = zlib.compress(lines)
    parts = [packed[:50], packed[50:]] if split else [packed]
    pixels = b"".join(chunk(b"IDAT", part) for part in parts)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + more + pixels + chunk(b"IEND", b"")


@pytest.fixture(scope="module")
def noise() -> Bytes:
    return np.random.default_rng(7).integers(0, 256, (193, 784), np.uint8)


def test_every_filter_is_undone(noise):
    kinds = np.random.default_rng(1).integers(0, 5, (193, 28))
    files = [filtered(image, kind) for image, kind in zip(noise, kinds, strict=True)]

    images, plain = decode_plain(files)

    assert plain.all()
    assert np.array_equal(images, noise)


def test_files_from_pillow_and_ours_keep_their_pixels(sample):
    digits = sample.test.images[:193]
    files = [
        *(saved(digits[0]), saved(digits[1], optimize=True), saved(digits[2], compress_level=0)),
        *encode_plain(digits[3:]),
    ]

    images, plain = decode_plain(files)

    assert plain.all()
    assert np.array_equal(images, digits)
    assert np.array_equal(np.asarray(Image.open(BytesIO(files[7]))).ravel(), digits[7])


LINES = bytes(29 * 28)
OTHERS: dict[str, Callable[[], bytes | None]] = {
    **{str(data): lambda data=data: data for data in (None, b"", b"\x89PNG")},  # type: ignore[misc]
    "other size": lambda: saved(np.zeros(784, np.uint8)).replace(HEADER[:8], HEADER[:7] + b"\x1d"),
    "interlaced": lambda: file(LINES, HEADER[:-1] + b"\1"),
    "palette": lambda: file(LINES, HEADER[:9] + b"\3" + HEADER[10:], chunk(b"PLTE", bytes(6))),
    "transparent": lambda: file(LINES, more=chunk(b"tRNS", b"\0\0")),
    "gamma": lambda: file(LINES, more=chunk(b"gAMA", b"\0\0\xb1\x8f")),
    "two chunks of pixels": lambda: file(bytes(range(256)) * 3 + bytes(44), split=True),
    "a line more": lambda: file(LINES + bytes(29)),
    "a line less": lambda: file(LINES[29:]),
    "unknown filter": lambda: file(LINES[:-29] + b"\5" + bytes(28)),
    "wrong checksum": lambda: file(LINES)[:-13] + b"\0" + file(LINES)[-12:],
    "cut": lambda: file(LINES)[:-1],
    "bytes behind": lambda: file(LINES) + b"\0",
    "bomb": lambda: file(bytes(10_000_000)),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_files_that_are_not_plain_are_left_to_pillow(kind, noise):
    images, plain = decode_plain([saved(noise[0]), OTHERS[kind](), saved(noise[1])])
    none, _ = decode_plain([OTHERS[kind]()])

    assert plain.tolist() == [True, False, True]
    assert np.array_equal(images, noise[:2])
    assert none.shape == (0, 784)


@pytest.mark.parametrize(
    ("polarity", "normalise", "wanted"),
    [
        *(("auto", "auto", 120), ("light-on-dark", "auto", 60), ("dark-on-light", "auto", 60)),
        *(("auto", "always", None), ("light-on-dark", "never", None)),
    ],
)
def test_reading_at_once_gives_what_each_file_alone_gives(
    sample, noise, polarity, normalise, wanted
):
    digits = sample.test.images[:60]
    moved = np.roll(digits[:20].reshape(-1, 28, 28), 2, axis=1).reshape(-1, 784)
    blank = np.zeros((1, 784), np.uint8)
    files = [saved(image) for image in (*digits, *(255 - digits), *moved, *blank, *noise[:5])]
    whole = files[0]  # a checksum covers every byte
    damaged = [whole[:n] + bytes([whole[n] ^ 8]) + whole[n + 1 :] for n in range(len(whole))]
    files += damaged
    options = ReadOptions(polarity=polarity, normalise=normalise)

    images, which = read_plain(files, options)

    assert len(images) == which.sum()
    assert wanted in (len(images), None)
    assert not which[len(files) - len(damaged) :].any()
    for data, image in zip(np.array(files, object)[which], images, strict=True):
        assert np.array_equal(read_encoded(data, options, partial(to_form, options=options)), image)
