"""Grey levels: numbers of any type to 0..255, by one rule for tables and for arrays.

The rule is applied to each image by itself, so that no image depends on its neighbours:

    largest pixel at most 1       shares of full ink: 1 is 255; also booleans and 0/1 integers
    largest pixel above 16        levels as they are, up to 255
    anything else                 refused: its scale is unclear

A pixel may miss its range by what rounds away, half a level.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

_HALF = 0.5 / 255
# Some sets have 16 levels (Optdigits, scans of 4 bits); no other image is so faint.
_UNCLEAR = 16

_ADVICE = "scale pixels to 0 to 1 or to 0 to 255"
_PROBLEMS = (
    "a pixel is not a finite number",
    f"a pixel is below 0, as in standardised images; {_ADVICE}",
    f"a pixel is above 255; {_ADVICE}",
    f"the largest pixel is above 1 but at most {_UNCLEAR}, so the scale is unclear; {_ADVICE}",
)


class GreyLevels(NamedTuple):
    """Grey levels of n images."""

    levels: NDArray[np.uint8]  # (n, ...); without meaning where there is a problem
    problems: NDArray[np.int8]  # (n,), an argument of `describe`; -1 where there is none


def describe(problem: int) -> str:
    """Return a problem of an image as one sentence."""
    return _PROBLEMS[problem]


def to_levels(values: NDArray[Any]) -> GreyLevels:
    """Convert n images, booleans or real numbers of any dtype, to grey levels.

    Args:
        values: (n, ...), one image each.

    >>> to_levels(np.array([[0, 1], [0, 255], [-1, 1], [0, 16]])).levels[:2].tolist()
    [[0, 255], [0, 255]]
    >>> to_levels(np.array([[0, 1], [0, 255], [-1, 1], [0, 16]])).problems.tolist()
    [-1, -1, 1, 3]
    """
    if values.dtype == np.bool_:
        values = values.view(np.uint8)
    inner = tuple(range(1, values.ndim))
    least = np.zeros(len(values))
    if values.dtype.kind != "u":
        least = values.min(axis=inner, initial=0).astype(np.float64)
    most = values.max(axis=inner, initial=0).astype(np.float64)
    shares = most <= 1 + _HALF
    finite = np.isfinite(least) & np.isfinite(most)
    tests = [~finite, least < -_HALF, most >= 255.5, ~shares & (most <= _UNCLEAR)]
    problems = np.select(tests, range(len(tests)), -1).astype(np.int8)
    if values.dtype == np.uint8 and not (shares & (most > 0)).any():
        return GreyLevels(values, problems)
    if values.dtype.kind != "f" or values.dtype == np.float16:
        values = values.astype(np.float32)
    usable = np.expand_dims(problems < 0, inner)
    factors = np.expand_dims(np.where(shares, 255, 1).astype(values.dtype), inner)
    scaled = np.multiply(values, factors, where=usable, out=np.zeros_like(values))
    return GreyLevels(np.rint(scaled).clip(0, 255).astype(np.uint8), problems)
