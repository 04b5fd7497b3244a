"""Variants: synthetic digits in shapes that are rare in MNIST, drawn from a table of strokes.

A net misclassifies shapes that it was not trained on: it reads a one with a long flag as a seven,
and an open four as a nine. `variants.toml` describes each such shape by a few points. A drawing
moves the points at random, widens and slants the shape, and uses a pen of random width.

References:
    Catmull & Rom (1974), "A class of local interpolating splines" (uniform, tension 1/2).
"""

import tomllib
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import NamedTuple

import numpy as np

from nanograd.digits.dataset import NUM_PIXELS, SIDE, WORDS, Dataset, concatenate
from nanograd.digits.form import LONGEST_SIDE, centre
from nanograd.runtime.arrays import Bytes, Doubles, Floats
from nanograd.runtime.randomness import VARIANTS, stream

Strokes = Sequence[Sequence[Sequence[float]]]
Range = tuple[float, float]

# Number of pen positions along a shape; neighbouring positions are less than a pixel apart.
_NUM_POSITIONS = 96
# Number of images to draw together; for more, the working arrays do not fit into the cache.
_BLOCK = 32

# Maximum shift of a point along each axis / height of the digit.
_SHAKE = 0.04
# Horizontal shift of the top edge / height of the digit.
_SLANT = (-0.3, 0.3)
# The pen width varies along the strokes as a sine wave: amplitude / width, and number of waves.
_PEN_CHANGE, _PEN_WAVES = (0.0, 0.3), (0.3, 2.0)
# Number of random numbers of an image besides two for each point (see `draw`).
_NUM_OTHERS = 6

_CATMULL_ROM = np.array([[0, -1, 2, -1], [2, 0, -5, 3], [0, 1, 4, -3], [0, 0, -1, 1]]) / 2
_GRID = np.arange(SIDE, dtype=np.float32)


class Variant(NamedTuple):
    """A shape of a digit, drawn through P random points."""

    name: str
    digit: int
    least: Doubles  # (P, 2), minimum x and y of each point
    most: Doubles  # (P, 2), maximum x and y
    path: Doubles  # (_NUM_POSITIONS, P), weights of the points for each pen position
    width: Range = (0.75, 1.3)  # range of the factor by which the shape is widened
    pen: Range = (1.5, 4.0)  # range of the pen width in pixels; thin pens are more frequent


@cache
def variants() -> Sequence[Variant]:
    """Return the shapes of the table in drawing order; a shape with `times = n` occurs n times."""
    text = files("nanograd.digits").joinpath("variants.toml").read_text()
    return [
        shape
        for name, entry in tomllib.loads(text).items()
        for shape in entry.pop("times", 1) * [parse(name, **entry)]
    ]


def parse(name: str, lines: Strokes = (), curves: Strokes = (), **ranges: Range) -> Variant:
    """Convert an entry of `variants.toml` to a shape; the file describes the format."""
    strokes = [np.array([[*point, *point][:4] for point in each]) for each in (*lines, *curves)]
    points, index = np.unique(np.concatenate(strokes), axis=0, return_inverse=True)
    # The pen moves at constant speed, so a stroke has positions in proportion to its length.
    middles = [(each[:, :2] + each[:, 2:]) / 2 for each in strokes]
    lengths = [np.hypot(*np.diff(each, axis=0).T).cumsum() for each in middles]
    ends = np.cumsum([each[-1] for each in lengths])
    ends = np.rint(ends * _NUM_POSITIONS / ends[-1]).astype(np.intp)
    path = np.zeros((_NUM_POSITIONS, len(points)))
    start = first = 0
    for number, (length, end) in enumerate(zip(lengths, ends, strict=True)):
        num_points = len(length) + 1
        along = np.linspace(0, length[-1], end - start)
        position = np.interp(along, [0, *length], np.arange(num_points))
        span = np.minimum(position.astype(np.intp), num_points - 2)
        share = position - span
        one = np.ones_like(share)
        # (4, n): weights of the points before the span, at both of its ends, and after it
        weights = np.stack([0 * one, 1 - share, share, 0 * one])
        if number >= len(lines):
            powers = np.stack([one, share, share**2, share**3])
            weights = _CATMULL_ROM @ powers
        neighbours = np.clip(span + np.arange(-1, 3)[:, None], 0, num_points - 1)
        np.add.at(path, (np.arange(start, end), index.ravel()[first + neighbours]), weights)
        start, first = end, first + num_points
    digit = WORDS.index(name.partition("-")[0])
    return Variant(name, digit, points[:, :2], points[:, 2:], path, **ranges)


