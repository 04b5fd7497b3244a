"""From the bytes of a picture file to upright pixels on white paper.

Files come from anywhere: the header is checked before anything is loaded, only formats that are
pictures of paper are opened, and whatever cannot be read says so with one exception.
"""

import struct
import warnings
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

# Pillow knows some forty more; each is attack surface, and none is how people photograph digits.
# MPO (two JPEG pictures in one file, from some phones) is opened as JPEG.
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM")

# A digit becomes 20 pixels; twice what the normaliser looks at is kept from a large JPEG.
_ENOUGH_PIXELS = 640

_MAX_SIDE = 100_000

# White in wide grey files: shares, then 8 to 16 bits (scanners store 10, 12 or 14 bits in 16).
_FULL_SCALES = (1.0, 255.0, 1023.0, 4095.0, 16383.0, 65535.0)

# What Pillow's readers of these formats raise for bytes that are not what they claim to be. In
# 200,000 files with flipped and missing bytes Pillow 13 raised only the first three; the others
# are known from its reports about EXIF, GIF and TIFF.
_BROKEN = (
    OSError,
    ValueError,
    SyntaxError,
    struct.error,
    EOFError,
    LookupError,
    TypeError,
    ArithmeticError,
)


class UnreadableError(Exception):
    """A picture in which no digit can be read: a row for quarantine, not a failure of the job.

    Args:
        reason: short and stable: broken_image, too_large, empty, blank, low_contrast,
            too_many_marks, ...
        detail: one sentence for a person.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[type["UnreadableError"], tuple[str, str]]:
        """Both arguments survive the way between processes."""
        return UnreadableError, (self.reason, self.detail)


def decode(data: bytes, *, max_pixels: int = 50_000_000) -> Image.Image:
    """Decode a picture file.

    The first frame, turned upright as its EXIF says, transparency over white. JPEG files much
    larger than the normaliser needs are decoded at 1/2, 1/4 or 1/8 of their size.

    Args:
        data: a whole PNG, JPEG, MPO, GIF, BMP, TIFF, WEBP or PPM file, whatever its name was.
        max_pixels: width x height allowed, from the header, before any pixel is loaded.

    Returns:
        The picture in mode L (8-bit grey) or RGB.

    Raises:
        UnreadableError: `empty` (no bytes), `broken_image` (none of the formats, cut short or
            damaged) or `too_large` (more than `max_pixels`).
    """
    if not data:
        raise UnreadableError("empty", "the file has no bytes")
    try:
        with warnings.catch_warnings():
            # Odd metadata is no reason to stop, and the pixel cap is our own (below).
            warnings.simplefilter("ignore")
            with Image.open(BytesIO(data), formats=FORMATS) as picture:
                _check_size(picture, max_pixels)
                picture.draft(None, _draft_size(picture))
                return _flat(_upright(picture))
    except Image.DecompressionBombError as error:
        raise UnreadableError("too_large", f"{error}") from error
    except UnidentifiedImageError as error:
        detail = f"the {len(data)} bytes are no picture in {', '.join(FORMATS)}"
        raise UnreadableError("broken_image", detail) from error
    except _BROKEN as error:
        detail = f"the picture is damaged or cut short ({error or type(error).__name__})"
        raise UnreadableError("broken_image", detail) from error


def _check_size(picture: Image.Image, max_pixels: int) -> None:
    width, height = picture.size
    if width * height > max_pixels or max(width, height) > _MAX_SIDE:
        detail = f"the picture has {width} x {height} pixels, more than {max_pixels}"
        raise UnreadableError("too_large", detail)


def _draft_size(picture: Image.Image) -> tuple[int, int]:
    """What a JPEG may shrink to; `draft` never goes below what is asked, other formats ignore it."""
    shrink = max(1.0, min(picture.size) / _ENOUGH_PIXELS)
    return int(picture.width / shrink), int(picture.height / shrink)


def _upright(picture: Image.Image) -> Image.Image:
    picture.load()
    try:
        return ImageOps.exif_transpose(picture)
    except _BROKEN:
        # The pixels are whole; only the note about their orientation is damaged.
        return picture


def _flat(picture: Image.Image) -> Image.Image:
    """Any mode to L or RGB."""
    if picture.has_transparency_data:
        return _over_white(picture)
    if picture.mode.startswith(("I", "F")):
        return _eight_bits(picture)
    if picture.mode in ("L", "RGB"):
        return picture
    return picture.convert("L" if picture.mode == "1" else "RGB")


def _over_white(picture: Image.Image) -> Image.Image:
    layer = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")


def _eight_bits(picture: Image.Image) -> Image.Image:
    """Wide grey levels to 0..255: Pillow's own conversion clips everything above 255 to white."""
    levels = picture.convert("F")
    low, high = levels.getextrema()
    bottom = min(float(low), 0.0)
    top = next((scale for scale in _FULL_SCALES if high <= scale), float(high))
    factor = 255 / (top - bottom)
    return levels.point(lambda value: value * factor - bottom * factor).convert("L")


