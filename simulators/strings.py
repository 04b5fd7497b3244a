"""Synthetic lines of handwritten digits: MNIST digits side by side, apart or touching.

A line has a size, a slant and a drift, and each digit varies a little around them. Digits
that touch overlap by up to four pixels of forty; others have a gap of 3 to 22 pixels. Some lines
have words, hyphens, slashes, letters or figures beside digits, broken strokes, links between
digits, an underline, a part of another digit beside them, or parts of printed boxes around them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from nanograd.runtime.arrays import Bytes, Floats, Ints

# Height of MNIST's digits in a line, twice as large as MNIST's.
HEIGHT = 40
# Ink above this level belongs to a digit.
_INK = 0.35
# Share of the pairs that touch, in a line of touching digits.
_TOUCHING = 0.35
# Letters that do not look like digits, and other marks; and letters that do, for whole words.
_LETTERS, _DIGIT_LIKE = "ACDEFHKMNPRTUVWXYacdefhkmnprtuvwxy+=:()[]{}#%&*?$@<>", "BGIJLOQSZbgijloqsz"
# Letters of words, the frequent ones several times; signs that stand there instead of words.
_OF_WORDS = "eeeeeennnniiirrrssstttaaalllooodduummhhggbbccffkkppvwzyxjq"
_SIGNS = ")))(((//:--.,,+=$£€%*#&"
# Probability of a word or sign before the digits, and of one after them; before each other digit;
# and share of signs in both cases. Share of words that are apart from their neighbours.
_BESIDE, _BETWEEN, _SIGNS_BESIDE, _SIGNS_BETWEEN, _APART = 0.5, 0.15, 0.2, 0.8, 0.8
# With words: share of the lines that begin with the number of an item of a list, and the signs
# after it; share of the lines in groups of digits, and of the pairs of digits between two groups.
_ITEMS, _AFTER_ITEM, _GROUPED, _GROUP_ENDS = 0.15, "..)):", 0.15, 0.3
# Handwritten letters: strokes of points, with two figures for the column and row of each.
_WRITTEN = dict(each.split(maxsplit=1) for each in """
a 6343242637475664 6367|b 2027 24335364665727|c 635333242636475766|d 6067 635333242636475766
e 25656443332526375766|f 60504147 2363|g 635333242636475766 6368593928|h 2027 2443536467
i 4347 4041|j 5358493938 5051|k 2027 6325 3567|l 4047|m 1317 14233437 34435457
n 2327 2443536467|o 433324263747576664534343|p 2329 2443536466572726
q 635333242636475766 6369|r 2327 25344363|s 6343332435556656473727|t 41464757 2363
u 2326375766 6367|v 234763|w 1327435763|x 2367 6327|y 2346 6329|z 23632767
( 50424658|) 40525648|+ 4246 2464
""".strip().replace("\n", "|").split("|"))  # fmt: skip
_ROUND = np.linspace(0, 2 * np.pi, 30)
# Figures: strokes of points (x, y) from 0 to 1.
_FIGURES = [
    [np.stack([0.5 + 0.5 * np.sin(_ROUND) ** 3, 0.5 - 0.4 * np.cos(_ROUND)
               + 0.2 * np.cos(2 * _ROUND) + 0.06 * np.cos(3 * _ROUND)], 1)],  # heart
    [0.5 + 0.5 * np.stack([np.sin(_ROUND), np.cos(_ROUND)], 1), [[0.3, 0.3], [0.3, 0.36]],
     [[0.7, 0.3], [0.7, 0.36]], [[0.25, 0.65], [0.4, 0.8], [0.6, 0.8], [0.75, 0.65]]],  # smiley
    [[[0.2, 1], [0.5, 0], [0.8, 1], [0, 0.37], [1, 0.37], [0.2, 1]]],  # star
    [[[0, 0.5], [1, 0.5]], [[0.6, 0.2], [1, 0.5], [0.6, 0.8]]],  # arrow
    [[[0, 0.6], [0.35, 1], [1, 0]]],  # tick
    [[[0, 1], [0.5, 0.05], [1, 1], [0, 1]]],  # triangle
    [[[0, 0], [1, 0], [1, 1], [0, 1], [0, 0]]],  # square
    [[[0, 0], [1, 1]], [[1, 0], [0, 1]]],  # cross
    [[[0, 0], [1, 0], [1, 1], [0, 1], [0, 0]], [[0.1, 0.5], [0.4, 0.9], [1.1, -0.1]]],  # ticked box
    [[[0, 0], [1, 0], [1, 1], [0, 1], [0, 0]], [[0.2, 0.2], [0.8, 0.8]],
     [[0.8, 0.2], [0.2, 0.8]]],  # crossed box
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Style:
    """How digits are put together."""

    touching: bool = False  # at least one pair touches
    marks: float = 0.0  # probability of a mark that is no digit before a digit, and of another one
    pale: float = 0.0  # probability of a digit that is pale in places or broken
    links: float = 0.0  # probability of a stroke that links a digit to the one before
    wobble: float = 0.0  # standard deviation of the shift of points, in pixels
    spread: float = 1.0  # how much slant, drift, sizes and heights vary
    comb: bool = False  # whether short ticks of a printed comb are left between the digits
    font: str = ""  # file of the font of words beside the digits; without it, there are none


def write(digits: Sequence[Bytes], style: Style, draw: Generator) -> Bytes:
    """Write digits side by side.

    Args:
        digits: (28, 28) uint8 images, ink 255 on 0; without any, only marks are drawn.
        style: how they are put together.
        draw: the source of all random values.

    Returns:
        (height, width) uint8, ink 255 on 0, digits about 40 pixels high, with a margin of 8 pixels.
    """
    wide = style.spread
    size, slant = draw.uniform(0.85, 1.15), draw.normal(0, 0.12 * wide)
    drift, stretch = draw.normal(0, 0.03 * wide), draw.uniform(0.88, 1.1)
    items, is_word = list[_Item](), len(digits) == 0 and draw.random() < 0.5
    is_item = bool(style.font) and len(digits) > 1 and draw.random() < _ITEMS
    ends = _GROUP_ENDS * (bool(style.font) and draw.random() < _GROUPED)
    for number, image in enumerate(digits):
        # No mark is before or in the number of an item, so its sign is the second thing drawn.
        while number >= (2 if is_item else not style.marks) and draw.random() < style.marks:
            items.append(_mark(HEIGHT * size, slant, draw))
        if is_item and number == 1:
            items.append(_word(size, slant, style.font, draw, 1.0, _AFTER_ITEM))
        elif style.font and not is_item and draw.random() < (_BETWEEN if number else _BESIDE):
            signs = _SIGNS_BETWEEN if number else _SIGNS_BESIDE
            items.append(_word(size, slant, style.font, draw, signs))
        ink = _draw(
            image,
            size * draw.uniform(1 - 0.14 * wide, 1 + 0.14 * wide),
            slant + draw.normal(0, 0.04 * wide),
            stretch * draw.uniform(0.95, 1.05),
        )
        if style.wobble:
            ink = _wobble(ink, style.wobble, draw)
        items.append(_Item(_fade(ink, draw) if draw.random() < style.pale else ink))
    while style.marks and (len(items) < 1 + 2 * is_word or draw.random() < style.marks):
        items.append(_mark(HEIGHT * size, slant, draw, beside=len(digits) > 0, is_word=is_word))
    if style.font and (not items or draw.random() < _BESIDE):
        items.append(_word(size, slant, style.font, draw, _SIGNS_BESIDE if len(digits) else 0.0))
    touches = _choose_pairs(items, draw) if style.touching else {}
    gap = draw.uniform(3, 22)
    room = sum(item.ink.shape[1] for item in items) + (len(items) + 1) * 3 * HEIGHT
    canvas = np.zeros((7 * HEIGHT, room), np.float32)
    base, x, places = 4 * HEIGHT, 20, [(0, 0)]
    for number, item in enumerate(items):
        height, width = item.ink.shape
        wobble = wide * draw.normal(0, 2.5 if item.is_digit else 1.0)
        top = int(base - height - item.foot * HEIGHT * size + wobble + drift * x)
        top = min(max(top, 2), len(canvas) - height - 2)
        place = canvas[top : top + height]
        if number:
            last, first = _find_sides(place, item.ink)
            contact = int((last - first).max())
            contact = contact if contact > 0 else places[-1][1] - 3  # no row has ink of both
            overlap = touches.get(number)
            space = max(3, int(gap * draw.uniform(0.7, 1.3))) if overlap is None else -overlap
            is_apart = item.is_word or items[number - 1].is_word or (is_item and number == 2)
            if (is_apart and draw.random() < _APART) or (ends and draw.random() < ends):
                space += int(draw.uniform(0.1, 1.3) * HEIGHT)
            x = max(contact + space, places[-1][0] + 6)
            if style.links and draw.random() < style.links:
                _link(place, last, x + first, draw)
        np.maximum(place[:, x : x + width], item.ink, out=place[:, x : x + width])
        places.append((x, x + width))
    if style.comb:
        _add_ticks(canvas, base, drift, places[1:], draw)
    rows, columns = np.flatnonzero(canvas.max(1) > 0.3), np.flatnonzero(canvas.max(0) > 0.3)
    ink = canvas[rows[0] - 8 : rows[-1] + 9, columns[0] - 8 : columns[-1] + 9]
    return np.round(255 * np.clip(ink, 0, 1)).astype(np.uint8)


def write_in_boxes(digits: Sequence[Bytes], draw: Generator) -> Bytes:
    """Write digits into the printed boxes of a form, one in each; some touch or cross their box.

    Returns:
        (height, width) uint8, a grey picture of white paper.
    """
    height = round(HEIGHT * draw.uniform(1.3, 1.8))
    width = round(height * draw.uniform(0.75, 1.1))
    space = draw.choice([0, round(0.2 * width)])  # one grid, or boxes apart
    thick, strength = draw.integers(1, 4), draw.uniform(0.25, 1)
    margin = HEIGHT
    shape = height + 2 * margin, len(digits) * (width + space) + 2 * margin
    printed, ink = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    for number, image in enumerate(digits):
        left = margin + number * (width + space)
        box = printed[margin : margin + height + thick, left : left + width + thick]
        inner = box[thick:-thick, thick:-thick].copy()
        box[:] = strength
        box[thick:-thick, thick:-thick] = inner
        digit = _draw(image, draw.uniform(0.85, 1.15), draw.normal(0, 0.12), 1.0)
        y = margin + (height - len(digit)) / 2 + draw.normal(0, 3)
        x = left + (width - digit.shape[1]) / 2 + draw.normal(0, 3)
        place = ink[int(y) : int(y) + len(digit), int(x) : int(x) + digit.shape[1]]
        np.maximum(place, digit, out=place)
    darkest = draw.uniform(0.6, 0.95)
    light = (1 - printed) * (1 - darkest * np.clip(ink, 0, 1))
    return np.round(255 * light).astype(np.uint8)


def cut_boxes(form: Bytes, draw: Generator) -> Bytes:
    """Cut a picture of `write_in_boxes` near its boxes, so that parts of their sides are left."""
    ends = []
    for side in form.shape:
        first, last = (
            HEIGHT + int(draw.integers(-6, 5))
            if draw.random() < 0.7
            else int(draw.integers(HEIGHT))
            for _ in range(2)
        )
        ends.append(slice(first, side - last))
    return form[tuple(ends)]


def print_digits(text: str, draw: Generator, font: str = "") -> list[Bytes]:
    """Print digits in one font, in the form of MNIST, (28, 28) each.

    Args:
        text: the digits.
        draw: draws how thick they are.
        font: file of the font; by default, Pillow's.
    """
    bold, images = int(draw.integers(3)), []
    letters = ImageFont.truetype(font, 60) if font else ImageFont.load_default(60)
    for each in text:
        picture = Image.new("L", (100, 100))
        ImageDraw.Draw(picture).text((50, 50), each, 255, letters, "mm", stroke_width=bold)
        digit = picture.crop(picture.getbbox())
        size = [max(1, round(20 * side / max(digit.size))) for side in digit.size]
        image = Image.new("L", (28, 28))
        image.paste(digit.resize(size, Image.Resampling.BOX), [(28 - side) // 2 for side in size])
        images.append(np.asarray(image))
    return images


def put_beside(ink: Bytes, digit: Bytes, draw: Generator) -> Bytes:
    """Put a part of another digit, (28, 28), beside a line, cut off by the border."""
    other = np.round(255 * np.clip(_draw(digit, draw.uniform(0.85, 1.15), 0, 1), 0, 1))
    width = max(3, round(other.shape[1] * draw.uniform(0.1, 0.45)))
    part = other[: len(ink), :width]
    wide = np.zeros((len(ink), ink.shape[1] + width + int(draw.integers(-2, 14))), np.uint8)
    wide[:, : ink.shape[1]] = ink
    top = int(np.clip((len(ink) - len(part)) // 2 + draw.normal(0, 3), 0, len(ink) - len(part)))
    wide[top : top + len(part), -width:] = np.maximum(wide[top : top + len(part), -width:], part)
    # On both sides, this is the left part of a digit. It shall only not look like a whole digit.
    return wide if draw.random() < 0.5 else np.concatenate([wide[:, -width:], wide[:, :-width]], 1)


def underline(ink: Bytes, draw: Generator) -> Bytes:
    """Draw a line below the digits, which may touch them."""
    picture = Image.fromarray(np.pad(ink, ((0, 12), (0, 0))))
    width, y = picture.width, len(ink) - 8 + draw.uniform(-2, 12)
    x, rise = draw.uniform(0, 0.15, 2) * width, draw.normal(0, 0.02) * width
    ends = (x[0], y, width - x[1], min(y + rise, len(ink) + 9))
    ImageDraw.Draw(picture).line(ends, 255, round(draw.uniform(2, 6)))
    return np.asarray(picture)


@dataclass(frozen=True)
class _Item:
    ink: Floats  # cropped
    is_digit: bool = True
    is_word: bool = False
    foot: float = 0.0  # distance of its last row above the base line, in heights of a digit


def _choose_pairs(items: Sequence[_Item], draw: Generator) -> dict[int, int]:
    """Choose the digits that touch the digit on their left, at least one, and their overlaps."""
    able = [n for n in range(1, len(items)) if items[n].is_digit and items[n - 1].is_digit]
    chosen = [n for n in able if draw.random() < _TOUCHING] or ([draw.choice(able)] if able else [])
    return {int(number): int(draw.integers(0, 5)) for number in chosen}


def _find_sides(before: Floats, item: Floats) -> tuple[Ints, Ints]:
    """Find the last column of ink before an item in each row, and the first column of the item."""
    is_ink, is_item = before > _INK, item > _INK
    last = is_ink.shape[1] - 1 - is_ink[:, ::-1].argmax(1)
    last = np.where(is_ink.any(1), last, -(10**6))
    last = np.maximum.reduce([last, np.roll(last, 1), np.roll(last, -1)])
    return last, np.where(is_item.any(1), is_item.argmax(1), 10**6)


def _crop(ink: Floats) -> Floats:
    rows, columns = np.flatnonzero(ink.max(1) > 0.3), np.flatnonzero(ink.max(0) > 0.3)
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _draw(image: Bytes, size: float, slant: float, stretch: float) -> Floats:
    """Draw a digit or word at twice MNIST's size, with one affine map."""
    scale, (rows, columns) = 2 * size, image.shape
    width = int(columns * scale * stretch + abs(slant) * rows * scale) + 6
    height = int(rows * scale) + 4
    a, b, e = 1 / (scale * stretch), slant / (scale * stretch), 1 / scale
    x, y = width / 2, height / 2
    coefficients = (a, b, columns / 2 - a * x - b * y, 0, e, rows / 2 - e * y)
    picture = Image.fromarray(image).transform(
        (width, height), Image.Transform.AFFINE, coefficients, Image.Resampling.BICUBIC
    )
    return _crop(np.asarray(picture, np.float32) / 255)


