"""Allographs: shapes of the digits that MNIST has few of, drawn from a table of strokes.

A net that has not seen a shape mistakes it for another digit: a one with a long flag for a seven,
an open four for a nine. So some training images are drawn from `allographs.toml`. A shape is a few
points. Each drawing shakes them, widens and slants the shape, and takes a pen of another width,
which varies along the strokes.

References:
    Catmull & Rom (1974), "A class of local interpolating splines" (uniform, tension 1/2).
"""

import tomllib
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nanograd.data.dataset import NUM_PIXELS, SIDE, Dataset
from nanograd.digits.form import LONGEST_SIDE, centre
from nanograd.runtime.arrays import Bytes, Doubles
from nanograd.runtime.randomness import ALLOGRAPHS, stream

Strokes = Sequence[Sequence[Sequence[float]]]
Range = tuple[float, float]

_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

# Positions of the pen along a shape, less than a pixel apart.
_NUM_POSITIONS = 96
# Drawings at once: the working arrays of more fall out of cache.
_BLOCK = 32

# Greatest shift of each point along each axis, as a share of the digit's height.
_SHAKE = 0.04
# Shift of the top per height.
_SLANT = (-0.3, 0.3)
# Greatest change of the pen along the strokes, as a share, and the number of waves of that change.
_PEN_CHANGE, _PEN_WAVES = (0.0, 0.3), (0.3, 2.0)
# Draws of an image beside those of its points: one of each above, and the phase of the waves.
_NUM_OTHERS = 6

_GRID = np.arange(SIDE, dtype=np.float32)


class Allograph(NamedTuple):
    """A shape of a digit, of P distinct points (x, y)."""

    name: str
    digit: int
    least: Doubles  # (P, 2), least x and y of each point
    most: Doubles  # (P, 2), greatest x and y
    path: Doubles  # (_NUM_POSITIONS, P), weights of the points in each position of the pen
    width: Range = (0.75, 1.3)  # least and greatest factor by which it is widened
    pen: Range = (1.5, 4.0)  # pixels; thin pens are more frequent


@cache
def allographs() -> Sequence[Allograph]:
    """Return the shapes of the table, in the order in which they are drawn, some several times."""
    text = files("nanograd.digits").joinpath("allographs.toml").read_text()
    return [
        shape
        for name, entry in tomllib.loads(text).items()
        for shape in entry.pop("times", 1) * [_read(name, **entry)]
    ]


def _read(name: str, lines: Strokes = (), curves: Strokes = (), **ranges: Range) -> Allograph:
    strokes = [np.array([[*point, *point][:4] for point in each]) for each in (*lines, *curves)]
    points, index = np.unique(np.concatenate(strokes), axis=0, return_inverse=True)
    # The pen moves at one speed: positions in proportion to lengths.
    middles = [(each[:, :2] + each[:, 2:]) / 2 for each in strokes]
    lengths = [np.hypot(*np.diff(each, axis=0).T).cumsum() for each in middles]
    ends = np.cumsum([each[-1] for each in lengths])
    ends = np.rint(ends * _NUM_POSITIONS / ends[-1]).astype(np.intp)
    path = np.zeros((_NUM_POSITIONS, len(points)))
    start = first = 0
    for number, (length, end) in enumerate(zip(lengths, ends, strict=True)):
        num_points = len(length) + 1
        along = np.linspace(0, length[-1], end - start)
        place = np.interp(along, [0, *length], np.arange(num_points))
        span = np.minimum(place.astype(np.intp), num_points - 2)
        weights = _spline_weights(place - span, is_curve=number >= len(lines))
        neighbours = np.clip(span + np.arange(-1, 3)[:, None], 0, num_points - 1)
        np.add.at(path, (np.arange(start, end), index.ravel()[first + neighbours]), weights)
        start, first = end, first + num_points
    digit = _DIGITS.index(name.partition("-")[0])
    return Allograph(name, digit, points[:, :2], points[:, 2:], path, **ranges)


def _spline_weights(share: Doubles, *, is_curve: bool) -> Doubles:
    """Weights, (4, n), of the points before, at both ends of, and after a span, at shares of it."""
    one = np.ones_like(share)
    if not is_curve:
        return np.stack([0 * one, 1 - share, share, 0 * one])
    powers = np.stack([one, share, share**2, share**3])
    return np.array([[0, -1, 2, -1], [2, 0, -5, 3], [0, 1, 4, -3], [0, 0, -1, 1]]) / 2 @ powers


def add_allographs(digits: Dataset, share: float, seed: int) -> Dataset:
    """Append drawings, one shape after the other, as many as a share of the images.

    Args:
        digits: N images.
        share: 0 to 1.
        seed: 0 to 2**63 - 1; determines the drawings.
    """
    drawn = draw_allographs(num_allographs(len(digits), share), seed)
    return Dataset(
        np.concatenate([digits.images, drawn.images]),
        np.concatenate([digits.labels, drawn.labels]),
    )


