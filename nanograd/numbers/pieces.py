"""Divide a line of known text into pieces: its digits, and marks that are no digits."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from nanograd.digits import form
from nanograd.digits.dataset import NUM_CLASSES
from nanograd.models.model import Model
from nanograd.numbers.locate import Line
from nanograd.numbers.seams import FAINT, LEAST, LINE, STRONG
from nanograd.runtime.arrays import Bytes, Floats, Ints, Mask

# Cost of a seam up to which it is in a gap and cuts no stroke.
FREE = 3.0
# Of the seams between two digits that touch, the TRIED best are tried: those with the least sum of
# their cost and CENTRAL times the square of their distance from the middle, in heights.
TRIED, CENTRAL = 3, 100.0
# Ink apart from a digit, such as the bar of a five, belongs to it if the middles of both are at
# most NEAR heights apart.
NEAR = 0.3


@dataclass(frozen=True)
class Pieces:
    """The D digits of a line from left to right, and its M other marks."""

    boxes: Ints  # (D, 4) left, top, right and bottom, in pixels of the line
    images: Bytes  # (D, 784) in MNIST's form
    others: Ints  # (M, 4) boxes of the marks
    apart: Mask  # (D,) whether there is a gap on both sides of a digit


def divide(line: Line, digits: Sequence[int], columns: Floats, model: Model) -> Pieces:
    """Divide a line at the seams in its gaps, and between digits that touch.

    If two digits touch, several seams between them are tried. The seam is chosen for which the
    product of the model's probabilities of both digits is largest.

    Args:
        line: a line of D digits.
        digits: the digits from left to right.
        columns: (D,) the middle of each digit, in pixels of the line.
        model: classifies the pieces.
    """
    ink, seams = np.where(line.ink > FAINT, line.ink, np.float32(0)), line.seams
    height, width = ink.shape
    row = min(max(round((line.top + line.bottom) / 2), 0), height - 1)
    places, middles = seams.last[:, row], np.clip(columns.astype(int), 0, width - 1)
    ink[row, middles] = np.maximum(ink[row, middles], np.float32(1e-6))  # no piece is empty
    free = (seams.cost <= FREE) & (places >= 0) & (places < width)
    cuts, touching = list(seams.last[free]), list[tuple[int, int, list[Ints]]]()
    apart = np.ones(len(digits), bool)
    for number, (left, right) in enumerate(pairwise(middles.tolist())):
        between = (places >= left) & (places < right)
        if not (between & free).any():
            apart[number : number + 2] = False
            inner = np.flatnonzero(between)
            distance = (places[inner] + 0.5 - (left + right) / 2) / LINE
            inner = inner[np.argsort(seams.cost[inner] + CENTRAL * distance**2)][:TRIED]
            found = list(seams.last[inner]) or [np.full(height, (left + right) // 2)]
            if len(found) > 1:
                touching.append((len(cuts), number, found))
            cuts.append(found[0])
    for place, number, found in touching:
        images = list[Bytes]()
        for seam in found:
            labels = _label([*cuts[:place], seam, *cuts[place + 1 :]], ink)
            pair = labels[row, middles[number : number + 2]]
            images += [_cut(labels == own, ink)[1] for own in pair]
        shares = model.probabilities(np.array(images)).reshape(-1, 2, NUM_CLASSES)
        fits = shares[:, 0, digits[number]] * shares[:, 1, digits[number + 1]]
        cuts[place] = found[int(fits.argmax())]
    labels = _label(cuts, ink)
    own, marks = labels[row, middles], list[Ints]()
    for piece in np.setdiff1d(labels[ink > STRONG], own).tolist():
        mark = np.where(labels == piece, ink, 0)
        box = _box(mark)
        distances = np.abs(box[[0, 2]].mean() - columns)
        if distances.min() <= NEAR * LINE:
            labels[labels == piece] = own[distances.argmin()]
        elif mark.sum() >= LEAST * line.pen**2:
            marks.append(box)
    pieces = [_cut(labels == each, ink) for each in own]
    return Pieces(
        boxes=np.array([box for box, _ in pieces]),
        images=np.array([image for _, image in pieces]),
        others=np.array(marks, int).reshape(-1, 4),
        apart=apart,
    )


def _label(cuts: Sequence[Ints], ink: Floats) -> Ints:
    """Return the number of each pixel's piece between cuts, from left to right, (height, width)."""
    height, width = ink.shape
    number = np.zeros((height, width + 2), int)  # a cut is at -1 to the width
    np.add.at(number, (np.arange(height), np.reshape(cuts, (-1, height)).astype(int) + 1), 1)
    return np.asarray(number[:, :width].cumsum(1))


def _cut(piece: Mask, ink: Floats) -> tuple[Ints, Bytes]:
    """Return the box of a piece, and its ink in MNIST's form, (784,)."""
    columns = np.flatnonzero(piece.any(0))
    place = slice(columns[0], columns[-1] + 1)
    part = np.where(piece[:, place], ink[:, place], 0)
    image = form.centre(form.shrink(part / part.max())).ravel()
    return _box(part) + np.array([1, 0, 1, 0]) * place.start, image


def _box(ink: Floats) -> Ints:
    """Return the left, top, right and bottom of a piece."""
    strong: Mask = ink > min(STRONG, float(ink.max()) / 2)
    columns, rows = np.flatnonzero(strong.any(0)), np.flatnonzero(strong.any(1))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