def _noise(shape: Sequence[int], draw: Generator) -> Floats:
    coarse = Image.fromarray(draw.normal(0, 1, (6, 6)).astype(np.float32))
    return np.asarray(coarse.resize(shape[::-1], Image.Resampling.BICUBIC))


def _wobble(ink: Floats, size: float, draw: Generator) -> Floats:
    """Shift points by smooth noise, in pixels."""
    ink = np.pad(ink, 6)
    rows, columns = np.indices(ink.shape)
    y, x = (
        np.clip(np.rint(place + size * _noise(ink.shape, draw)), 0, side - 1).astype(int)
        for place, side in zip((rows, columns), ink.shape, strict=True)
    )
    moved = Image.fromarray(np.round(255 * np.clip(ink[y, x], 0, 1)).astype(np.uint8))
    blurred = moved.filter(ImageFilter.GaussianBlur(0.6))
    return _crop(np.asarray(blurred, np.float32) / 255)


def _link(place: Floats, last: Ints, first: Ints, draw: Generator) -> None:
    """Draw a stroke from the ink so far, at the columns `last`, to the columns `first`."""
    starts, ends = np.flatnonzero(last >= 0), np.flatnonzero(first < place.shape[1])
    if not (len(starts) and len(ends)):
        return
    near = starts[last[starts] >= last.max() - 8], ends[first[ends] <= first.min() + 8]
    y, bottom = (int(draw.choice(rows)) for rows in near)
    picture = Image.fromarray(np.zeros(place.shape, np.uint8))
    line = (int(last[y]) - 1, y, int(first[bottom]) + 1, bottom)
    ImageDraw.Draw(picture).line(line, 255, round(draw.uniform(2, 5)))
    ink = np.asarray(picture.filter(ImageFilter.GaussianBlur(0.7)), np.float32) / 255
    np.maximum(place, ink, out=place)