def num_allographs(num_images: int, share: float) -> int:
    """Return the number of images that `add_allographs` adds."""
    return round(share * num_images)


def draw_allographs(number: int, seed: int) -> Dataset:
    """Draw images of the shapes of the table: the first of each entry, the second of each, ...

    Each image follows from its position and the seed alone, as one of a few as of many.
    """
    shapes = allographs()
    labels = np.resize(np.array([shape.digit for shape in shapes], np.uint8), number)
    images = np.empty((number, NUM_PIXELS), np.uint8)
    for position, shape in enumerate(shapes):
        part = images[position :: len(shapes)]
        num_draws = 2 * len(shape.least) + _NUM_OTHERS
        raw = stream(seed, ALLOGRAPHS, position).random_raw(len(part) * num_draws)
        draws = np.asarray((raw >> np.uint64(11)) * 2.0**-53).reshape(-1, num_draws)
        for start in range(0, len(part), _BLOCK):
            block = slice(start, start + _BLOCK)
            part[block] = draw(shape, draws[block])
    return Dataset(images, labels)


def draw(shape: Allograph, draws: Doubles) -> Bytes:
    """Draw a shape B times, in the form of MNIST.

    Args:
        shape: P points.
        draws: (B, 2 P + 6) in [0, 1): of the points, of width, slant and pen, and of the change of
            the pen, its waves and their phase.

    Returns:
        (B, 784) uint8, ink 255 on 0.
    """
    width, slant, pen, change, waves, phase = draws[:, -_NUM_OTHERS:].T[:, :, None]
    points = draws[:, :-_NUM_OTHERS].reshape(len(draws), -1, 2)
    points = _between((shape.least - _SHAKE, shape.most + _SHAKE), points)
    x, y = np.moveaxis(shape.path @ points, 2, 0)
    x = x * _between(shape.width, width) - y * _between(_SLANT, slant)
    time = np.linspace(0, 2 * np.pi, _NUM_POSITIONS)
    wave = np.sin(_between(_PEN_WAVES, waves) * time + 2 * np.pi * phase)
    radius = _between(shape.pen, pen**1.5) / 2 * (1 + _between(_PEN_CHANGE, change) * wave)
    ink = _draw_pen(*(each.astype(np.float32) for each in _fit(x, y, radius)))
    return np.stack([_centre(image) for image in ink]).reshape(-1, NUM_PIXELS)


def _between(limits: tuple[Doubles | float, Doubles | float], draw: Doubles) -> Doubles:
    between: Doubles = limits[0] + (limits[1] - limits[0]) * draw
    return between


def _fit(x: Doubles, y: Doubles, radius: Doubles) -> tuple[Doubles, Doubles, Doubles]:
    """Scale positions and radii, (B, N) each, so that the drawing's longest side is 20 pixels."""
    # From edge to edge of the pen it is 19: the faint rim adds a pixel.
    side = LONGEST_SIDE - 1
    longest = np.maximum(np.ptp(x, axis=1), np.ptp(y, axis=1))[:, None]
    radius = radius * longest / (side - 2 * radius.mean(axis=1, keepdims=True))
    axes = np.stack([x, y])
    low, high = (axes - radius).min(axis=2), (axes + radius).max(axis=2)
    scale = side / (high - low).max(axis=0)[:, None]
    x, y = (SIDE - LONGEST_SIDE) / 2 + scale * (axes - low[..., None])
    return x, y, scale * radius


def _draw_pen(x: NDArray[np.float32], y: NDArray[np.float32], radius: NDArray[np.float32]) -> Bytes:
    """Draw a round pen at N positions, (B, N) each: (B, 28, 28) uint8 with smooth edges."""
    # Squares of the distances from each row and column of pixels, in radii; (N, B, 28) each.
    across, down = (np.square((_GRID - axis.T[..., None]) / radius.T[..., None]) for axis in (x, y))
    nearest = np.full((len(x), SIDE, SIDE), np.inf, np.float32)
    distance = np.empty_like(nearest)
    for columns, rows in zip(across, down, strict=True):
        np.add(columns[:, None, :], rows[:, :, None], out=distance)
        np.minimum(nearest, distance, out=nearest)
    inside = (1 - np.sqrt(nearest)) * radius.mean(axis=1)[:, None, None]
    return np.asarray(np.rint(255 * np.clip(inside + 0.5, 0, 1)), np.uint8)


def _centre(image: Bytes) -> Bytes:
    rows, columns = np.flatnonzero(image.any(axis=1)), np.flatnonzero(image.any(axis=0))
    return centre(image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
