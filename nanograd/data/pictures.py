"""Picture files to upright pixels on white paper, and what can be measured on those pixels.

Files come from anywhere: the header is checked before anything is loaded, only formats that are
pictures of paper are opened, and whatever cannot be read says so with one exception.
"""

import struct
import warnings
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

Floats = NDArray[np.floating]

# Pillow knows some forty more; each is attack surface, and none is how people photograph digits.
# MPO (two JPEG pictures in one file, from some phones) is opened as JPEG.
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM")

# A digit becomes 20 pixels; twice what the normaliser looks at is kept from a large JPEG.
_ENOUGH_PIXELS = 640

# Share of the variance between two tones (Otsu's criterion) above which they are ink and paper:
# 0.82 and more in drawings and crops of MNIST, 0.6 to 0.75 in photos under uneven light.
_TWO_TONES = 0.82

# White in wide grey files: shares, then 8 to 16 bits (scanners store 10, 12 or 14 bits in 16).
_FULL_SCALES = (1.0, 255.0, 1023.0, 4095.0, 16383.0, 65535.0)

# What Pillow's readers of these formats raise for bytes that are not what they claim to be. In
# 200,000 files with flipped and missing bytes Pillow 13 raised only the first three; the others
# are known from its reports about EXIF, GIF and TIFF.
_BROKEN = (
    *(OSError, ValueError, SyntaxError, struct.error),
    *(EOFError, LookupError, TypeError, ArithmeticError),
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
    if width * height > max_pixels:
        detail = f"the picture has {width} x {height} pixels, more than {max_pixels}"
        raise UnreadableError("too_large", detail)


def _draft_size(picture: Image.Image) -> tuple[int, int]:
    """What a JPEG may shrink to, at least; other formats ignore it."""
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
    levels = np.nan_to_num(np.asarray(picture.convert("F")))
    bottom, highest = min(float(levels.min()), 0.0), float(levels.max())
    top = next((scale for scale in _FULL_SCALES if highest <= scale), highest)
    return Image.fromarray(((levels - bottom) * (255 / (top - bottom))).round().astype(np.uint8))


def reduced(picture: Image.Image, longest: int) -> Image.Image:
    """The whole picture with no side above `longest`."""
    scale = min(1.0, longest / max(picture.size))
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.BOX, reducing_gap=2.0)


def light_field(search: Image.Image) -> Floats:
    """How light falls on the picture: the quadratic surface that most of its pixels follow.

    Two clear tones are ink and paper whatever the light; where they may each fill half of the
    picture there is no surface to follow, and the field is 1.

    Args:
        search: mode L or RGB.

    Returns:
        (height, width) float32, mean 1, at least 0.2.
    """
    grey: Floats = np.asarray(reduced(search, 64).convert("L"), dtype=np.float32) / 255
    if separation(grey) > _TWO_TONES:
        return np.ones((search.height, search.width), np.float32)
    values, terms = grey.ravel(), _quadratic(*grey.shape)
    paper = np.ones(len(values), bool)
    for _ in range(4):
        surface, *_ = np.linalg.lstsq(terms[paper], values[paper])
        rest = values - terms @ surface
        paper = np.abs(rest - np.median(rest)) <= 1.5 * rest[paper].std() + 1e-6
    field = (_quadratic(search.height, search.width) @ surface).reshape(search.height, -1)
    return np.maximum(field / max(float(field.mean()), 1e-3), 0.2).astype(np.float32)


def _quadratic(height: int, width: int) -> Floats:
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    return np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=2).reshape(-1, 6)


def separation(grey: Floats) -> float:
    """Otsu's criterion: the share of the variance that lies between the two tones, 0 to 1."""
    light = grey > otsu(grey)
    share = float(light.mean())
    if not 0 < share < 1:
        return 0.0
    gap = float(grey[light].mean() - grey[~light].mean())
    return share * (1 - share) * gap**2 / float(grey.var())


def otsu(values: Floats) -> float:
    """Threshold that separates two classes of values in 0..1 with the least variance within."""
    counts = np.bincount((values.ravel() * 255).astype(np.uint8), minlength=256).astype(float)
    levels = np.arange(256)
    below = counts.cumsum()
    above = below[-1] - below
    sum_below = (counts * levels).cumsum()
    with np.errstate(invalid="ignore", divide="ignore"):
        gap = sum_below / below - (sum_below[-1] - sum_below) / above
    between = np.where((below > 0) & (above > 0), below * above * gap**2, 0)
    # Between two far classes every threshold is as good: take the middle.
    best = np.flatnonzero(between >= between.max() * (1 - 1e-9))
    return float(best.mean() + 0.5) / 255


def running_max(values: Floats, radius: int) -> Floats:
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


def _running_max_of_rows(rows: Floats, radius: int) -> Floats:
    # Windows of 1, 2, 4 ... rows, then two of the largest that overlap: log2(radius) passes.
    edge = np.full((radius, *rows.shape[1:]), -np.inf, np.float32)
    best = np.concatenate([edge, rows, edge])
    window, size = 2 * radius + 1, 1
    while 2 * size <= window:
        best = np.maximum(best[:-size], best[size:])
        size *= 2
    rest = window - size
    widest: Floats = np.maximum(best[: len(best) - rest], best[rest:])
    return widest


def label_marks(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int64], int]:
    """Connected marks (8 neighbours), numbered from 1 in the order of their first pixel.

    Rows are cut into runs; runs that touch take the lowest number they can reach.

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


def pen_width(ink: Floats) -> float:
    """Width of the stroke, in pixels, if it were one bar: area = w l, outline = 2 (w + l).

    The outline is the total variation, which is right for sharp and for soft edges.
    """
    down, across = np.diff(ink, axis=0)[:, :-1], np.diff(ink, axis=1)[:-1]
    quarter = float(np.hypot(down, across).sum()) / 4
    return quarter - float(np.sqrt(max(quarter**2 - float(ink.sum()), 0.0)))


def centre_of_mass(image: NDArray[np.uint8]) -> tuple[float, float]:
    """Row and column, 0 being the middle of the first pixel."""
    rows, columns = image.sum(1, dtype=np.float64), image.sum(0, dtype=np.float64)
    total = rows.sum()
    y = rows @ np.arange(len(rows)) / total
    x = columns @ np.arange(len(columns)) / total
    return float(y), float(x)