def _add_ticks(
    canvas: Floats, base: int, drift: float, ends: Sequence[tuple[int, int]], draw: Generator
) -> None:
    """Draw the ticks of a comb between the items and beside them, whose rule was removed."""
    picture = Image.fromarray(np.zeros(canvas.shape, np.uint8))
    pen, height, foot = draw.uniform(1.5, 5), draw.uniform(0.15, 0.6), draw.uniform(-0.05, 0.25)
    middles = [(end + start) / 2 for (_, end), (start, _) in pairwise(ends)]
    ticks = [(x, height) for x in middles if draw.random() < 0.95]
    # Tall ticks beside the digits would look like ones.
    beside = draw.uniform(2, 7, 2)
    sides = (ends[0][0] - beside[0], height), (ends[-1][1] + beside[1], height)
    for x, share in (*ticks, *(each for each in sides if draw.random() < 0.9)):
        y = base + drift * x + foot * HEIGHT
        lean = draw.normal(0, 0.5)
        line = (x - lean, y - share * HEIGHT, x + lean, y)
        ImageDraw.Draw(picture).line(line, int(draw.integers(150, 256)), round(pen))
    ink = np.asarray(picture.filter(ImageFilter.GaussianBlur(0.7)), np.float32) / 255
    np.maximum(canvas, ink, out=canvas)


