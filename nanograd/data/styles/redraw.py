"""Digits in styles that MNIST, written in the United States, has few of or none.

A net that has not seen a style takes its digits for others. So it is trained on some images twice,
as they are and redrawn.
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


def num_redrawn(digits: Dataset, share: float) -> int:
    """How many images `add_styles` adds."""
    return sum(_number(digits, style, share) for style in _STYLES)


def add_styles(digits: Dataset, share: float, seed: int) -> Dataset:
    """The digits, and a share of the ones, fours and nines once more, set upright and redrawn.

    Args:
        digits: N images.
        share: 0 to 1, of each of these digits.
        seed: 0 to 2**63 - 1; says which are redrawn, and how.
    """
    added = [_redrawn(digits, style, share, seed) for style in _STYLES]
    return Dataset(
        np.concatenate([digits.images, *(each.images for each in added)]),
        np.concatenate([digits.labels, *(each.labels for each in added)]),
    )


def _redrawn(digits: Dataset, style: Style, share: float, seed: int) -> Dataset:
    places = np.flatnonzero(digits.labels == style.digit)
    draws = _draws(stream(seed, style.purpose), len(places), 1 + style.num_draws)
    chosen = np.sort(np.argsort(draws[:, 0])[: _number(digits, style, share)])
    redrawn = digits.take(places[chosen])
    upright = deslant(redrawn.images).reshape(-1, SIDE, SIDE)
    images = np.empty_like(redrawn.images)
    for place, (image, draw) in enumerate(zip(upright, draws[chosen, 1:], strict=True)):
        images[place] = style.redraw(image, draw).ravel()
    return Dataset(images, redrawn.labels)


def _number(digits: Dataset, style: Style, share: float) -> int:
    return round(share * int((digits.labels == style.digit).sum()))


def _draws(generator: Philox, num_images: int, num_draws: int) -> NDArray[np.float64]:
    raw = generator.random_raw(num_images * num_draws)
    draws = np.asarray((raw >> np.uint64(11)) * 2.0**-53, np.float64)
    return draws.reshape(num_images, num_draws)
