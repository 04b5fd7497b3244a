"""Pictures of numbers that no data set is needed for: digits drawn with a pen from shapes.

A writer has one shape for each digit: a usual one (`_USUAL`), or in a third of the cases one of
`nanograd.digits.variants`. Lines have 2 to 10 digits, on white paper, in boxes, or as photos.
"""

from collections.abc import Iterator
from io import BytesIO

import numpy as np
from numpy.random import Generator
from PIL import Image

from nanograd.digits.variants import Variant, draw, parse, variants
from nanograd.runtime.arrays import Bytes
from simulators.photos import photograph
from simulators.scenes import KINDS
from simulators.strings import HEIGHT, Style, write, write_in_boxes

_USUAL = [
    parse("zero", curves=[[[0.35, 0], [0.05, 0.3], [0.1, 0.85], [0.4, 1], [0.65, 0.6], [0.35, 0]]]),
    parse("one", lines=[[[0.05, 0], [0, 1]]], pen=(2, 4)),
    parse("two", curves=[[[0, 0.2], [0.3, 0], [0.6, 0.25], [0.3, 0.65], [0, 1]]],
          lines=[[[0, 1], [0.7, 0.97]]]),
    parse("three", curves=[[[0, 0.08], [0.4, 0], [0.5, 0.25], [0.15, 0.47]],
                           [[0.15, 0.47], [0.6, 0.62], [0.5, 0.95], [0, 0.93]]]),
    parse("four", lines=[[[0.1, 0], [0, 0.55], [0.7, 0.5]], [[0.55, 0.05], [0.5, 1]]]),
    parse("five", lines=[[[0.6, 0], [0.1, 0.02], [0.05, 0.42]]],
          curves=[[[0.05, 0.42], [0.55, 0.5], [0.5, 0.92], [0, 0.95]]]),
    parse("six", curves=[[[0.5, 0], [0.1, 0.4], [0.08, 0.85], [0.4, 0.98], [0.55, 0.7],
                          [0.3, 0.55], [0.08, 0.75]]]),
    parse("seven", lines=[[[0, 0.03], [0.6, 0], [0.25, 1]]]),
    parse("eight", curves=[[[0.55, 0.12], [0.25, 0], [0.1, 0.25], [0.5, 0.65], [0.4, 0.97],
                            [0.08, 0.85], [0.2, 0.55], [0.55, 0.12]]]),
    parse("nine", curves=[[[0.55, 0.15], [0.3, 0], [0.05, 0.25], [0.25, 0.48], [0.55, 0.2]],
                          [[0.55, 0.2], [0.52, 0.6], [0.4, 1]]]),
]  # fmt: skip


def draw_numbers(count: int, seed: int) -> Iterator[tuple[str, Image.Image]]:
    """Yield the texts and pictures of lines; the seed determines them."""
    kinds = list(KINDS)
    for number in range(count):
        random = np.random.default_rng([seed, number])
        text = "".join(map(str, random.integers(0, 10, random.integers(2, 11))))
        digits = write_digits(text, random)
        if number % 6 == 0:
            yield text, Image.fromarray(write_in_boxes(digits, random))
            continue
        ink = write(digits, Style(touching=number % 6 == 1, spread=1.3), random)
        if number % 3 == 2:
            kind = kinds[number // 3 % len(kinds)]
            data = photograph(ink, kind, int(random.integers(2**31)), HEIGHT)
            yield text, Image.open(BytesIO(data))
        else:
            yield text, Image.fromarray(255 - ink)


def write_digits(text: str, random: Generator) -> list[Bytes]:
    """Draw the digits of a text as one writer does, each (28, 28)."""
    writer = [_choose(digit, random) for digit in range(10)]
    style = random.random(6)  # width, slant, pen and its waves
    images = []
    for digit in map(int, text):
        shape = writer[digit]
        points = random.random((1, 2 * len(shape.least)))
        varied = np.clip(style + random.normal(0, 0.06, 6), 0, 1 - 1e-9)
        images.append(draw(shape, np.concatenate([points, varied[None]], axis=1)).reshape(28, 28))
    return images


def _choose(digit: int, random: Generator) -> Variant:
    others = [shape for shape in variants() if shape.digit == digit]
    return others[random.integers(len(others))] if random.random() < 1 / 3 else _USUAL[digit]
