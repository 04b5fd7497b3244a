"""Words in a drawing: one font that Pillow brings along, a few sizes and colours."""

from functools import cache
from math import floor
from pathlib import Path

from PIL import ImageDraw, ImageFont
from PIL.ImageFont import FreeTypeFont

# Dark enough on white to be read (contrast of 4.5 and more), ORANGE apart, which is for areas.
INK, GREY, BLUE, RED = (31, 35, 40), (99, 106, 117), (29, 78, 216), (176, 32, 24)
ORANGE, LINE, PALE = (230, 126, 20), (208, 213, 221), (243, 244, 246)

Colour = tuple[int, int, int]


@cache
def font(size: int) -> FreeTypeFont:
    """The font that comes with Pillow, so many pixels high."""
    found = ImageFont.load_default(size)
    if not isinstance(found, FreeTypeFont):
        raise TypeError("this Pillow was built without FreeType")
    return found


def write(
    draw: ImageDraw.ImageDraw,
    at: tuple[int, int],
    words: str,
    *,
    size: int,
    colour: Colour = INK,
    to_the_left: bool = False,
) -> None:
    """Words with their upper left or right corner at a point; what cannot be shown is a `?`."""
    anchor = "ra" if to_the_left else "la"
    draw.text(at, _printable(words), fill=colour, font=font(size), anchor=anchor)


def wrapped(words: str, size: int, width: int) -> list[str]:
    """Words in lines no wider than so many pixels, cut within a word only if it alone is wider."""
    lines = [""]
    for word in _printable(words).split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font(size).getlength(longer) > width:
            lines.append(shortened(word, size, width))
        else:
            lines[-1] = shortened(longer, size, width)
    return lines


def shortened(words: str, size: int, width: int) -> str:
    """Words no wider than so many pixels, their middle left out if need be."""
    words = _printable(words)
    if font(size).getlength(words) <= width:
        return words
    keep = len(words) - 1
    while keep > 2 and font(size).getlength(_without_middle(words, keep)) > width:
        keep -= 1
    return _without_middle(words, keep)


def percent(score: float) -> str:
    """A share, cut and not rounded: what is not quite 1 is not said to be.

    >>> [percent(score) for score in (1.0, 0.99999, 0.0004)]
    ['100.0%', '99.9%', '0.0%']
    """
    return f"{floor(1000 * score) / 10}%"


def short_name(place: str) -> str:
    """A file by its folder and name.

    >>> short_name("s3://bucket/scans/7/img.png")
    '7/img.png'
    """
    return "/".join(Path(place).parts[-2:])


def _without_middle(words: str, keep: int) -> str:
    return f"{words[: (keep + 1) // 2]}...{words[len(words) - keep // 2 :]}"


def _printable(words: str) -> str:
    text = words.encode(errors="replace").decode()
    return "".join(letter if letter.isprintable() else "?" for letter in text)
