"""Odd picture files of a digit, and bad ones with their reason."""

import struct
import zlib
from collections.abc import Callable
from functools import partial
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

SEVEN = ((50, 50), (150, 50), (90, 160))


def drawing(mode: str = "RGB", *, paper: Any = "white", ink: Any = "black") -> Image.Image:
    """A seven on paper, 200 x 200."""
    picture = Image.new(mode, (200, 200), paper)
    ImageDraw.Draw(picture).line(SEVEN, fill=ink, width=12)
    return picture


def encoded(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def sixteen_bits(highest: int, kind: str = "PNG") -> bytes:
    return encoded(Image.fromarray(np.asarray(drawing("L"), np.uint16) * (highest // 255)), kind)


def animated(kind: str) -> bytes:
    """The digit, then an empty frame."""
    frames = [Image.new("RGB", (200, 200), "white")]
    return encoded(drawing(), kind, save_all=True, append_images=frames, duration=100)


def transparent_palette() -> bytes:
    picture = Image.new("P", (200, 200), 1)
    picture.putpalette([0, 0, 0, 0, 0, 0])
    ImageDraw.Draw(picture).line(SEVEN, fill=0, width=12)
    return encoded(picture, "PNG", transparency=1)


def layered(mode: str = "RGBA", kind: str = "PNG") -> bytes:
    """Black ink on black that is fully transparent; in CMYK, black ink on white."""
    return encoded(drawing(mode, paper=(0, 0, 0, 0), ink=(0, 0, 0, 255)), kind)


def with_exif() -> bytes:
    exif = Image.Exif()
    exif.update({0x0112: 1, 0x010E: "x" * 60_000})
    return encoded(drawing(), "JPEG", exif=exif)


def half(kind: str) -> bytes:
    data = encoded(drawing(), kind)
    return data[: len(data) // 2]


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_that_claims(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 1000)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


def bmp_bomb() -> bytes:
    data = encoded(Image.new("L", (9, 9)), "BMP")
    return data[:18] + struct.pack("<ii", 20_000, 20_000) + data[26:]


def several() -> bytes:
    picture = Image.new("L", (400, 200), 255)
    draw = ImageDraw.Draw(picture)
    for left in (40, 160, 280):
        draw.line([(x + left - 40, y) for x, y in ((40, 40), (90, 40), (60, 160))], width=10)
    return encoded(picture, "PNG")


READABLE: dict[str, Callable[[], bytes]] = {
    "png under.jpg": lambda: encoded(drawing()),
    "jpeg under.png": lambda: encoded(drawing(), "JPEG"),
    "mpo under.jpg": lambda: encoded(drawing(), "MPO", save_all=True, append_images=[drawing()]),
    "webp under.gif": lambda: encoded(drawing(), "WEBP"),
    "16 bits.png": lambda: sixteen_bits(65535),
    "12 of 16 bits.png": lambda: sixteen_bits(4095),
    "16 bits.tiff": lambda: sixteen_bits(255, "TIFF"),
    "cmyk.jpg": lambda: layered("CMYK", "JPEG"),
    "cmyk.tif": lambda: layered("CMYK", "TIFF"),
    **{f"animated.{kind}": partial(animated, kind.upper()) for kind in ("gif", "webp", "png")},
    "transparent palette.png": transparent_palette,
    "transparent.png": layered,
    "huge exif.jpg": with_exif,
    "plain.bmp": lambda: encoded(drawing(), "BMP"),
    "bits.pbm": lambda: encoded(drawing("1", paper=1, ink=0), "PPM"),
    "LOUD.PNG": lambda: encoded(drawing()),
}

HALVED = ("png", "jpeg", "gif", "webp", "bmp", "tiff", "ppm")
BAD: dict[str, tuple[str, Callable[[], bytes]]] = {
    "empty.png": ("empty", bytes),
    "one byte.png": ("broken_image", lambda: b"\x89"),
    "signature.png": ("broken_image", lambda: b"\x89PNG\r\n\x1a\n"),
    "text.png": ("broken_image", lambda: b"this is no picture\n" * 100),
    "page.jpg": ("broken_image", lambda: b"<html><body>404</body></html>"),
    "script.gif": ("broken_image", lambda: b"#!/bin/sh\n"),
    "drawing.png": ("broken_image", lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
    "print.png": ("broken_image", lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"),
    "archive.bmp": ("broken_image", lambda: b"PK\3\4" + bytes(100)),
    "phone.heic": ("broken_image", lambda: b"\0\0\0\x18ftypheic" + bytes(100)),
    **{f"half.{kind}": ("broken_image", partial(half, kind)) for kind in HALVED},
    "bomb.png": ("too_large", lambda: png_that_claims(60_000, 60_000)),
    "bomb.bmp": ("too_large", bmp_bomb),
    "smaller bomb.png": ("too_large", lambda: png_that_claims(10_000, 10_000)),
    "no width.png": ("broken_image", lambda: png_that_claims(0, 100)),
    "no size.pgm": ("broken_image", lambda: b"P5 0 0 255\n"),
    "long.png": ("too_large", lambda: encoded(drawing()) + bytes(1_000_000)),
    "white.png": ("blank", lambda: encoded(Image.new("L", (200, 200), 255), "PNG")),
    "black.jpg": ("blank", lambda: encoded(Image.new("L", (200, 200)), "JPEG")),
    "clear.png": ("blank", lambda: encoded(Image.new("RGBA", (200, 200)), "PNG")),
    "one pixel.png": ("blank", lambda: encoded(Image.new("L", (1, 1), 255), "PNG")),
    "several.png": ("too_many_marks", several),
}
