"""The most probable way to cut a line into pieces, and the probabilities of its digits.

A line is cut at many places, the nodes of a graph called lattice. Its edges are the pieces between
two cuts. A path leads from the left end of the line to the right end, and gives each of its pieces
a class: a digit, or no digit. The score of a path is the sum of the scores of its pieces. The
probability of a path is the exponential of its score, divided by the sum over all paths.

References:
    LeCun et al. (1998), "Gradient-based learning applied to document recognition", V-VII (graph
    transformer networks; here with the sum over paths, "discriminative forward training").
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import exp, inf, log1p

import numpy as np

from nanograd.numbers.pieces import Pieces
from nanograd.runtime.arrays import Doubles, Ints, Mask

# The class of a piece that is no digit: a hyphen, a dot, a letter, dirt.
NO_DIGIT = 10
# Intersection / union above which two pieces are at the same place.
SAME = 0.5
# A piece is likely if it is on a path with at least exp(-MARGIN) of the best path's probability.
MARGIN = 8.0


@dataclass(frozen=True)
class Path:
    """The most probable way to read a line."""

    pieces: Ints  # (n,) numbers of the pieces from left to right
    classes: Ints  # (n,) 0 to 9, or NO_DIGIT
    shares: Doubles  # (n, 11) probability of each class at the place of each piece
    probability: float  # of the text of the whole line, over all divisions
    lead: float  # log(probability of this path / of the best path without a digit)


def best_path(pieces: Pieces, scores: Doubles) -> Path | None:
    """Find the most probable path; `scores` is (P, 11) float64. None if no path exists."""
    first, last, end = pieces.first.tolist(), pieces.last.tolist(), pieces.num_nodes - 1
    best, classes, skip = scores.max(1).tolist(), scores.argmax(1), scores[:, NO_DIGIT].tolist()
    value, back = [0.0] + [-inf] * end, [-1] * (end + 1)
    empty = list(value)
    for number, (a, b) in enumerate(zip(first, last, strict=True)):
        if value[a] + best[number] > value[b]:
            value[b], back[b] = value[a] + best[number], number
        empty[b] = max(empty[b], empty[a] + skip[number])
    if end < 1 or back[end] < 0:
        return None
    path, node = list[int](), end
    while node > 0:
        path.append(back[node])
        node = first[back[node]]
    path.reverse()
    posteriors, whole = _posteriors(pieces, scores)
    shares = np.stack(
        [posteriors[_overlap(pieces.boxes, pieces.boxes[number]) > SAME].sum(0) for number in path]
    )
    chosen = np.where(classes[path] == NO_DIGIT, NO_DIGIT, shares[:, :NO_DIGIT].argmax(1))
    text = [int(each) for each in chosen if each != NO_DIGIT]
    return Path(
        pieces=np.array(path),
        classes=chosen,
        shares=np.minimum(shares, 1.0),
        probability=float(np.exp(_log_text(pieces, scores, text) - whole)),
        lead=value[end] - empty[end],
    )


def find_likely(pieces: Pieces, scores: Doubles) -> Mask:
    """Find the pieces that are on a path that is almost as probable as the best one, (P,)."""
    best = scores.max(1)
    ways, most = _ways(pieces, best.tolist(), max)
    return np.asarray(ways + best >= most - MARGIN)


def _posteriors(pieces: Pieces, scores: Doubles) -> tuple[Doubles, float]:
    """Return the probability of each piece and class, (P, 11), and the log sum over all paths."""
    ways, whole = _ways(pieces, np.logaddexp.reduce(scores, axis=1).tolist(), _add)
    return np.exp((ways - whole)[:, None] + scores), whole


def _ways(
    pieces: Pieces, values: list[float], join: Callable[[float, float], float]
) -> tuple[Doubles, float]:
    """Join the values of all paths through each piece, without its own, and of all paths."""
    edges = list(zip(pieces.first.tolist(), pieces.last.tolist(), values, strict=True))
    forward, backward = ([-inf] * pieces.num_nodes for _ in range(2))
    forward[0] = backward[-1] = 0.0
    for a, b, value in edges:
        forward[b] = join(forward[b], forward[a] + value)
    for a, b, value in reversed(edges):
        backward[a] = join(backward[a], backward[b] + value)
    return np.array([forward[a] + backward[b] for a, b, _ in edges]), forward[-1]


def _add(one: float, other: float) -> float:
    """Compute log(exp(one) + exp(other))."""
    least, most = sorted((one, other))
    return most if least == -inf else most + log1p(exp(least - most))


def _log_text(pieces: Pieces, scores: Doubles, text: list[int]) -> float:
    """Return the log sum over all paths that spell `text`."""
    ways = np.full((pieces.num_nodes, len(text) + 1), -np.inf)
    ways[0, 0] = 0
    for number, (a, b) in enumerate(zip(pieces.first.tolist(), pieces.last.tolist(), strict=True)):
        ways[b] = np.logaddexp(ways[b], ways[a] + scores[number, NO_DIGIT])
        ways[b, 1:] = np.logaddexp(ways[b, 1:], ways[a, :-1] + scores[number, text])
    return float(ways[-1, -1])


def _overlap(boxes: Ints, box: Ints) -> Doubles:
    """Return intersection / union of (n, 4) boxes with one box."""
    sides = np.minimum(boxes[:, 2:], box[2:]) - np.maximum(boxes[:, :2], box[:2])
    common = np.maximum(sides, 0).prod(1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1), (box[2:] - box[:2]).prod()
    return np.asarray(common / (areas[0] + areas[1] - common))
