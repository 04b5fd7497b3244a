"""Pictures of a seven, as people draw and photograph it, 280 x 280."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from nanograd.runtime.arrays import Bytes, Doubles


def likeness(image: Bytes, other: Bytes) -> float:
    """Share of ink that two images have in common, 0 to 1, if one is moved by up to a pixel.

    The centre of mass may fall to either side of an edge.
    """
    shifts = [(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1)]
    moved = [np.roll(image, shift, (0, 1)) for shift in shifts]
    return max(np.minimum(each, other).sum() / np.maximum(each, other).sum() for each in moved)


def seven(
    pen: int = 20, ink: int = 0, paper: int = 255, shift: tuple[int, int] = (0, 0)
) -> Image.Image:
    """A 7 that fills the middle third of a square sheet."""
    picture = Image.new("L", (280, 280), paper)
    moved = [(x + shift[0], y + shift[1]) for x, y in ((98, 84), (182, 84), (126, 196))]
    ImageDraw.Draw(picture).line(moved, fill=ink, width=pen, joint="curve")
    return picture


def pale_seven() -> Image.Image:
    return seven(pen=8, ink=130, paper=200)


def negative(picture: Image.Image) -> Image.Image:
    return Image.fromarray(255 - np.asarray(picture))


def coloured(
    ink: str | tuple[int, int, int], paper: str | tuple[int, int, int] = "white"
) -> Image.Image:
    size = seven().size
    return Image.composite(Image.new("RGB", size, paper), Image.new("RGB", size, ink), seven())


def grid() -> tuple[Doubles, Doubles]:
    """Coordinates y and x of each pixel, -1 to 1."""
    y, x = np.mgrid[-1:1:280j, -1:1:280j]
    return y, x


def lit(picture: Image.Image, shade: NDArray[np.floating]) -> Image.Image:
    return Image.fromarray((np.asarray(picture) * shade).astype(np.uint8))


def vignette(strength: float, middle: float = 0.1) -> Doubles:
    y, x = grid()
    return np.asarray(np.exp(-strength * (((x - middle) ** 2 + y**2) / 2) ** 1.5))


def squared(picture: Image.Image, strength: float) -> Image.Image:
    """On squared paper, slightly tilted, as a lens sees it."""
    y, x = np.mgrid[:280, :280]
    away = [np.abs((along + 0.02 * other + 35) % 60 - 30) for along, other in ((y, x), (x, y))]
    taken = strength * np.clip(2 - np.minimum(*away), 0, 1)
    return lit(picture, 1 - taken)


def bound(picture: Image.Image, turns: int) -> Image.Image:
    """With the rings of a binding at one side and a dark edge at the next."""
    pixels = np.rot90(np.asarray(picture), turns).copy()
    pixels[:12] = 30
    pixels[:, :6] = 50
    for x in range(5, 280, 12):
        pixels[12:24, x : x + 5] = 40
    return Image.fromarray(np.rot90(pixels, -turns))


def on_table(margins: tuple[int, int, int, int], turn: float, table: int) -> Image.Image:
    """On an unevenly lit sheet; left, top, right and bottom of it a rough table."""
    left, top, right, bottom = margins
    sheet = lit(seven(pen=14, ink=60, paper=240), np.linspace(0.75, 1, 280)[:, None])
    size = (280 + left + right, 280 + top + bottom)
    rough = np.random.default_rng(0).normal(table, 6, size[::-1]).clip(0, 255).astype(np.uint8)
    picture = Image.fromarray(rough)
    turned = sheet.rotate(turn, Image.Resampling.BICUBIC)
    picture.paste(turned, (left, top), Image.new("L", (280, 280), 255).rotate(turn))
    return picture


def bold(side: int) -> Image.Image:
    """Cropped to its strokes, which are a third as wide as it is, `side` pixels high."""
    picture = seven(pen=44)
    crop = picture.crop(negative(picture).getbbox())
    return crop.resize((side * 3 // 4, side), Image.Resampling.BOX)
