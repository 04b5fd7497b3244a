"""Lines of MNIST's training digits, from which `make_line_net` trains its net.

A line is drawn or photographed (`simulators`), and found by the package itself. The data and the
seed determine the lines.
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from io import BytesIO
from multiprocessing import Pool
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageFilter

from nanograd.digits.dataset import SIDE, Dataset
from nanograd.digits.variants import draw_variants
from nanograd.errors import UnreadableError
from nanograd.images import sources
from nanograd.numbers import locate
from nanograd.runtime.arrays import Bytes, Doubles
from simulators.pages import Hand, photograph_page, write_page
from simulators.photos import photograph, write_with
from simulators.scenes import KINDS
from simulators.strings import (
    HEIGHT,
    Style,
    cut_boxes,
    print_digits,
    put_beside,
    underline,
    write,
    write_in_boxes,
)

# Number of digits that are left for validation.
VALIDATION = 10_000
# Share of clean lines, MNIST's pen on white without marks, and how many of those have a thicker or
# thinner pen.
_CLEAN, _THICK, _THIN = 0.3, 0.25, 0.1
# Shares of the others: photos, forms, other pens on white, and MNIST's pen on white. Shares of
# those on white with a part of another digit, and of the rest with an underline.
_PHOTOS, _FORMS, _PENS, _BESIDE, _UNDERLINED = 0.12, 0.1, 0.25, 0.05, 0.04
# Share of lines with the ticks of a comb.
_COMBS = 0.05
# Share of lines without a digit, and of lines half of whose digits are ones.
_EMPTY, _ONES = 0.08, 0.2
# Shares of lines whose digits are all drawn from `nanograd.digits.variants`, or some of them, and
# share of lines with printed digits.
_DRAWN, _MIXED, _PRINTED, _NUM_DRAWN = 0.15, 0.1, 0.03, 20_000
# Share of the lines with words whose digits are printed in the font of the words.
OF_FONTS = 0.6
# All settings on which the lines depend.
SETTINGS = {
    "validation": VALIDATION, "clean": _CLEAN, "thick": _THICK, "thin": _THIN,
    "photos": _PHOTOS, "forms": _FORMS, "pens": _PENS, "beside": _BESIDE,
    "underlined": _UNDERLINED, "empty": _EMPTY, "ones": _ONES, "drawn": _DRAWN, "mixed": _MIXED,
    "printed": _PRINTED, "combs": _COMBS,
}  # fmt: skip


def draw_picture(digits: Bytes, other: Bytes, draw: Generator, font: str = "") -> Image.Image:
    """Draw digits, (n, 784), as a picture of one line: on white, in a form, or as a photo.

    A part of the `other` digit may be beside them, or words in a font.
    """
    images = list(digits.reshape(-1, 28, 28))
    if images and not font and draw.random() < _CLEAN:
        style = Style(touching=draw.random() < 0.5, spread=draw.choice([1.0, 1.0, 1.5]))
        plain = Image.fromarray(255 - write(images, style, draw))
        kind = draw.random()
        if kind < _THICK + _THIN:
            thick = ImageFilter.MinFilter(int(draw.choice([3, 3, 5])))
            plain = plain.filter(thick if kind < _THICK else ImageFilter.MaxFilter(3))
        return plain
    kind = draw.random() if images else 1.0
    if kind < _FORMS and not font:
        form = write_in_boxes(images, draw)
        return Image.fromarray(cut_boxes(form, draw) if draw.random() < 0.7 else form)
    style = Style(
        touching=draw.random() < 0.6,
        marks=draw.choice([0.2, 0.5]) * (draw.random() < 0.3) if images else 0.75,
        pale=0.2 * (draw.random() < 0.15),
        links=0.3 * (draw.random() < 0.15),
        wobble=max(0.0, draw.uniform(-2, 2)),
        spread=draw.choice([1.0, 1.0, 1.5, 2.2]),
        comb=draw.random() < _COMBS,
        font=font,
    )
    ink = write(images, style, draw)
    if kind < _FORMS + _PHOTOS:
        data = photograph(ink, str(draw.choice(list(KINDS))), int(draw.integers(2**31)), HEIGHT)
        return Image.open(BytesIO(data))
    if draw.random() < _BESIDE:
        ink = put_beside(ink, other.reshape(28, 28), draw)
    elif draw.random() < _UNDERLINED:
        ink = underline(ink, draw)
    if kind < _FORMS + _PHOTOS + _PENS:
        scene = KINDS[str(draw.choice(["plain", "thin pen", "marker", "faint", "squares"]))]
        pen = write_with(ink, scene, draw, HEIGHT)
        ink = np.asarray(pen.resize([side // 2 for side in pen.size], Image.Resampling.BOX))
    picture = Image.fromarray(255 - (ink * draw.uniform(0.5, 1)).astype(np.uint8))
    scale = draw.choice([0.5, 0.7, 1.0, 1.5])
    size = [max(1, round(side * scale)) for side in picture.size]
    return picture.resize(size, Image.Resampling.BICUBIC)


@cache
def load_digits(name: str) -> tuple[Dataset, Dataset]:
    """Load the training digits of the lines, and draw others, once a process."""
    written = sources.load([name]).train.take(slice(-VALIDATION))
    return written, draw_variants(_NUM_DRAWN, 30)


def choose_digits(name: str, draw: Generator) -> tuple[Bytes, str]:
    """Choose the images of up to 10 digits, (n, 784), and return their text."""
    written, drawn = load_digits(name)
    length = 0 if draw.random() < _EMPTY else draw.integers(1, 1 + draw.choice([3, 6, 10]))
    kind = draw.random()
    share = 1.0 if kind < _DRAWN else 0.5 if kind < _DRAWN + _MIXED else 0.0
    images, text = [], ""
    ones = 0.5 * (draw.random() < _ONES)
    for _ in range(length):
        data = drawn if draw.random() < share else written
        chosen = np.flatnonzero(data.labels == 1) if draw.random() < ones else np.arange(len(data))
        number = int(draw.choice(chosen))
        images.append(data.images[number])
        text += str(data.labels[number])
    if _DRAWN + _MIXED < kind < _DRAWN + _MIXED + _PRINTED:
        return print_line(text, draw), text
    return np.array(images, np.uint8).reshape(-1, SIDE**2), text


def print_line(text: str, draw: Generator, font: str = "") -> Bytes:
    """Print digits in a font, (n, 784)."""
    return np.array(print_digits(text, draw, font), np.uint8).reshape(-1, SIDE**2)


def draw_lines(
    name: str, draw: Generator, count: int, fonts: Sequence[str] = ()
) -> Iterator[tuple[str, locate.Line]]:
    """Draw pictures of lines, and yield the texts and the lines that are found.

    If fonts are given, all lines have words.
    """
    for _ in range(count):
        digits, text = choose_digits(name, draw)
        font = str(draw.choice(fonts)) if fonts else ""
        if font and draw.random() < OF_FONTS:
            digits = print_line(text, draw, font)
        other = np.empty((0, SIDE**2), np.uint8)
        while not len(other):
            other, _ = choose_digits(name, draw)
        try:
            found = locate.find_lines(draw_picture(digits, other[0], draw, font)).lines
        except UnreadableError:
            continue
        if len(found) == 1:
            yield text, found[0]


def draw_rows(name: str, draw: Generator) -> Iterator[tuple[str, locate.Line]]:
    """Draw rows of digits that nearly touch those above and below, and yield those that are found.

    The rows are one picture. If not all of them are found, it yields nothing.
    """
    texts, sheet = list[str](), np.zeros((6 * HEIGHT, 12 * HEIGHT), np.uint8)
    top, left = HEIGHT, draw.integers(HEIGHT, 2 * HEIGHT)
    pitch = draw.uniform(0.95, 1.3)
    for _ in range(draw.integers(2, 5)):
        digits, text = choose_digits(name, draw)
        images = list(digits.reshape(-1, 28, 28))[:7]
        if not images:
            continue
        texts.append(text[:7])
        ink = write(images, Style(touching=draw.random() < 0.2, spread=0.5), draw)
        part = Image.fromarray(ink).crop(Image.fromarray(np.uint8(255 * (ink > 60))).getbbox())
        place = sheet[top:, left + draw.integers(-9, 10) :][: part.height, : part.width]
        np.maximum(place, np.asarray(part)[: len(place), : place.shape[1]], out=place)
        top += round(pitch * HEIGHT)
    try:
        found = locate.find_lines(Image.fromarray(255 - sheet)).lines
    except UnreadableError:
        return
    if len(found) == len(texts):
        yield from zip(texts, found, strict=True)


def draw_pages(
    name: str, draw: Generator, fonts: Sequence[str]
) -> Iterator[tuple[str, locate.Line]]:
    """Write and photograph a page, and yield the lines that are found, with the digits of each.

    A line that has a part of a number is left out, and so is one half of those without a number.
    """
    written, drawn = load_digits(name)
    share = draw.choice([0, 0, 0, 0.5, 1.0])

    def choose(digit: int) -> Bytes:
        data = drawn if draw.random() < share else written
        images: Bytes = data.images[draw.choice(np.flatnonzero(data.labels == digit))]
        return images.reshape(SIDE, SIDE)

    picture, numbers = photograph_page(write_page(Hand(draw, choose, fonts)))
    try:
        found = locate.find_lines(picture).lines
    except UnreadableError:
        return
    for line in found:
        text = _digits_of(line, numbers, picture.size)
        if text or (text == "" and draw.random() < 0.5):
            yield text, line


def _digits_of(
    line: locate.Line, numbers: Sequence[tuple[str, Doubles]], size: tuple[int, int]
) -> str | None:
    """Return the digits of a line from left to right; None if it has a part of a number."""
    left, right = line.origin[0], line.origin[0] + line.step[0] * line.ink.shape[1]
    tall, inside = line.step[1] * (line.bottom - line.top), list[tuple[float, str]]()
    for text, corners in numbers:
        low, high = corners.min(0), corners.max(0)
        x, y = corners.mean(0).tolist()
        row = (line.top + line.bottom) / 2 + line.slope * (x - line.origin[0]) / line.step[0]
        away = abs(line.origin[1] + line.step[1] * row - y) / tall
        share = (min(right, high[0]) - max(left, low[0])) / max(1, high[0] - low[0])
        if share < 0.05 or away > 1.3:
            continue
        is_whole = share >= 0.9 and (low >= 0).all() and (high <= size).all()
        if not is_whole or away > 0.45 or not 0.55 < (corners[3] - corners[0])[1] / tall < 1.8:
            return None
        inside.append((x, text))
    return "".join(text for _, text in sorted(inside))


def save_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write arrays to an npz file, which is complete as soon as it has its name."""
    new = path.with_suffix(".new")
    with new.open("wb") as stream:
        np.savez(stream, **arrays)
    new.replace(path)


def draw_files(
    script: str, output: Path, count: int, draw: Callable[[int, str, Path], None]
) -> tuple[list[Path], Namespace]:
    """Read the arguments of a script, and draw its files of lines in several processes.

    Args:
        script: documentation of the script.
        output: the file that it writes by default.
        count: number of files, seed.npz.
        draw: draws the file of a seed, from the data of a name, into a folder.
    """
    parser = ArgumentParser(description=script.split("\n", maxsplit=1)[0])
    parser.add_argument("--data", default="auto", help="folder of MNIST")
    parser.add_argument("--lines-in", type=Path, required=True, help="folder of the lines")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--output", type=Path, default=output)
    given = parser.parse_args()
    given.lines_in.mkdir(exist_ok=True)
    with Pool(given.processes) as pool:
        tasks = ((seed, given.data, given.lines_in) for seed in range(count))
        pool.starmap(draw, tasks, chunksize=1)
    return [given.lines_in / f"{seed}.npz" for seed in range(count)], given
