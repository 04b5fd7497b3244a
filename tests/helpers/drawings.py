"""Digits drawn on the pad of a report: strokes that differ in size, place, slant and pen."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Stroke = list[tuple[float, float]]

PAD_SIDE, PEN = 240, 18  # of page/draw.html and page/draw.js
_FINER = 4


class Drawing(NamedTuple):
    """A digit and its strokes, in pixels of the pad."""

    label: int
    strokes: list[Stroke]


def _arc(x: float, y: float, wide: float, tall: float, begin: float, end: float) -> Stroke:
    """Points on an ellipse; angles in turns, clockwise from the right."""
    turns = 2 * np.pi * np.linspace(begin, end, 12)
    return [(x + wide * float(np.cos(t)), y + tall * float(np.sin(t))) for t in turns]


# In a square of side 1, x to the right and y down.
_DIGITS: list[list[Stroke]] = [
    [_arc(0.5, 0.5, 0.25, 0.38, -0.25, 0.76)],
    [[(0.38, 0.25), (0.52, 0.12), (0.52, 0.88)]],
    [[*_arc(0.5, 0.32, 0.22, 0.2, 0.5, 1.08), (0.28, 0.86), (0.76, 0.86)]],
    [_arc(0.47, 0.3, 0.22, 0.18, 0.6, 1.25) + _arc(0.47, 0.68, 0.25, 0.2, 0.75, 1.4)],
    [[(0.58, 0.12), (0.24, 0.6), (0.78, 0.6)], [(0.6, 0.36), (0.6, 0.9)]],
    [
        [(0.34, 0.14), (0.31, 0.45), *_arc(0.46, 0.64, 0.24, 0.23, 0.65, 1.4)],
        [(0.34, 0.14), (0.72, 0.13)],
    ],
    [[(0.62, 0.12), (0.36, 0.45), *_arc(0.5, 0.68, 0.2, 0.2, 0.5, 1.5)]],
    [[(0.24, 0.15), (0.75, 0.15), (0.42, 0.88)]],
    [_arc(0.5, 0.31, 0.18, 0.18, 0.25, 1.25) + _arc(0.5, 0.7, 0.22, 0.21, 0.75, 1.75)],
    [[*_arc(0.5, 0.33, 0.19, 0.2, 0.0, 1.0), (0.68, 0.4), (0.6, 0.88)]],
]  # fmt: skip


def drawings(each: int, seed: int = 0) -> Iterator[Drawing]:
    """Yield several drawings of each digit, each with its own size, place, slant and shape."""
    draws = np.random.default_rng(seed)
    for label in list(range(10)) * each:
        turn, size = draws.uniform(-0.25, 0.25), draws.uniform(0.35, 1.1)
        stretch, slant = draws.uniform(0.8, 1.2), draws.uniform(-0.25, 0.25)
        middle = PAD_SIDE / 2 + draws.uniform(-0.2, 0.2, 2) * PAD_SIDE
        matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        matrix = PAD_SIDE * size * matrix @ np.array([[stretch, slant], [0, 1]])
        yield Drawing(label, [_moved(stroke, matrix, middle) for stroke in _DIGITS[label]])


def _moved(stroke: Stroke, matrix: NDArray[np.floating], middle: NDArray[np.floating]) -> Stroke:
    points = (np.array(stroke) - 0.5) @ matrix.T + middle
    # A stroke cannot begin outside the pad.
    points = points.clip(1, PAD_SIDE - 1)
    return [(round(float(x), 1), round(float(y), 1)) for x, y in points]


def painted(drawing: Drawing, pen: float = PEN) -> Image.Image:
    """Black strokes on white with soft edges, PAD_SIDE x PAD_SIDE, mode L."""
    large = Image.new("L", (PAD_SIDE * _FINER, PAD_SIDE * _FINER), 255)
    draw, radius = ImageDraw.Draw(large), pen * _FINER / 2
    for stroke in drawing.strokes:
        points = [(x * _FINER, y * _FINER) for x, y in stroke]
        draw.line(points, fill=0, width=round(2 * radius))
        for x, y in points:
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=0)
    return large.reduce(_FINER)
