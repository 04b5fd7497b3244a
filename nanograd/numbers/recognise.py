"""Numbers in pictures: lines of digits with their text, boxes and confidences.

The line net reads a line as a whole, and gives a few texts and their probabilities. The line is
also cut at more places than it has digits. The ink between two cuts is a piece, so pieces overlap.
The judge, two small nets, scores whether a piece is one whole digit: a quick net finds the likely
pieces, and where the line net is not certain, a better net scores these, with the probabilities by
which the model classifies them. The text with the largest product of both probabilities is chosen,
and the sequence of adjoining pieces that spells it with the highest sum of scores gives its boxes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import log

import numpy as np
from PIL import Image

from nanograd.digits.dataset import SIDE
from nanograd.errors import Reason, UnreadableError
from nanograd.models.model import Model
from nanograd.numbers.judge import load_judge, slant
from nanograd.numbers.lattice import NO_DIGIT, best_path, find_likely
from nanograd.numbers.line_net import find_texts, load_line_net, shrink
from nanograd.numbers.locate import Found, Line, Way, find_lines
from nanograd.numbers.pieces import cut
from nanograd.numbers.seams import find_seams
from nanograd.runtime.arrays import Bytes, Floats

Box = tuple[int, int, int, int]  # left, top, right, bottom, in pixels of the picture

# Minimum lead of a path over having no digit: for each digit, and for all of them.
_LEAD_OF_A_DIGIT, _LEAD = 2.0, 12.0
# A picture is searched in other ways unless each line has more than the confidence _SURE. A line
# with less than _DOUBTFUL counts against a result, and each line must be worth _LEAST certain
# digits. Longest sides in pixels of the other copies. Of 740 photos of training digits, 644 were
# right with _SURE 0.5 and _LEAST 0, and 657 with these values (2026-11-29).
_SURE, _DOUBTFUL, _LEAST, _OTHER_SIDES = 0.7, 0.3, 1.0, (240, 960)
# The scores of a line with less than _SURE are means with those of copies slanted by these columns.
_SLANTS = (0.1, -0.1)
# Log probability of a text above which the better net and the model are not asked. Of 1,717 lines
# of training digits, 1,024 had one, and 1,006 of these were right with and without these
# (2026-11-30).
_CERTAIN = log(0.95)
# Cost of a seam up to which it is in a gap between two digits.
_FREE = 3.0


@dataclass(frozen=True, kw_only=True)
class Digit:
    """A digit of a number."""

    digit: int
    probabilities: Floats  # (10,) float32, of each digit at this place; the rest is no digit
    unfamiliarity: float  # see `Assessment`
    box: Box
    image: Bytes  # (784,) in MNIST's form

    @property
    def confidence(self) -> float:
        """Probability of the digit, 0 to 1."""
        return float(self.probabilities[self.digit])


@dataclass(frozen=True, kw_only=True)
class Number:
    """A line of digits in a picture."""

    text: str
    confidence: float  # probability of the whole text, 0 to 1
    box: Box
    digits: tuple[Digit, ...]  # from left to right
    left_out: tuple[Box, ...]  # marks between the digits that are no digits


def read_line(line: Line, model: Model) -> Number | None:
    """Read a line; None without a digit."""
    judge, net = load_judge(), load_line_net()
    small = shrink(line.ink, (line.top + line.bottom) / 2)
    texts = find_texts(net.read(small))
    text = max(texts, key=texts.__getitem__)
    is_certain = texts[text] > _CERTAIN
    seams = find_seams(line.ink, line.pen)
    # If the digits do not touch, the seams through gaps are enough.
    gaps = seams.take(seams.cost <= _FREE)
    for each in (gaps, seams) if is_certain and len(gaps.cost) > len(text) else (seams,):
        pieces = cut(line.ink, each, line.pen, line.top, line.bottom)
        quick = judge.quick_scores(pieces)
        likely = find_likely(pieces, quick)
        pieces = pieces.take(likely)
        path = best_path(pieces, quick[likely], texts) if is_certain else None
        if path and path.text == text and path.probability > _SURE:
            break
    else:
        probabilities = model.probabilities(pieces.images)
        scores = judge.scores(pieces, probabilities)
        path = best_path(pieces, scores, texts)
        if path and path.probability < _SURE:
            images = pieces.images.reshape(-1, SIDE, SIDE)
            for columns in _SLANTS:
                slanted = np.round(slant(images, columns)).astype(np.uint8).reshape(-1, SIDE**2)
                scores += judge.scores(replace(pieces, images=slanted), probabilities)
            texts = find_texts(net.read(small, *(slant(small, columns) for columns in _SLANTS)))
            path = best_path(pieces, scores / (1 + len(_SLANTS)), texts)
    if path is None or path.lead <= min(_LEAD, _LEAD_OF_A_DIGIT * (path.classes != NO_DIGIT).sum()):
        return None
    is_digit = path.classes != NO_DIGIT
    own, read = path.pieces[is_digit], path.classes[is_digit]
    digits = [
        Digit(
            digit=digit,
            probabilities=shares[:NO_DIGIT].astype(np.float32),
            unfamiliarity=unfamiliarity,
            box=line.place(pieces.boxes[piece]),
            image=pieces.images[piece],
        )
        for piece, digit, shares, unfamiliarity in zip(
            own.tolist(),
            read.tolist(),
            path.shares[is_digit],
            model.compare(pieces.images[own], read).tolist(),
            strict=True,
        )
    ]
    return Number(
        text=path.text,
        confidence=path.probability,
        box=around([each.box for each in digits]),
        digits=tuple(digits),
        left_out=tuple(line.place(pieces.boxes[each]) for each in path.pieces[~is_digit]),
    )


def around(boxes: Sequence[Box]) -> Box:
    """Return the box around boxes."""
    sides = np.array(boxes)
    return (*sides[:, :2].min(0).tolist(), *sides[:, 2:].max(0).tolist())


def read_lines(lines: Sequence[Line], model: Model) -> list[Number]:
    """Read lines that were found, without those that have no digit."""
    numbers = (read_line(line, model) for line in lines)
    return [number for number in numbers if number]


def read_numbers(picture: Image.Image, model: Model, polarity: str = "auto") -> list[Number]:
    """Read the lines of digits in a picture, from top to bottom, then from left to right.

    If the result is doubtful, the picture is searched in other ways, for example in a smaller copy.
    The result with the largest value is returned, which grows with the number of its digits and
    with their confidence.

    Raises:
        UnreadableError: no mark is a digit, or marks cannot be distinguished from the paper.
    """
    best, most = list[Number](), -np.inf
    refused = (Reason.BLANK, "no mark in the picture is a digit")
    ways = [Way(polarity)]
    for number, way in enumerate(ways):
        found = None
        try:
            found = find_lines(picture, way)
        except UnreadableError as error:
            refused = refused if number else (error.reason, error.detail)
        numbers = read_lines(found.lines, model) if found else []
        value = sum(len(each.text) * (each.confidence - _DOUBTFUL) - _LEAST for each in numbers)
        is_best = bool(numbers) and value > most
        if is_best:
            best, most = numbers, value
        # A single digit may be all that was found of a line.
        sure = sum(len(each.text) for each in numbers) > 1
        sure = sure and min(each.confidence for each in numbers) > _SURE
        if not number:
            # Marks that are no digits in the first way are not read with doubts in another.
            most = 0.0 if found and not numbers else most
            ways += _other_ways(polarity, found, bool(numbers), sure)
        elif sure and is_best:
            break
    if not best:
        raise UnreadableError(*refused)
    return best


def _other_ways(polarity: str, found: Found | None, is_read: bool, sure: bool) -> Iterator[Way]:
    """Yield the ways to search a picture again; `found` is the result of the first way."""
    if found and found.has_sheet:
        # Digits at the border, or a shadow, may look like surroundings.
        yield Way(("dark-on-light", "light-on-dark")[found.inverted], sheets=False)
    if sure:
        return
    found = found if is_read else None  # without digits, the ink may not be known either
    likely = "dark-on-light" if polarity == "auto" and not found else polarity
    others = {"auto": ("dark-on-light", "light-on-dark")}.get(polarity, ())
    if found is None or found.inverted:
        yield from (Way(each, spread=True) for each in others[:1])
    yield Way(likely, weaker=True)  # print may be stronger than digits
    for side in _OTHER_SIDES:
        yield Way(likely, side=side)
    if found is None or not found.inverted:
        yield from map(Way, others[1:])
