"""The paper of a picture, the light on it, and the share of that light that the ink absorbs.

Pictures are uint8, one plane per channel, because morphology is fastest on uint8.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from nanograd.errors import Reason, UnreadableError
from nanograd.pictures import tuning
from nanograd.pictures.morphology import closing, label_marks
from nanograd.runtime.arrays import Bytes, Floats, Mask


def reduce(picture: Image.Image, longest: int) -> Image.Image:
    """Shrink a picture so that no side is longer than `longest` pixels."""
    scale = min(1.0, longest / max(picture.size))
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    # `reducing_gap` first averages blocks of whole pixels, which is faster for large pictures.
    return picture.resize(size, Image.Resampling.BOX, reducing_gap=1.0)


def otsu(levels: Bytes) -> tuple[float, float]:
    """Return the threshold between two tones, and the share of the variance that they explain.

    References:
        Otsu (1979), "A threshold selection method from gray-level histograms".
    """
    counts = np.bincount(levels.ravel(), minlength=256).astype(float)
    tones = np.arange(256)
    below = counts.cumsum()
    above = below[-1] - below
    sum_below = (counts * tones).cumsum()
    with np.errstate(invalid="ignore", divide="ignore"):
        gap = sum_below / below - (sum_below[-1] - sum_below) / above
    between = np.where((below > 0) & (above > 0), below * above * gap**2, 0)
    # Between two distant tones many thresholds are equally good; take the mean.
    best = np.flatnonzero(between >= between.max() * (1 - 1e-9))
    variance = counts @ tones**2 / below[-1] - (sum_below[-1] / below[-1]) ** 2
    separation = between.max() / (below[-1] ** 2 * max(variance, 1e-9))
    return float(best.mean() + 0.5), float(separation)


def is_light_on_dark(search: Image.Image) -> bool:
    """Return whether the ink is the lighter tone.

    A border of one tone is paper. Otherwise, if a shadow or the digit crosses the border, ink is
    the tone with more narrow structures. But in a small or sharp picture, such as a bitmap, gaps
    may be as narrow as strokes. There, a score decides: the mean of the bright shares of the
    border, the whole picture and the corners, plus a weight for each connected area that one tone
    has more than the other. The tone with the larger score is paper.
    """
    grey = np.asarray(search.convert("L"))
    threshold, separation = otsu(grey)
    bright = grey > threshold
    width = max(1, round(0.04 * min(grey.shape)))
    border = np.ones(grey.shape, bool)
    border[width:-width, width:-width] = False
    share = float(bright[border].mean())
    if separation > tuning.TWO_TONES and not tuning.MIXED <= share <= 1 - tuning.MIXED:
        return bool(share + bright.mean() < 1)
    side = max(1, round(tuning.CORNER * min(bright.shape)))
    ends = (slice(None, side), slice(-side, None))
    corners = np.mean([bright[y, x].mean() for y in ends for x in ends])
    more_pieces = 0
    for sign, tone in ((1, bright), (-1, ~bright)):
        sizes = np.bincount(label_marks(tone)[0].ravel())[1:]
        more_pieces += sign * int((sizes > tuning.SPECK * bright.size).sum())
    vote = (share + bright.mean() + corners) / 3 - 0.5 + tuning.PIECE_WEIGHT * more_pieces
    is_clear = separation > tuning.SHARP_TONES and abs(vote) > tuning.CLEAR_VOTE
    if max(grey.shape) <= tuning.BITMAP_SIDE or is_clear:
        return bool(vote < 0)
    # A copy in which lines of digits are found is larger, because the digits are smaller.
    side = max(tuning.COARSE_SIDE, max(search.size) // 2)
    coarse = np.asarray(reduce(search, side).convert("L"))
    _, (dark, light) = cover_pen(coarse, tuning.MOST_OF_PEN, tones=("dark", "light"))
    return light > dark


def is_crop(search: Image.Image) -> bool:
    """Return whether a picture's two tones are as sharp as in a picture cropped to its digit."""
    return otsu(np.asarray(search.convert("L")))[1] > tuning.SHARP_TONES


