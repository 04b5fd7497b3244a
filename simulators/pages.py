"""Photos of pages with numbers: lists, dates, phone numbers, amounts, forms, and marks beside them.

A page has ink of several colours: handwriting, print, the rules of the paper, and corrections. The
places of its numbers in the photo are known. Numbers that are struck out do not count.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageDraw, ImageFont

from nanograd.runtime.arrays import Bytes, Doubles, Floats
from simulators import photos, strings
from simulators.scenes import KINDS
from simulators.strings import HEIGHT

Box = tuple[float, float, float, float]  # left, top, right, bottom
# Points of a stroke, (n, 2): x and y.
Stroke = Sequence[tuple[float, float]] | Doubles

_KINDS = [
    *("list", "list", "mixed", "dates", "dates", "phones", "phones", "amounts", "comb", "comb"),
    *("boxes", "ticks", "ticks", "struck", "struck", "table", "sum", "words", "red", "red"),
    "circled",
]
_ROWS = ["list", "dates", "phones", "amounts", "comb", "boxes", "ticks", "struck", "words"]
_WORDS = [
    *("kg", "g", "cm", "m", "km", "ml", "l", "Stk", "pcs", "no", "No.", "Nr.", "Tel.", "tel"),
    *("Phone", "Date", "Datum", "Total", "Summe", "Name", "Ref", "ID", "Qty", "Room", "Zip", "PLZ"),
    *("Code", "Amount", "a)", "b)", "c)", "A", "B", "C", "x", "XL", "Euro", "USD", "pm", "am"),
    *("Uhr", "h", "min"),
]
_SCENES = [
    *("plain", "plain", "noise", "grain", "jpeg", "pencil", "uneven light", "soft shadow"),
    *("hard shadow", "coloured paper"),
]
# Share of red, green and blue light that ink absorbs: black, blue, violet, grey, red, pale grey.
_INKS = np.array(
    [[0.95, 0.95, 0.95], [0.9, 0.75, 0.3], [0.85, 0.85, 0.6], [0.9, 0.9, 0.9], [0.2, 0.85, 0.8],
     [0.6, 0.6, 0.6]], np.float32,
)  # fmt: skip
_TURN = np.linspace(0, 2 * np.pi, 30)
_SQUARE = np.array([(0, 0), (1, 0), (1, 1), (0, 1), (0, 0)], float)


@dataclass
class Page:
    """Ink on a page, (height, width) from 0 to 1 in each layer, and its numbers."""

    draw: Generator
    width: int
    height: int
    layers: dict[str, Floats] = field(default_factory=dict)
    numbers: list[tuple[str, Box]] = field(default_factory=list)

    def put(self, layer: str, ink: Floats, x: float, y: float) -> None:
        """Put ink on a layer, with its upper left corner at x and y."""
        left, top = round(x), round(y)
        empty = np.zeros((self.height, self.width), np.float32)
        place = self.layers.setdefault(layer, empty)[max(0, top) :, max(0, left) :]
        part = ink[max(0, -top) :, max(0, -left) :][: place.shape[0], : place.shape[1]]
        place = place[: part.shape[0], : part.shape[1]]
        np.maximum(place, part, out=place)

    def stroke(self, layer: str, points: Stroke, pen: float, level: float = 1.0) -> None:
        """Draw a stroke with round ends."""
        line = np.reshape(points, (-1, 2))
        low = np.floor(line.min(0) - pen - 2).astype(int)
        size = np.ceil(line.max(0) + pen + 3).astype(int) - low
        picture = Image.new("L", (2 * int(size[0]), 2 * int(size[1])))
        canvas, flat = (
            ImageDraw.Draw(picture),
            [tuple(each) for each in (2 * (line - low)).tolist()],
        )
        canvas.line(flat, 255, max(1, round(2 * pen)), joint="curve")
        for x, y in (flat[0], flat[-1]) if pen > 2.5 else ():
            canvas.ellipse((x - pen, y - pen, x + pen, y + pen), 255)
        ink = np.asarray(picture.resize(size.tolist(), Image.Resampling.BOX), np.float32)
        self.put(layer, level * ink / 255, *low.tolist())

    def word(self, layer: str, text: str, font: str, size: float, x: float, base: float) -> float:
        """Write a word in a font; return its right end."""
        letters = ImageFont.truetype(font, max(6, round(size)))
        left, top, right, bottom = letters.getbbox(text, anchor="ls")
        picture = Image.new("L", (round(right - left) + 8, round(bottom - top) + 8))
        ImageDraw.Draw(picture).text((4 - left, 4 - top), text, 255, letters, "ls")
        self.put(layer, np.asarray(picture, np.float32) / 255, x - 4 + left, base + top - 4)
        return x + right


class Hand:
    """How a person writes on a page."""

    def __init__(
        self, draw: Generator, choose: Callable[[int], Bytes], fonts: Sequence[str]
    ) -> None:
        """Choose the style.

        Args:
            draw: the source of all random values.
            choose: chooses an image of a digit, (28, 28) uint8, ink 255 on 0.
            fonts: files of fonts for words and signs; without any, there are none.
        """
        self.draw, self.choose, self.fonts = draw, choose, fonts
        self.size = draw.uniform(0.55, 1.05)
        self.high = HEIGHT * self.size
        self.slant, self.gap = draw.normal(0, 0.13), draw.uniform(1, 14)
        self.pen, self.wobble = draw.uniform(2.0, 5.5) * self.size, max(0.0, draw.uniform(-2, 2))
        self.has_own_pen = draw.random() < 0.6  # otherwise MNIST's
        self.pen = self.pen if self.has_own_pen else 4.5 * self.size

    def digit(self, digit: int) -> Floats:
        """Write a digit, (height, width) from 0 to 1."""
        draw, slant = self.draw, self.slant + self.draw.normal(0, 0.04)
        size, stretch = draw.uniform(0.88, 1.12), draw.uniform(0.88, 1.08)
        ink = strings._draw(self.choose(digit), size, slant, stretch)
        if self.wobble:
            ink = strings._wobble(ink, self.wobble, draw)
        if self.has_own_pen:
            grey = np.pad(np.round(255 * np.clip(ink, 0, 1)).astype(np.uint8), 4)
            width = self.pen / self.high / 2
            scene = replace(KINDS["plain"], pen=(0.9 * width, 1.1 * width))
            written = photos.write_with(grey, scene, draw, HEIGHT)
            small = written.resize(grey.shape[::-1], Image.Resampling.BOX)
            ink = strings._crop(np.asarray(small, np.float32) / 255)
        size = [max(2, round(self.size * side)) for side in reversed(ink.shape)]
        scaled = Image.fromarray(np.float32(ink)).resize(size, Image.Resampling.BOX)
        return np.clip(np.asarray(scaled, np.float32), 0, 1)

    def write(self, page: Page, text: str, x: float, base: float) -> tuple[float, Box]:
        """Write digits and signs on a base line; return the right end and the box of the digits."""
        draw, start, tops, feet, right = self.draw, x, list[float](), list[float](), x
        drift = draw.normal(0, 0.015)
        for sign in text:
            y = base + drift * (x - start) + draw.normal(0, 0.03) * self.high
            if sign.isdigit():
                ink = self.digit(int(sign))
                page.put("hand", ink, x, y - len(ink))
                tops.append(y - len(ink))
                feet.append(y)
                right = x + ink.shape[1]
                x = right + self.size * max(-2, self.gap * draw.uniform(0.6, 1.4))
            else:
                end = self.sign(page, sign, x, y)
                x = end + self.size * max(1, self.gap * draw.uniform(0.5, 1.2))
        return x, (start, min(tops), right, max(feet))

    def sign(self, page: Page, sign: str, x: float, y: float) -> float:
        """Write a sign; return its right end."""
        draw, high, end, strokes = self.draw, self.high, x, list[Stroke]()
        pen = self.pen * draw.uniform(0.8, 1.15)
        if sign == " ":
            end += high * draw.uniform(0.35, 1.0)
        elif sign == "-":
            end, up = x + high * draw.uniform(0.25, 0.6), y - high * draw.uniform(0.35, 0.6)
            strokes.append([(x, up), (end, up + draw.normal(0, 0.04) * high)])
        elif sign in ".,:":
            end += pen
            for up in (0.03, 0.5)[: 1 + (sign == ":")]:
                tail, top = (
                    high * (draw.uniform(0.12, 0.25) if sign == "," else 0.02),
                    y - up * high,
                )
                strokes.append([(x + pen / 2, top), (x + pen / 2 - tail / 2, top + tail)])
        elif sign in "()":
            tall, wide = high * draw.uniform(1.05, 1.5), high * draw.uniform(0.15, 0.35)
            t = np.linspace(0, 1, 15)
            bow, lean = 4 * t * (1 - t) * wide, (self.slant + draw.normal(0, 0.05)) * tall
            across = x + (wide - bow if sign == "(" else bow) + (1 - t) * lean
            strokes.append(np.stack([across, y + 0.15 * high - (1 - t) * tall], 1))
            end += wide + max(0, lean)
        elif sign == "/":
            tall, foot = high * draw.uniform(1.0, 1.6), y + high * draw.uniform(-0.02, 0.35)
            lean = (self.slant + draw.uniform(0.17, 0.6)) * tall
            middle = (x + lean / 2 + draw.normal(0, 0.02) * high, foot - tall / 2)
            strokes.append([(x, foot), middle, (x + lean, foot - tall)])
            end += max(0.1 * tall, lean) * draw.uniform(0.55, 1.0)
        elif sign == "+":
            half, up = high * draw.uniform(0.2, 0.35), y - 0.45 * high
            end += 2 * half
            strokes += [[(x, up), (end, up)], [(x + half, up - half), (x + half, up + half)]]
        elif self.fonts:
            font, size = str(draw.choice(self.fonts)), high * draw.uniform(1.0, 1.5)
            end = page.word("hand", sign, font, size, x, y)
        for stroke in strokes:
            page.stroke("hand", stroke, pen)
        return end

    def word(self, page: Page, x: float, base: float, layer: str) -> float:
        """Write a word; return its right end."""
        if not self.fonts:
            return x
        text, font = str(self.draw.choice(_WORDS)), str(self.draw.choice(self.fonts))
        size = self.high * self.draw.uniform(0.6, 1.5)
        return page.word(layer, text, font, size, x, base) + 6

    def strike_out(self, page: Page, box: Box) -> None:
        """Strike out what is in a box: with lines, a cross, a zigzag or slanted strokes."""
        draw, (left, top, right, bottom) = self.draw, box
        pen, high, kind = self.pen * draw.uniform(0.8, 1.4), bottom - top, draw.integers(4)
        if kind == 0:
            for _ in range(draw.integers(1, 4)):
                y = (top + bottom) / 2 + draw.uniform(-0.2, 0.2, 2) * high
                page.stroke("hand", [(left - 0.2 * high, y[0]), (right + 0.2 * high, y[1])], pen)
        elif kind == 1:
            page.stroke("hand", [(left, top), (right, bottom)], pen)
            page.stroke("hand", [(left, bottom), (right, top)], pen)
        elif kind == 2:
            count = max(3, int((right - left) / high * draw.uniform(3, 7)))
            x = np.linspace(left - 0.1 * high, right + 0.1 * high, count)
            y = np.where(np.arange(count) % 2, top, bottom) + draw.normal(0, 0.08, count) * high
            page.stroke("hand", np.stack([x, y], 1), pen)
        else:
            for x in np.arange(left, right, high * draw.uniform(0.25, 0.6)):
                page.stroke("hand", [(x, bottom), (x + 0.4 * high, top)], pen)

    def fill_cells(self, page: Page, text: str, x: float, base: float, cell: float) -> None:
        """Write one digit in each cell of a form."""
        draw, boxes = self.draw, list[Box]()
        for number, each in enumerate(text):
            ink = self.digit(int(each))
            left = x + (number + 0.5) * cell - ink.shape[1] / 2 + draw.normal(0, 0.06) * cell
            top = base - len(ink) + draw.normal(0, 0.04) * self.high
            page.put("hand", ink, left, top)
            boxes.append((left, top, left + ink.shape[1], top + len(ink)))
        sides = np.array(boxes)
        page.numbers.append((text, (*sides[:, :2].min(0).tolist(), *sides[:, 2:].max(0).tolist())))


def _number(draw: Generator, low: int = 1, high: int = 7) -> str:
    digits = "0123456789" if draw.random() < 0.85 else "0123456789111111"
    return "".join(draw.choice(list(digits), int(draw.integers(low, high + 1))))


def _date(draw: Generator) -> str:
    day, month = str(draw.integers(1, 32)), str(draw.integers(1, 13))
    if draw.random() < 0.6:
        day, month = day.zfill(2), month.zfill(2)
    year = str(draw.integers(1930, 2031))
    parts = [day, month, year[2:] if draw.random() < 0.4 else year]
    return str(draw.choice(list("///-. "))).join(parts[:: -1 if draw.random() < 0.2 else 1])


def _phone(draw: Generator) -> str:
    area, first, second = _number(draw, 2, 4), _number(draw, 3, 4), _number(draw, 2, 5)
    forms = [
        f"({area}) {first}-{second}", f"+{area[:2]} {first} {second}", f"0{area}/{first}{second}",
        f"0{area}-{first}{second}", f"0{area} {first} {second}", f"(0{area}) {first}{second}",
    ]  # fmt: skip
    return str(draw.choice(forms))


def _amount(draw: Generator) -> str:
    end = str(draw.choice([".", ",", ",-", ".-", ":"]))
    text = _number(draw, 1, 4) + (end if end[1:] else end + _number(draw, 2, 2))
    money = str(draw.choice(["€", "$", "£", "", "", "EUR"]))
    return f"{money}{text}" if draw.random() < 0.5 else f"{text} {money}".strip()


def _print_comb(page: Page, hand: Hand, x: float, base: float) -> None:
    draw, high, text = hand.draw, hand.high, _number(hand.draw, 2, 9)
    cell, foot = high * draw.uniform(0.85, 1.3), base + high * draw.uniform(0.02, 0.2)
    tall, pen, level = high * draw.uniform(0.15, 0.6), draw.uniform(1, 2.6), draw.uniform(0.4, 1)
    cells = len(text) + (int(draw.integers(0, 4)) if draw.random() < 0.5 else 0)
    if draw.random() < 0.85:
        page.stroke("print", [(x, foot), (x + cells * cell, foot)], pen, level)
    for number in range(cells + 1):
        up = high if number in (0, cells) and draw.random() < 0.3 else tall
        tick = x + number * cell
        page.stroke("print", [(tick, foot), (tick, foot - up)], pen, level)
    hand.fill_cells(page, text, x, base, cell)


def _print_boxes(page: Page, hand: Hand, x: float, base: float) -> None:
    draw, high, text = hand.draw, hand.high, _number(hand.draw, 2, 8)
    size = high * np.array([draw.uniform(0.85, 1.4), draw.uniform(1.2, 1.7)])
    space, pen, level = (
        draw.choice([0.0, 0.15, 0.3]) * high,
        draw.uniform(1, 3),
        draw.uniform(0.4, 1),
    )
    top = base - high - (size[1] - high) / 2
    for number in range(len(text) + (int(draw.integers(0, 3)) if draw.random() < 0.4 else 0)):
        corner = (x + number * (size[0] + space), top)
        page.stroke("print", _SQUARE * size + corner, pen, level)
    hand.fill_cells(page, text, x - space / 2, base, size[0] + space)


def _tick_box(page: Page, hand: Hand, x: float, base: float) -> float:
    """Draw the box of an item, perhaps ticked or crossed; return where its number begins."""
    draw, side = hand.draw, hand.high * hand.draw.uniform(0.6, 1.2)
    corner = np.array([x, base - side * draw.uniform(0.85, 1.0)])
    layer = str(draw.choice(["print", "print", "hand"]))
    bent = draw.normal(0, 0.05, (5, 2)) * (layer == "hand")
    page.stroke(layer, (_SQUARE + bent) * side + corner, draw.uniform(1.2, 3))
    kind, mark = draw.integers(4), str(draw.choice(["hand", "hand", "red"]))
    end = (draw.uniform(0.9, 1.4), draw.uniform(-0.5, 0.1))
    strokes = {1: [[(0.1, 0.5), (0.4, 0.9), end]], 2: [_SQUARE[[0, 2]], _SQUARE[[1, 3]]]}
    for each in strokes.get(int(kind), []):
        page.stroke(mark, np.array(each) * side + corner, hand.pen)
    return x + side + hand.high * draw.uniform(0.3, 1)


def _correct(page: Page, hand: Hand, x: float, base: float) -> None:
    """Draw a tick, a cross, strokes, a circle or a hyphen in red."""
    draw, side = hand.draw, hand.high * hand.draw.uniform(0.6, 1.3)
    corner = (x + hand.high * draw.uniform(0.2, 1.2), base - side)
    strokes = [np.array([(0.2 + 0.3 * number, 0), (0.3 * number, 1)]) for number in range(3)]
    marks = [
        [np.array([(0, 0.5), (0.3, 1), (1, 0)])], [_SQUARE[[0, 2]], _SQUARE[[1, 3]]],
        strokes[: draw.integers(1, 4)], [0.5 + 0.5 * np.stack([np.cos(_TURN), np.sin(_TURN)], 1)],
        [np.array([(0, 0.5), (1, 0.5)])],
    ]  # fmt: skip
    pen = draw.uniform(2, 5) * hand.size
    for each in marks[draw.integers(len(marks))]:
        page.stroke("red", each * side + corner, pen)


def _fill_table(page: Page, hand: Hand, pitch: float) -> None:
    draw, high = hand.draw, hand.high
    cell, (left, top) = high * draw.uniform(2.6, 5.5), high * draw.uniform(0.5, 2, 2)
    rows = int(min(draw.integers(2, 9), (page.height - 2 * high) // pitch))
    columns = max(1, int(min(draw.integers(2, 5), (page.width - left - high) // cell)))
    pen, level = draw.uniform(1, 3), draw.uniform(0.3, 1)
    right, bottom = left + columns * cell, top + rows * pitch
    for y in top + pitch * np.arange(rows + 1):
        page.stroke("print", [(left, y), (right, y)], pen, level)
    for x in left + cell * np.arange(columns + 1):
        page.stroke("print", [(x, top), (x, bottom)], pen, level)
    most = max(1, int((cell - 0.6 * high) / (0.75 * high + hand.gap * hand.size)))
    for row, column in np.argwhere(draw.random((rows, columns)) < 0.9).tolist():
        text, x = _number(draw, 1, min(most, 5)), left + column * cell
        base = top + row * pitch + (pitch + high) / 2
        page.numbers.append(
            (text, hand.write(page, text, x + high * draw.uniform(0.15, 0.4), base)[1])
        )


def _fill_row(page: Page, hand: Hand, kind: str, x: float, base: float) -> None:
    draw, high = hand.draw, hand.high
    if kind == "ticks":
        x = _tick_box(page, hand, x, base)
    if kind == "words" or draw.random() < 0.05:
        layer = str(draw.choice(["hand", "print"]))
        x = hand.word(page, x, base, layer) + high * draw.uniform(0.1, 0.8)
    if kind == "struck" and draw.random() < 0.6:
        end, box = hand.write(page, _number(draw, 2, 5), x, base)
        hand.strike_out(page, box)
        x = end + high * draw.uniform(0.2, 1.0)
    choose = {"dates": _date, "phones": _phone, "amounts": _amount}.get(kind, _number)
    text = choose(draw)
    x, box = hand.write(page, text, x, base)
    page.numbers.append(("".join(filter(str.isdigit, text)), box))
    left, top, right, bottom = box
    if kind == "sum" and draw.random() < 0.3:
        for y in bottom + high * np.array([0.25, 0.4])[: draw.integers(1, 3)]:
            page.stroke("hand", [(left - 0.5 * high, y), (right + 0.4 * high, y)], hand.pen)
    if kind == "red" and draw.random() < 0.7:
        _correct(page, hand, x, base)
    if kind == "words" and draw.random() < 0.5:
        hand.word(page, x + high * draw.uniform(0.1, 0.6), base, "hand")
    if kind == "circled" and draw.random() < 0.5:
        turn = _TURN * draw.uniform(0.95, 1.1) + draw.uniform(0, 6)
        radii = 0.62 * (right - left) + 0.25 * high, 0.8 * (bottom - top)
        ring = np.stack([radii[0] * np.cos(turn), radii[1] * np.sin(turn)], 1)
        layer = str(draw.choice(["hand", "red"]))
        middle = (left + right) / 2, (top + bottom) / 2
        page.stroke(layer, ring + middle, hand.pen)


def _print_paper(page: Page, hand: Hand) -> None:
    """Print the rules, margin and holes of the paper."""
    draw, high = hand.draw, hand.high
    kind = str(draw.choice(["plain", "plain", "plain", "ruled", "ruled", "squared"]))
    level = draw.uniform(0.15, 0.5)
    gap = high * (draw.uniform(1.3, 2.6) if kind == "ruled" else draw.uniform(0.45, 1.2))
    ends = np.array([(0, 0), (page.width, 0)]), np.array([(0, 0), (0, page.height)])
    if kind != "plain":
        for y in np.arange(gap * draw.uniform(0.3, 1), page.height, gap):
            page.stroke("rules", ends[0] + (0, y), draw.uniform(1, 1.8), level)
    if kind == "squared":
        for x in np.arange(gap * draw.uniform(0.3, 1), page.width, gap):
            page.stroke("rules", ends[1] + (x, 0), draw.uniform(1, 1.8), level)
    if kind == "ruled" and draw.random() < 0.5:
        margin = ends[1] + (high * draw.uniform(0.8, 2.2), 0)
        page.stroke("red", margin, draw.uniform(1, 2.2), draw.uniform(0.4, 0.9))
    if draw.random() < 0.15:
        x, radius = high * draw.uniform(0.5, 1.0), high * draw.uniform(0.15, 0.4)
        for y in np.arange(high * draw.uniform(1, 3), page.height, high * draw.uniform(3, 8)):
            page.stroke("hole", [(x, y), (x + 0.5, y)], 2 * radius, draw.uniform(0.5, 1))


def write_page(hand: Hand) -> Page:
    """Write a page of numbers."""
    draw = hand.draw
    page = Page(draw, int(draw.integers(500, 1000)), int(draw.integers(300, 900)))
    _print_paper(page, hand)
    kind, pitch = str(draw.choice(_KINDS)), hand.high * draw.uniform(1.35, 3.0)
    if kind == "table":
        _fill_table(page, hand, pitch)
        return page
    base, left = pitch * draw.uniform(0.9, 1.8), hand.high * draw.uniform(1.2, 3)
    for _ in range(12):
        if base > page.height - 0.6 * hand.high:
            break
        row, x = str(draw.choice(_ROWS)) if kind == "mixed" else kind, left
        x += draw.normal(0, 0.2) * hand.high
        forms = {"comb": _print_comb, "boxes": _print_boxes}
        if row in forms:
            forms[row](page, hand, x, base)
        else:
            _fill_row(page, hand, row, x, base)
        base += pitch * draw.uniform(0.95, 1.05)
    return page


def photograph_page(page: Page) -> tuple[Image.Image, list[tuple[str, Doubles]]]:
    """Photograph or scan a page.

    Returns:
        The photo, and the text of each number with the corners of its box there, (4, 2): x and y,
        from the upper left one to the right.
    """
    draw, is_scan = page.draw, page.draw.random() < 0.15
    scene, size = KINDS[str(draw.choice(_SCENES))], (page.width, page.height)
    strength = draw.uniform(0.12, 0.4) if draw.random() < 0.12 else draw.uniform(0.5, 1)
    inks = {"hand": draw.choice(4), "red": 4, "rules": draw.choice([1, 5]), "hole": 0}
    inks["print"] = draw.choice([0, 5, 1])
    sheet = photos._sheet(replace(scene, lines="none"), size, draw)
    for name, ink in page.layers.items():
        share = strength if name == "hand" else 1.0
        if scene.texture and name == "hand":
            share = share * (1 - scene.texture * (photos._smooth_noise(size, 2, draw) > 0.8))
        taken = np.clip(ink, 0, 1) * share
        sheet = sheet * (1 - taken[..., None] * _INKS[inks[name]])
    side = draw.uniform(700, 1500)
    corners = _SQUARE[:4] * size
    angle = np.deg2rad(0 if is_scan else draw.uniform(-5, 5))
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    placed = corners @ turn * side / max(size)
    placed += 0 if is_scan else draw.uniform(-1, 1, (4, 2)) * 0.03 * side
    has_table = draw.random() < 0.25 and not is_scan
    low, high = np.sort(placed, axis=0)[[1, 2]]  # the photo is in the page
    if has_table:
        around = draw.uniform(0, 0.15, (2, 2)) * side
        low, high = placed.min(0) - around[0], placed.max(0) + around[1]
    placed -= low
    photo = tuple(np.maximum(high - low, 50).astype(int).tolist())
    view = photo, Image.Transform.PERSPECTIVE, photos._perspective(placed, corners)
    flat = Image.fromarray(np.clip(sheet * 255, 0, 255).astype(np.uint8))
    pixels = np.asarray(flat.transform(*view, Image.Resampling.BICUBIC), np.float32) / 255
    if has_table:
        inside = np.asarray(Image.new("L", size, 255).transform(*view), np.float32)[..., None] / 255
        wood = draw.uniform(0.05, 0.6) * (1 - 0.4 * draw.random(3))
        wood = wood * (1 + 0.05 * photos._smooth_noise(photo, 4, draw)[..., None])
        pixels = inside * pixels + (1 - inside) * wood
    if not is_scan:
        pixels = pixels * photos._light(scene, photo, draw)[..., None]
    scene = replace(scene, light_ink=draw.random() < 0.04)
    picture = photos._camera(np.asarray(pixels, np.float32), scene, draw)
    way = np.append(photos._perspective(corners, placed), 1).reshape(3, 3)
    numbers = []
    for text, (left, top, right, bottom) in page.numbers:
        points = np.array([(left, top, 1), (right, top, 1), (right, bottom, 1), (left, bottom, 1)])
        moved = points @ way.T
        numbers.append((text, moved[:, :2] / moved[:, 2:]))
    return picture, numbers
