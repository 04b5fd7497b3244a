"""Digits in styles that MNIST, written in the United States, has few of or none.

A net that has not seen a style takes its digits for others. So some of the training images are
redrawn.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.random import Philox
from numpy.typing import NDArray

from nanograd.data.dataset import Dataset
from nanograd.data.styles import fours, nines, ones
from nanograd.deslant import deslant
from nanograd.randomness import FLAGS, STROKES, TAILS, stream
from nanograd.resample import SIDE


class Style(NamedTuple):
    """How some images of a digit are redrawn.

    Args:
        digit: which.
        redraw: an upright image, (28, 28) uint8, and draws in [0, 1) to the image redrawn.
        num_draws: how many it takes.
        purpose: of the stream that they come from.
    """

    digit: int
    redraw: Callable[[NDArray[np.uint8], NDArray[np.float64]], NDArray[np.uint8]]
    num_draws: int
    purpose: int


_STYLES = (
    Style(1, ones.flagged, ones.NUM_DRAWS, FLAGS),
    Style(4, fours.straight, fours.NUM_DRAWS, STROKES),
    Style(9, nines.tailed, nines.NUM_DRAWS, TAILS),
)


def add_styles(digits: Dataset, share: float, seed: int) -> Dataset:
    """The same digits, a share of the ones, fours and nines set upright and redrawn.

    Args:
        digits: N images.
        share: 0 to 1, the probability that such a digit is redrawn.
        seed: 0 to 2**63 - 1.
    """
    images = digits.images.copy()
    for style in _STYLES:
        places = np.flatnonzero(digits.labels == style.digit)
        draws = _draws(stream(seed, style.purpose), len(places), 1 + style.num_draws)
        chosen = draws[:, 0] < share
        upright = deslant(images[places[chosen]]).reshape(-1, SIDE, SIDE)
        for place, image, draw in zip(places[chosen], upright, draws[chosen, 1:], strict=True):
            images[place] = style.redraw(image, draw).ravel()
    return Dataset(images, digits.labels)


def _draws(generator: Philox, num_images: int, num_draws: int) -> NDArray[np.float64]:
    raw = generator.random_raw(num_images * num_draws)
    draws = np.asarray((raw >> np.uint64(11)) * 2.0**-53, np.float64)
    return draws.reshape(num_images, num_draws)
