"""The most probable way to cut a line into pieces, and the probabilities of its digits.

A line is cut at many places, the nodes of a graph called lattice. Its edges are the pieces between
two cuts. A path leads from the left end of the line to the right end, and gives each of its pieces
a class: a digit, or no digit. The score of a path is the sum of the scores of its pieces. The
probability of a path is the exponential of its score, divided by the sum over all paths.

References:
    LeCun et al. (1998), "Gradient-based learning applied to document recognition", V-VII (graph
    transformer networks; here with the sum over paths, "discriminative forward training").
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf

import numpy as np

from nanograd.numbers.pieces import Pieces
from nanograd.numbers.seams import LINE
from nanograd.runtime.arrays import Doubles, Ints, Mask

# The class of a piece that is no digit: a hyphen, a dot, a letter, dirt.
NO_DIGIT = 10
# Intersection / union above which two pieces are at the same place.
SAME = 0.5
# A piece is likely if it is on a path with at least exp(-MARGIN) of the best path's probability.
MARGIN = 8.0
# Weight of the line net's log probability of a text, and least probability of a text for shares.
WHOLE, _LEAST = 3.0, 1e-4
# Cost of each place in a text where a mark or a word is left out that is at least this tall, as a
# share of a digit's height. Of 1,918 lines and photos of lines of training digits, 9 more are right
# with this cost; of 150 lines with many letters and signs, 2 fewer with a cost of 0.5 (2026-11-30).
_LEFT_OUT, _TALL = 0.4, 0.6


@dataclass(frozen=True)
class Path:
    """The most probable way to read a line."""

    pieces: Ints  # (n,) numbers of the pieces from left to right
    classes: Ints  # (n,) 0 to 9, or NO_DIGIT
    shares: Doubles  # (n, 11) probability of each class at the place of each piece
    probability: float  # of the text of the whole line
    lead: float  # log(probability of this text / of no digit)

    @property
    def text(self) -> str:
        """The digits of the path."""
        return "".join(str(each) for each in self.classes.tolist() if each != NO_DIGIT)


def best_path(pieces: Pieces, scores: Doubles, texts: Mapping[str, float]) -> Path | None:
    """Find the most probable text and the most probable path that spells it.

    Args:
        pieces: P pieces.
        scores: (P, 11) float64.
        texts: logs of the probabilities of texts, of the empty one and others, by the line net. The
            text of the path with the highest score is tried as well.

    Returns:
        The path, or None if none exists.
    """
    best = _spell_best(pieces, scores)
    if best is None:
        return None
    texts = {best: min(texts.values()), **texts}
    sums, paths = _spell(pieces, scores, list(texts))
    values = (sums + WHOLE * np.array(list(texts.values()))) / (1 + WHOLE)
    is_tall = pieces.boxes[:, 3] - pieces.boxes[:, 1] >= _TALL * LINE
    for number, (own, classes) in enumerate(paths):
        # Marks that are left out side by side are one place.
        left_out = (classes == NO_DIGIT)[is_tall[own] | (classes != NO_DIGIT)]
        if left_out.any() and not left_out.all():
            values[number] -= _LEFT_OUT * np.count_nonzero(
                np.diff(left_out, prepend=False) & left_out
            )
    chosen = int(values.argmax())
    probabilities = np.exp(values - np.logaddexp.reduce(values))
    own, classes = paths[chosen]
    shares = np.zeros((len(own), NO_DIGIT + 1))
    for number in np.flatnonzero(probabilities > _LEAST).tolist():
        others, found = paths[number]
        for place, other in np.argwhere(_overlaps(pieces.boxes[own], pieces.boxes[others]) > SAME):
            shares[place, found[other]] += probabilities[number]
    return Path(
        pieces=own,
        classes=classes,
        shares=np.minimum(shares, 1.0),
        probability=float(probabilities[chosen]),
        lead=float(values[chosen] - values[list(texts).index("")]),
    )


def find_likely(pieces: Pieces, scores: Doubles) -> Mask:
    """Find the pieces that are on a path that is almost as probable as the best one, (P,)."""
    best = scores.max(1)
    edges = list(zip(pieces.first.tolist(), pieces.last.tolist(), best.tolist(), strict=True))
    forward, backward = ([-inf] * pieces.num_nodes for _ in range(2))
    forward[0] = backward[-1] = 0.0
    for a, b, score in edges:
        forward[b] = max(forward[b], forward[a] + score)
    for a, b, score in reversed(edges):
        backward[a] = max(backward[a], backward[b] + score)
    through = np.array([forward[a] + score + backward[b] for a, b, score in edges])
    return np.asarray(through >= forward[-1] - MARGIN)


def _spell_best(pieces: Pieces, scores: Doubles) -> str | None:
    """Return the text of the path with the highest score; None if no path exists."""
    best, classes = scores.max(1).tolist(), scores.argmax(1).tolist()
    texts: list[tuple[float, str] | None] = [(0.0, "")] + [None] * (pieces.num_nodes - 1)
    edges = zip(pieces.first.tolist(), pieces.last.tolist(), best, classes, strict=True)
    for a, b, score, number in edges:
        before, known = texts[a], texts[b]
        if before and (known is None or before[0] + score > known[0]):
            texts[b] = before[0] + score, before[1] + (str(number) if number != NO_DIGIT else "")
    return texts[-1][1] if texts[-1] else None


def _spell(
    pieces: Pieces, scores: Doubles, texts: Sequence[str]
) -> tuple[Doubles, list[tuple[Ints, Ints]]]:
    """Return the log sums over all paths that spell each of K texts, and the best one of each.

    A path consists of the numbers of its pieces and their classes. A text that no path spells has
    an empty one.
    """
    lengths = np.array([len(text) for text in texts])
    digits = np.zeros((len(texts), lengths.max() + 1), int)
    for row, text in zip(digits, texts, strict=True):
        row[1 : 1 + len(text)] = [int(each) for each in text]
    # Of the paths to a node that spell the first n digits of a text, in column n + 1: the log sum,
    # the highest score, and the last piece of that path, twice its number, plus 1 for a digit.
    shape = pieces.num_nodes, len(texts), lengths.max() + 2
    sums, most, last = np.full(shape, -np.inf), np.full(shape, -np.inf), np.zeros(shape, int)
    sums[0, :, 1] = most[0, :, 1] = 0.0
    edges = zip(pieces.first.tolist(), pieces.last.tolist(), strict=True)
    for number, (a, b) in enumerate(edges):
        own, digit = scores[number, NO_DIGIT], scores[number, digits]
        skip, take = sums[a, :, 1:] + own, sums[a, :, :-1] + digit
        sums[b, :, 1:] = np.logaddexp(np.logaddexp(sums[b, :, 1:], skip), take)
        for step, is_digit in ((most[a, :, 1:] + own, 0), (most[a, :, :-1] + digit, 1)):
            is_better = step > most[b, :, 1:]
            most[b, :, 1:][is_better] = step[is_better]
            last[b, :, 1:][is_better] = 2 * number + is_digit
    each = np.arange(len(texts))
    paths = [
        _trace(pieces, last[:, row], digits[row, : length + 1])
        if most[-1, row, length + 1] > -np.inf
        else (np.zeros(0, int), np.zeros(0, int))
        for row, length in enumerate(lengths.tolist())
    ]
    return sums[-1, each, lengths + 1], paths


def _trace(pieces: Pieces, last: Ints, digits: Ints) -> tuple[Ints, Ints]:
    """Follow the last pieces, (nodes, digits), from the end of a line to its start."""
    node, spelt, path = pieces.num_nodes - 1, len(digits) - 1, list[tuple[int, int]]()
    while node > 0:
        number, is_digit = divmod(int(last[node, spelt + 1]), 2)
        path.append((number, int(digits[spelt]) if is_digit else NO_DIGIT))
        node, spelt = int(pieces.first[number]), spelt - is_digit
    numbers, classes = np.array(path[::-1]).T
    return numbers, classes


def _overlaps(boxes: Ints, others: Ints) -> Doubles:
    """Return intersection / union of each of (n, 4) boxes with each of (m, 4) others, (n, m)."""
    boxes = boxes[:, None]
    sides = np.minimum(boxes[..., 2:], others[:, 2:]) - np.maximum(boxes[..., :2], others[:, :2])
    common = np.maximum(sides, 0).prod(2)
    areas = ((each[..., 2:] - each[..., :2]).prod(-1) for each in (boxes, others))
    return np.asarray(common / (sum(areas) - common))