def _fade(ink: Floats, draw: Generator) -> Floats:
    """Take ink away in places or along a line, if at least half of the strokes are left."""
    gone = np.clip(_noise(ink.shape, draw) - draw.uniform(0.4, 1.2), 0, 1)
    if draw.random() < 0.5:
        rows, columns = np.indices(ink.shape)
        turn, middle = draw.uniform(0, np.pi), draw.uniform(0.25, 0.75, 2) * ink.shape
        away = np.abs((rows - middle[0]) * np.cos(turn) + (columns - middle[1]) * np.sin(turn))
        gone = np.clip(draw.uniform(1, 3) - away, 0, 1)
    faded = np.clip(ink - gone, 0, 1)
    return faded if (faded > 0.5).sum() > 0.5 * (ink > 0.5).sum() else ink


def _mark(
    height: float, slant: float, draw: Generator, *, beside: bool = True, is_word: bool = False
) -> _Item:
    """Draw a hyphen, dot, comma, slash, bar, letter or figure beside digits of a height."""
    kinds = ["hyphen", "dot", "comma", "slash", "bar", "font", "pen", "figure", "scribble"]
    shares = np.array([0, 0, 0, 0, 0, 4, 5, 0, 0] if is_word else [4, 4, 2, 10, 3, 9, 6, 5, 4])
    shares[3:5] *= beside  # alone, they look like a one
    kind = str(draw.choice(kinds, p=shares / shares.sum()))
    pen, side = draw.uniform(3, 6), int(2 * height)
    picture, middle, foot = Image.new("L", (side, side)), side / 2, 0.0
    canvas = ImageDraw.Draw(picture)
    letters = _LETTERS + _DIGIT_LIKE if is_word else _LETTERS
    if kind == "font":
        letter = letters[draw.integers(len(letters))]
        font = ImageFont.load_default(height * draw.uniform(0.8, 1.35))
        canvas.text((middle, middle), letter, 255, font, "mm", stroke_width=int(draw.integers(3)))
        turned = picture.rotate(draw.normal(0, 8), Image.Resampling.BICUBIC)
        picture = turned if turned.getbbox() else picture
    elif kind == "pen":
        able = [each for each in _WRITTEN if each in letters]
        strokes = _WRITTEN[able[draw.integers(len(able))]].split()
        size = height * draw.uniform(0.1, 0.18)
        for stroke in strokes:
            points = np.array(list(map(int, stroke)), float).reshape(-1, 2)
            points = (points + draw.normal(0, 0.2, points.shape) - [4.5, 5]) * size
            points[:, 0] = 0.9 * points[:, 0] - slant * points[:, 1]
            canvas.line((middle + points).ravel().tolist(), 255, round(pen), joint="curve")
        foot = -0.25 if max("".join(stroke[1::2] for stroke in strokes)) > "7" else 0.0
    elif kind in ("figure", "scribble"):
        scribble = draw.uniform(0, 1, (draw.integers(5, 12), 2))
        strokes = _FIGURES[draw.integers(len(_FIGURES))] if kind == "figure" else [scribble]
        extent = draw.uniform(0.5, 1.2) * height * np.array([draw.uniform(0.7, 1.6), 1])
        extent = np.minimum(extent, side - 8)
        filled = kind == "figure" and draw.random() < 0.2
        for stroke in strokes:
            points = (middle + (np.array(stroke) - 0.5) * extent).ravel().tolist()
            canvas.line(points, 255, round(pen), joint="curve")
            if filled:
                canvas.polygon(points, 255)
    elif kind == "dot":
        is_hole = draw.random() < 0.2  # of a punch
        radius = height * draw.uniform(0.15, 0.4) if is_hole else pen * draw.uniform(0.5, 0.9)
        canvas.ellipse((middle - radius, middle - radius, middle + radius, middle + radius), 255)
    else:
        x, y, foot = _choose_stroke(kind, height, slant, draw)
        canvas.line((middle - x, middle - y, middle + x, middle + y), 255, round(pen))
    blurred = picture.filter(ImageFilter.GaussianBlur(0.7))
    ink = _crop(np.asarray(blurred, np.float32) / 255)
    if kind in ("font", "pen", "figure", "scribble"):
        ink = _wobble(ink, draw.uniform(0, 2 if kind == "pen" else 3), draw)
    return _Item(ink, is_digit=False, foot=foot)