def cover_pen(
    grey: Bytes, growth: float, tones: Sequence[str] = ("dark",)
) -> tuple[int, list[float]]:
    """Widen a window until it is wider than the pen (a granulometry).

    A morphological closing removes dark structures that are narrower than the window, and an
    opening light ones. How much it removes is the energy: the sum over pixels of (1 - pixel /
    closing)^2, or of (1 - opening / pixel)^2. The outer eighths of `grey`, (height, width) uint8,
    are left out, because light that falls off there looks like a narrow structure.

    Return the radius at which no energy grew by the factor `growth`, or else the largest radius,
    and the energies of the tones at the radius before.

    References:
        Serra (1982), "Image analysis and mathematical morphology", X (granulometries).
    """
    clipped = np.maximum(grey, tuning.DARKEST)
    inner = tuple(slice(side // 8, side - side // 8) for side in grey.shape)
    before: list[float] = []
    for radius in [each for each in tuning.RADII if 2 * each < 0.8 * max(grey.shape)] or [1]:
        energies = []
        for tone in tones:
            if tone == "dark":
                low, high = clipped, closing(clipped, radius)
            else:
                low, high = ~closing(~clipped, radius), clipped
            lost = (1 - np.divide(low[inner], high[inner], dtype=np.float32)).ravel()
            energies.append(float(lost @ lost))
        if before and max(energies) <= growth * max(before):
            break
        before = energies
    return radius, before


def as_dark_ink(picture: Image.Image, inverted: bool) -> Bytes:
    """Split a picture, mode L or RGB, into (channels, height, width) uint8 with dark ink."""
    planes = np.stack([np.asarray(plane) for plane in picture.split()])
    return ~planes if inverted else planes


def pen_radius(search: Bytes) -> int:
    """Return the radius of a window that is slightly wider than the pen of dark ink."""
    side = int(max(search.shape[1:]))
    if side <= tuning.BITMAP_SIDE:
        return max(1, round(tuning.PEN_SHARE * side / 2))
    # Means of blocks of scale x scale pixels; incomplete blocks are cut off.
    scale: int = -(-side // tuning.COARSE_SIDE)
    height, width = (length // scale * scale for length in search.shape[1:])
    whole = search.sum(0, dtype=np.uint16)[:height, :width]
    sums = sum(whole[y::scale, x::scale] for y in range(scale) for x in range(scale))
    coarse = np.asarray(sums // (len(search) * scale**2), np.uint8)
    radius, _ = cover_pen(coarse, tuning.ALL_OF_PEN)
    return scale * radius


def estimate_paper(search: Bytes, radius: int) -> Floats:
    """Estimate how bright each pixel would be without ink.

    A morphological closing with a window wider than a stroke removes dark, narrow structures. It
    keeps shadows and, unlike a blur, the edges of shadows and of a sheet.
    """
    # In a drawing made on a screen, most pixels have exactly the paper's value. A closing is not
    # used there, because ink where strokes meet may be wider than any window.
    bare = search.max((1, 2), keepdims=True)
    is_bare = (search == bare).all(0)
    border = np.concatenate([is_bare[0], is_bare[-1], is_bare[:, 0], is_bare[:, -1]])
    if min(is_bare.mean(), border.mean()) >= tuning.BARE_SCREEN:
        return np.full(search.shape, np.maximum(bare, tuning.DARKEST), np.float32)
    if max(search.shape) <= tuning.BITMAP_SIDE and (sheet := two_tones(search)) is not None:
        return sheet
    paper = np.maximum(closing(search, radius), 2 * tuning.DARKEST).astype(np.float32)
    # The closing follows the brightest grain of the paper, so it is scaled by the median ratio of
    # pixels to closing. Most pixels are bare paper, and a quarter of them is enough.
    some = search[:, ::2, ::2] / paper[:, ::2, ::2]
    return np.maximum(paper * np.median(some, axis=(1, 2), keepdims=True), tuning.DARKEST)


def pale_paper(search: Bytes) -> Floats:
    """Estimate the paper under a thin, pale pen, by a closing over a narrow window.

    The closing is too bright at the edge of a shadow, and where noise is strong. It is therefore
    scaled by the mean ratio of pixels to closing nearby.
    """
    paper = np.maximum(closing(search, tuning.PALE_RADIUS), 2 * tuning.DARKEST).astype(np.float32)
    planes = [Image.fromarray(plane) for plane in search / paper]
    blocks = [max(1, side // tuning.NEARBY) for side in planes[0].size]
    means = [each.resize(blocks, Image.Resampling.BOX).resize(each.size) for each in planes]
    ratios = np.stack([np.asarray(each) for each in means])
    return np.asarray(np.maximum(paper * ratios, tuning.DARKEST))


def two_tones(search: Bytes) -> Floats | None:
    """Return the one tone of the paper for each pixel; None unless there are two tones.

    The tone is a quantile of the bright pixels. A morphological closing, which is used otherwise,
    takes strokes for paper if they are as wide as the gaps between them.
    """
    grey = search.mean(0, dtype=np.float32).astype(np.uint8)
    threshold, separation = otsu(grey)
    if separation < tuning.TWO_TONES:
        return None
    tones = np.quantile(search[:, grey > threshold], tuning.BARE_TONE, axis=1)
    bare = np.maximum(tones, tuning.DARKEST).astype(np.float32)
    return np.broadcast_to(bare[:, None, None], search.shape)


def ink_strength(pixels: Bytes, paper: Floats) -> Floats:
    """Compute the share of the paper's light that the ink absorbs, in its strongest channel.

    ink = max over channels of (paper - pixel) / max(paper, 0.3 brightest paper)

    The maximum in the denominator limits noise in channels in which coloured paper is dark. The
    result is (height, width) float32, at most 1; it is below 0 where paper is brighter than
    expected.
    """
    if len(paper) == 1:
        return np.asarray(1 - pixels[0] / paper[0])
    light = np.maximum(paper, tuning.DARK_CHANNEL * paper.max(0))
    return np.asarray(((paper - pixels) / light).max(0))


class Levels(NamedTuple):
    """Thresholds of ink strength, 0 to 1."""

    strong: float  # a pixel above this is ink
    weak: float  # a pixel above this is ink if it is connected to a strong pixel


def ink_levels(ink: Floats, share: float = tuning.LEAST_SHARE, *, weaker: bool = False) -> Levels:
    """Determine the thresholds that separate ink from paper in the result of `ink_strength`.

    If weaker marks (printed lines, coarse grain) are all over the picture and stronger marks are in
    one place, only the stronger marks are ink. With `weaker`, the next weaker marks are ink, too. A
    picture is blank if less than a `share` of it is ink.

    Raises:
        UnreadableError: `blank` or `low_contrast`.
    """
    level = _threshold(ink)
    above = ink > level
    faint = float(np.quantile(ink, 1 - share)) < tuning.LEAST_CONTRAST
    if faint or above.all() or not above.any():
        detail = "the picture shows nothing but paper, or the digit is too small"
        raise UnreadableError(Reason.BLANK, detail)
    least = tuning.ABOVE_GRAIN * _grain(ink, float(ink[above].mean()))
    level = max(level, least)
    stronger = _threshold(ink[ink > level])
    height, width = _extent(ink > stronger)
    # Ink from side to side is an edge or a shadow, not a digit.
    in_one_place = height * width < tuning.ONE_PLACE and max(height, width) < 1
    is_among_lines = in_one_place and np.prod(_extent(ink > level)) > tuning.ALL_OVER
    if is_among_lines and not weaker:
        return Levels(stronger, tuning.WEAK_AMONG_LINES * stronger)
    if weaker and not is_among_lines:
        level = max(_threshold(ink[ink <= level]), least)
    return Levels(level, level / 2)


def pale_levels(ink: Floats) -> Levels:
    """Determine the thresholds for a thin, pale pen, which covers too little for Otsu's method."""
    # Leave out the border, where shadows end abruptly; less of it in a narrow picture.
    border = min(tuning.BORDER, min(ink.shape) // 4)
    inner = (slice(border, side - border) for side in ink.shape)
    core = float(np.quantile(ink[tuple(inner)], tuning.CORE))
    _grain(ink, core)
    return Levels(tuning.OF_CORE * core, tuning.OF_CORE * core / 2)


def _extent(mask: Mask) -> tuple[float, float]:
    """Return height and width of the box around the mask, as shares of the picture's."""
    down, across = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(down):
        return 0.0, 0.0
    return float(np.ptp(down) + 1) / len(mask), float(np.ptp(across) + 1) / mask.shape[1]


def _threshold(ink: Floats) -> float:
    return otsu((255 * np.maximum(ink, 0)).astype(np.uint8))[0] / 255


def _grain(ink: Floats, signal: float) -> float:
    """Measure the paper's grain by pixels brighter than the paper; refuse a signal near it."""
    brighter = ink[ink < 0]
    grain = float(np.sqrt(brighter @ brighter / max(1, len(brighter))))
    if signal < tuning.LEAST_SIGNAL * grain:
        raise UnreadableError(Reason.LOW_CONTRAST, "ink and paper are indistinguishable")
    return grain