def otsu(values: NDArray[np.float32]) -> float:
    """Threshold that separates two classes of values in 0..1 with the least variance within."""
    counts = np.bincount((values.ravel() * 255).astype(np.uint8), minlength=256).astype(float)
    levels = np.arange(256)
    below = counts.cumsum()
    above = below[-1] - below
    sum_below = (counts * levels).cumsum()
    with np.errstate(invalid="ignore", divide="ignore"):
        gap = sum_below / below - (sum_below[-1] - sum_below) / above
    between = np.where((below > 0) & (above > 0), below * above * gap**2, -1)
    # Between two far classes every threshold is as good: take the middle.
    best = np.flatnonzero(between >= between.max() * (1 - 1e-9))
    return float(best.mean() + 0.5) / 255


def running_max(values: NDArray[np.float32], radius: int) -> NDArray[np.float32]:
    """Maximum over a square window of 2 x radius + 1, along the first two axes.

    Args:
        values: (height, width, ...) float32; outside there is nothing.
        radius: >= 0, pixels.

    Returns:
        Same shape.
    """
    for axis in (0, 1):
        values = np.moveaxis(_running_max_of_rows(np.moveaxis(values, axis, 0), radius), 0, axis)
    return values


def _running_max_of_rows(rows: NDArray[np.float32], radius: int) -> NDArray[np.float32]:
    # Windows of 1, 2, 4 ... rows, then two of the largest that overlap: log2(radius) passes.
    edge = np.full((radius, *rows.shape[1:]), -np.inf, np.float32)
    best = np.concatenate([edge, rows, edge])
    window, size = 2 * radius + 1, 1
    while 2 * size <= window:
        best = np.maximum(best[:-size], best[size:])
        size *= 2
    rest = window - size
    return np.maximum(best[: len(best) - rest], best[rest:])


def label_marks(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int64], int]:
    """Connected marks (8 neighbours), numbered from 1 in the order of their first pixel.

    Rows are cut into runs; runs that touch in neighbouring rows are joined, each taking the
    lowest number it can reach.

    Args:
        mask: (height, width) bool.

    Returns:
        labels: (height, width) int64, 0 where the mask is not set.
        count: number of marks.

    References:
        He, Chao, Suzuki (2008), "A run-based two-scan labeling algorithm".
    """
    starts, ends = _runs(mask)
    above, below = _touching(starts, ends, mask.shape[1] + 1)
    lowest = np.arange(len(starts))
    while (lowest[above] != lowest[below]).any():
        low = np.minimum(lowest[above], lowest[below])
        np.minimum.at(lowest, lowest[above], low)
        np.minimum.at(lowest, lowest[below], low)
        lowest = lowest[lowest]
    roots, numbers = np.unique(lowest, return_inverse=True)
    labels = np.zeros(mask.shape, np.int64)
    labels[mask] = np.repeat(numbers + 1, ends - starts)
    return labels, len(roots)


def _runs(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First pixel and end of every run, as positions in rows that are one pixel wider."""
    steps = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(np.int8), axis=1).ravel()
    return np.flatnonzero(steps == 1), np.flatnonzero(steps == -1)


def _touching(
    starts: NDArray[np.int64], ends: NDArray[np.int64], stride: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs of runs in neighbouring rows that touch, also across a corner."""
    first = np.searchsorted(ends, starts + stride, side="left")
    stop = np.searchsorted(starts, ends + stride, side="right")
    counts = np.maximum(stop - first, 0)
    above = np.repeat(np.arange(len(starts)), counts)
    offset = np.arange(len(above)) - np.repeat(counts.cumsum() - counts, counts)
    return above, np.repeat(first, counts) + offset