def _word(
    size: float, slant: float, font: str, draw: Generator, signs: float, choice: str = _SIGNS
) -> _Item:
    """Draw a word, or with probability `signs` one of the signs, as blurred as digits of a size."""
    is_word, text = draw.random() >= signs, ""
    while is_word and sum(each in _DIGIT_LIKE for each in text) >= 0.6 * len(text):
        text = "".join(draw.choice(list(_OF_WORDS), int(draw.integers(2, 10))))
        text = str(draw.choice([text, text.upper(), text.title(), text.title()]))
    text += str(draw.choice(["", "", ".", ":"] if is_word else list(choice)))
    # Text is printed four times as large as MNIST's digits.
    letters = ImageFont.truetype(font, 100)
    top, bottom = letters.getbbox("0", anchor="ls")[1::2]
    letters = ImageFont.truetype(font, round(100 * 80 / (bottom - top) * draw.uniform(0.75, 1.1)))
    left, top, right, bottom = letters.getbbox(text, anchor="ls")
    picture = Image.new("L", (int(right - left) + 24, int(bottom - top) + 24))
    bold = int(draw.integers(5))
    place = 12 - left, 12 - top
    ImageDraw.Draw(picture).text(place, text, 255, letters, anchor="ls", stroke_width=bold)
    small = np.asarray(picture.reduce(4))
    if small.max() < 128:  # the font lacks this sign, or it is too thin
        return _mark(HEIGHT * size, slant, draw)
    ink = _draw(small, size, slant, draw.uniform(0.85, 1.1))
    return _Item(ink, is_digit=False, is_word=is_word, foot=-bottom / 80)


def _choose_stroke(
    kind: str, height: float, slant: float, draw: Generator
) -> tuple[float, float, float]:
    """Choose half the width and height of a straight mark, in pixels, and its foot."""
    # A slash leans more than the digits of its line, or to the other side; a bar is longer.
    lean = slant + draw.uniform(0.17, 0.55) * draw.choice([1, 1, 1, 1, 1, -1])
    tall, taller = draw.uniform(1.0, 1.6), draw.uniform(1.3, 1.7)
    length, x, y, foot = {
        "hyphen": (draw.uniform(0.25, 0.6), 1.0, draw.normal(0, 0.08), 0.42),
        "comma": (draw.uniform(0.15, 0.3), -0.4, 1.0, -0.15),
        "slash": (tall, lean, -1.0, (1 - tall) * draw.uniform(0.2, 0.8)),
        "bar": (taller, slant, -1.0, (1 - taller) * draw.uniform(0.3, 0.7)),
    }[kind]
    return x * length * height / 2, y * length * height / 2, foot
