"""Conversion of numbers of any type to grey levels 0..255, by one rule for tables and arrays.

The rule is applied to each image alone, apart from an exception below:

    largest pixel at most 1       pixels are shares of full ink; 1 becomes 255
    largest pixel above 16        pixels are levels, at most 255; they are unchanged
    otherwise                     the image is refused, because its scale is unclear

The exception: an image that has only zeros and ones may be black and white, or may have a speck of
level 1. For such an image, the rule uses the largest pixel of the whole column of a table, or of
the whole array. If that pixel is unknown, booleans, floats and decimals are shares, and whole
numbers are refused. The limits 0, 1 and 255 are widened by half a level, because of rounding
errors.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanograd.runtime.arrays import Bytes

_HALF = 0.5 / 255
# Some data sets have 16 levels (Optdigits, 4-bit scans). Images with 256 levels are never so faint.
_UNCLEAR = 16
_ABOVE = 255.5

_ADVICE = "scale pixels to 0 to 1 or to 0 to 255"
# Messages, by the numbers that `to_levels` returns.
PROBLEMS = (
    "a pixel is not a finite number",
    f"a pixel is below 0, as in standardised images; {_ADVICE}",
    f"a pixel is above 255; {_ADVICE}",
    f"the largest pixel is above 1 but at most {_UNCLEAR}, so the scale is unclear; {_ADVICE}",
    f"the pixels are zeros and ones, of 1 or of 255, so the scale is unclear; {_ADVICE}, or make "
    "them booleans",
)


def scale_of(largest: Iterable[float | None]) -> int | None:
    """Return the scale of a column: 1 for shares, 255 for levels, 16 if the rule above refuses it.

    `largest` has the largest pixel of each part of the column, or None if it is unknown. Return
    None if an unknown part could change the scale.

    >>> scale_of([0, 255, None]), scale_of([0.5, 1]), scale_of([1, 9]), scale_of([1, 999])
    (255, 1, 16, None)
    """
    scale, is_known = 1, True
    for each in largest:
        if each is None or not each < _ABOVE:
            is_known = False
        elif each > _UNCLEAR:
            return 255
        elif each > 1 + _HALF:
            scale = _UNCLEAR
    return scale if is_known else None


def array_to_levels(images: NDArray[Any]) -> tuple[Bytes, tuple[int, str] | None]:
    """Convert an array of n images to grey levels, (n, ...) uint8; the array counts as one column.

    Also return the index of the first unusable image and a message, or None if all are usable.
    """
    finite = np.isfinite(images) if images.dtype.kind == "f" else True
    found, problems = to_levels(images, scale_of([images.max(initial=0, where=finite)]))
    if (problems < 0).all():
        return found, None
    first = int((problems >= 0).argmax())
    return found, (first, PROBLEMS[problems[first]])


def to_levels(values: NDArray[Any], scale: int | None = None) -> tuple[Bytes, NDArray[np.int8]]:
    """Convert n images, (n, ...), of booleans or real numbers of any dtype, to grey levels.

    `scale` is the result of `scale_of` for their column; None if it is unknown.

    Returns:
        levels: (n, ...) uint8; meaningless for images with a problem.
        problems: (n,) int8, index in PROBLEMS for each image; -1 without a problem.

    >>> levels, problems = to_levels(np.array([[0, 0.5], [0, 255], [-1, 1], [0, 16]]))
    >>> levels[:2].tolist(), problems.tolist()
    ([[0, 128], [0, 255]], [-1, -1, 1, 3])
    >>> to_levels(np.array([[0, 1]]))[1], to_levels(np.array([[0, 1]]), 255)[0]
    (array([4], dtype=int8), array([[0, 1]], dtype=uint8))
    """
    if values.dtype == np.bool_:
        values, scale = values.view(np.uint8), 1
    inner = tuple(range(1, values.ndim))
    least = np.zeros(len(values))
    if values.dtype.kind != "u":
        least = values.min(axis=inner, initial=0).astype(np.float64)
    most = values.max(axis=inner, initial=0).astype(np.float64)
    finite = np.isfinite(least) & np.isfinite(most)
    # True for images that have only zeros and ones.
    bits = (most == 1) & (least == 0)
    bits[bits] = ((values[bits] == 0) | (values[bits] == 1)).all(axis=inner)
    is_unknown = bits & (scale is None and values.dtype.kind in "iu")
    most = np.where(bits, 1 if scale is None else scale, most)
    shares = most <= 1 + _HALF
    unclear = ~shares & (most <= _UNCLEAR)
    tests = [~finite, least < -_HALF, most >= _ABOVE, unclear, is_unknown]
    problems = np.select(tests, range(len(tests)), -1).astype(np.int8)
    if values.dtype == np.uint8 and not (shares & (most > 0)).any():
        return values, problems
    if values.dtype.kind != "f" or values.dtype == np.float16:
        values = values.astype(np.float32)
    usable = np.expand_dims(problems < 0, inner)
    factors = np.expand_dims(np.where(shares, 255, 1).astype(values.dtype), inner)
    scaled = np.multiply(values, factors, where=usable, out=np.zeros_like(values))
    np.rint(scaled, out=scaled).clip(0, 255, out=scaled)
    return scaled.astype(np.uint8), problems