def add_variants(digits: Dataset, share: float, seed: int) -> Dataset:
    """Append round(share * N) synthetic digits to N images; the seed determines the digits."""
    return concatenate([digits, draw_variants(num_variants(len(digits), share), seed)])


def num_variants(num_images: int, share: float) -> int:
    """Return the number of images that `add_variants` adds."""
    return round(share * num_images)


def draw_variants(number: int, seed: int) -> Dataset:
    """Draw the shapes of `variants` in turn; an image depends only on its index and the seed."""
    shapes = variants()
    labels = np.resize(np.array([shape.digit for shape in shapes], np.uint8), number)
    images = np.empty((number, NUM_PIXELS), np.uint8)
    for position, shape in enumerate(shapes):
        part = images[position :: len(shapes)]
        num_draws = 2 * len(shape.least) + _NUM_OTHERS
        raw = stream(seed, VARIANTS, position).random_raw(len(part) * num_draws)
        draws = np.asarray((raw >> np.uint64(11)) * 2.0**-53).reshape(-1, num_draws)
        for start in range(0, len(part), _BLOCK):
            block = slice(start, start + _BLOCK)
            part[block] = draw(shape, draws[block])
    return Dataset(images, labels)


def draw(shape: Variant, draws: Doubles) -> Bytes:
    """Draw a shape with P points B times, in the form of MNIST, as (B, 784) uint8, ink 255 on 0.

    `draws` is (B, 2 P + 6) float64 in [0, 1): x and y of each point, then width, slant, pen width,
    and amplitude, number and phase of the waves of the pen width.
    """
    width, slant, pen, change, waves, phase = draws[:, -_NUM_OTHERS:].T[:, :, None]
    points = draws[:, :-_NUM_OTHERS].reshape(len(draws), -1, 2)
    points = _between((shape.least - _SHAKE, shape.most + _SHAKE), points)
    x, y = np.moveaxis(shape.path @ points, 2, 0)
    x = x * _between(shape.width, width) - y * _between(_SLANT, slant)
    time = np.linspace(0, 2 * np.pi, _NUM_POSITIONS)
    wave = np.sin(_between(_PEN_WAVES, waves) * time + 2 * np.pi * phase)
    radius = _between(shape.pen, pen**1.5) / 2 * (1 + _between(_PEN_CHANGE, change) * wave)
    # The longest side is 20: 19 for the outline, and 1 for the faint pixels around it.
    side = LONGEST_SIDE - 1
    longest = np.maximum(np.ptp(x, axis=1), np.ptp(y, axis=1))[:, None]
    radius = radius * longest / (side - 2 * radius.mean(axis=1, keepdims=True))
    axes = np.stack([x, y])
    low, high = (axes - radius).min(axis=2), (axes + radius).max(axis=2)
    scale = side / (high - low).max(axis=0)[:, None]
    positions = (SIDE - LONGEST_SIDE) / 2 + scale * (axes - low[..., None])
    ink = _draw_pen(*(each.astype(np.float32) for each in (*positions, scale * radius)))
    images = []
    for image in ink:
        rows, columns = np.flatnonzero(image.any(axis=1)), np.flatnonzero(image.any(axis=0))
        images.append(centre(image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]))
    return np.stack(images).reshape(-1, NUM_PIXELS)


def _between(limits: tuple[Doubles | float, Doubles | float], draw: Doubles) -> Doubles:
    return np.asarray(limits[0] + (limits[1] - limits[0]) * draw)


def _draw_pen(x: Floats, y: Floats, radius: Floats) -> Bytes:
    """Draw a round pen at N positions, (B, N) each, as (B, 28, 28) uint8 with smooth edges."""
    # (N, B, 28): squared distance of each pixel column and row from the pen, in units of its radius
    across, down = (np.square((_GRID - axis.T[..., None]) / radius.T[..., None]) for axis in (x, y))
    nearest = np.full((len(x), SIDE, SIDE), np.inf, np.float32)
    distance = np.empty_like(nearest)
    for columns, rows in zip(across, down, strict=True):
        np.add(columns[:, None, :], rows[:, :, None], out=distance)
        np.minimum(nearest, distance, out=nearest)
    inside = (1 - np.sqrt(nearest)) * radius.mean(axis=1)[:, None, None]
    return np.asarray(np.rint(255 * np.clip(inside + 0.5, 0, 1)), np.uint8)
