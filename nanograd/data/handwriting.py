"""Any picture of one handwritten digit to the 28 x 28 form that MNIST has.

A chain of small steps, each a function over arrays that can be looked at alone; `normalise` is
their list. The digit is found in a reduced copy, then cut from the whole picture at one fixed
size, so that pen and noise have the same scale whether the picture had 28 or 4,000 pixels.

References:
    LeCun et al. (1998), "Gradient-based learning applied to document recognition", III.A.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nanograd.data import pictures
from nanograd.data.pictures import UnreadableError

POLARITIES = ("auto", "dark-on-light", "light-on-dark")

# Longest side of the copy in which the digit is looked for, and of the digit when it is drawn.
_SEARCH_SIDE = 160
_DETAIL_SIDE = 80
# `pictures.pen_width` of MNIST's digits enlarged: median 2.4 pixels, middle half 2.0 to 2.85.
_PEN_MIN, _PEN_MAX = 2.0, 2.6
# No pen is wider than this share of the picture's longest side, few shadows are narrower.
_PEN_SHARE = 0.3
# Parts of one digit are not further apart than this share of what has been found of it.
_REACH = 0.25
# Below: nothing but paper; ink in units of the paper's noise; more pieces than any broken stroke.
_LEAST_CONTRAST, _LEAST_SIGNAL, _MOST_MARKS = 0.06, 4.0, 15

Floats = NDArray[np.floating]  # float32 wherever there is one value a pixel
Bytes = NDArray[np.uint8]
Mask = NDArray[np.bool_]


def normalise(picture: Image.Image, *, polarity: str = "auto") -> Bytes:
    """The digit in a picture, as MNIST would have stored it.

    A picture that is MNIST-like already, also with black and white exchanged, keeps its bits.

    Args:
        picture: mode L or RGB, upright, any size (see `pictures.decode`).
        polarity: `auto` (told from the picture), `dark-on-light` or `light-on-dark`.

    Returns:
        (28, 28) uint8, ink 255 on 0.

    Raises:
        UnreadableError: `blank`, `low_contrast` or `too_many_marks`.
        ValueError: unknown polarity.
    """
    if polarity not in POLARITIES:
        raise ValueError(f"polarity {polarity!r} is none of {', '.join(POLARITIES)}")
    picture = picture if picture.mode == "L" else picture.convert("RGB")
    ready = _ready_made(picture, polarity)
    if ready is not None:
        return ready
    search = pictures.reduced(picture, _SEARCH_SIDE)
    light = pictures.light_field(search)
    inverted = is_light_on_dark(search, light) if polarity == "auto" else polarity == POLARITIES[2]
    pixels = _as_dark_ink(search, inverted)
    paper = estimate_paper(pixels, light)
    ink = ink_strength(pixels, paper)
    level = ink_level(ink)
    marks = choose_marks(ink, level)
    detail = _cut_out(picture, inverted, paper, marks)
    # Ink at the level becomes one half, paper below half the level 0, a stroke's core 1.
    return centre(shrink(adjust_pen(np.clip(detail / level - 0.5, 0, 1))))


def is_mnist_like(image: Bytes) -> bool:
    """Whether a picture has the form of MNIST: size, place and full black and white.

    All 70,000 images of MNIST have a longest side of 19 or 20 pixels, the centre of mass in
    [13.48, 14.50) on both axes and a brightest pixel of 254 or 255; slack is for JPEG's noise.

    Args:
        image: (28, 28) uint8.
    """
    if image.shape != (28, 28) or int(image.max()) < 240:
        return False
    if _longest_side(image >= 16) < 19 or _longest_side(image >= 40) > 20:
        return False
    y, x = pictures.centre_of_mass(np.where(image < 16, np.uint8(0), image))
    return min(y, x) >= 13.4 and max(y, x) < 14.6


def _longest_side(ink: Mask) -> int:
    rows, columns = np.flatnonzero(ink.any(1)), np.flatnonzero(ink.any(0))
    return int(max(rows[-1] - rows[0], columns[-1] - columns[0])) + 1


def _ready_made(picture: Image.Image, polarity: str) -> Bytes | None:
    if picture.size != (28, 28):
        return None
    image = np.asarray(picture).reshape(28, 28, -1)
    if (image != image[:, :, :1]).any():
        return None
    image = image[:, :, 0].copy()
    if polarity != "dark-on-light" and is_mnist_like(image):
        return image
    if polarity != "light-on-dark" and is_mnist_like(255 - image):
        return 255 - image
    return None


def is_light_on_dark(search: Image.Image, light: Floats) -> bool:
    """Paper is what lies along the border and fills most of the picture; ink is the other tone."""
    grey = np.asarray(search.convert("L"), dtype=np.float32) / light
    grey /= max(float(grey.max()), 1.0)
    bright = grey > pictures.otsu(grey)
    width = max(1, round(0.04 * min(grey.shape)))
    border = np.ones(grey.shape, bool)
    border[width:-width, width:-width] = False
    return bool(bright[border].mean() + bright.mean() < 1)


def _as_dark_ink(picture: Image.Image, inverted: bool) -> Floats:
    """(height, width, channels) float32, 0 to 1, ink darker than paper."""
    pixels = np.asarray(picture, dtype=np.float32) / 255
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    return 1 - pixels if inverted else pixels


def estimate_paper(pixels: Floats, light: Floats) -> Floats:
    """What the paper would be without ink, under the light that falls on it.

    A closing (maximum, then minimum, over a window wider than any pen) removes what is dark and
    narrow. It keeps slow shadows, and unlike a blur also the edge of a sheet.

    Args:
        pixels: (height, width, channels) float32, ink dark.
        light: (height, width) float32, from `light_field`.

    Returns:
        Same shape.
    """
    radius = max(1, round(_PEN_SHARE * max(pixels.shape[:2]) / 2))
    levelled = pixels / light[..., None]
    closed = -pictures.running_max(-pictures.running_max(levelled, radius), radius)
    paper = np.maximum(closed * light[..., None], 0.05)
    # The closing follows the brightest grain of the paper; most of a picture is bare paper.
    return np.maximum(paper * np.median(pixels / paper, axis=(0, 1)), 0.02)


def ink_strength(pixels: Floats, paper: Floats) -> Floats:
    """Share of the paper's light that the ink takes, in the channel where it takes most.

    ink = max over channels of 1 - pixel / paper

    Args:
        pixels: (height, width, channels) float32.
        paper: same shape.

    Returns:
        (height, width) float32, 0 to 1.
    """
    taken: Floats = 1 - pixels / paper
    return np.asarray(np.clip(taken.max(2), 0, 1))


def ink_level(ink: Floats) -> float:
    """The strength above which a pixel is ink; raises `blank` or `low_contrast`."""
    level = pictures.otsu(ink)
    above = ink > level
    if float(np.quantile(ink, 0.999)) < _LEAST_CONTRAST or above.all() or not above.any():
        raise UnreadableError("blank", "the picture shows nothing but paper")
    if float(ink[above].mean()) < _LEAST_SIGNAL * float(ink[~above].std()):
        raise UnreadableError("low_contrast", "ink and paper cannot be told apart")
    return level


def choose_marks(ink: Floats, level: float) -> Mask:
    """Which pixels belong to the digit: its largest mark and what stands close to it.

    Args:
        ink: (height, width) float32, 0 to 1.
        level: from `ink_level`; pale ends of a stroke down to half of it belong to the stroke.

    Returns:
        (height, width) bool.

    Raises:
        UnreadableError: `blank` (nothing but specks and border) or `too_many_marks`.
    """
    labels, count = pictures.label_marks(ink > level / 2)
    mass, at_border, boxes = _measure(ink, labels, count, level)
    inner = mass * (1 - at_border)
    if not inner.any():
        raise UnreadableError("blank", "the picture shows nothing but specks and a border")
    main = int(inner.argmax())
    # Beside a digit inside the picture, what touches the border is not part of it.
    most = max(0.5, at_border[main]) if at_border[main] else 0
    sizeable = (at_border <= most) & (mass > 0.02 * mass[main])
    _check_one_digit(boxes[sizeable], mass[sizeable])
    kept = _grown(main, boxes, sizeable)
    if kept.sum() > _MOST_MARKS:
        raise UnreadableError("too_many_marks", f"{kept.sum()} marks lie close together")
    return np.concatenate([[False], kept])[labels]


def _measure(
    ink: Floats, labels: NDArray[np.int64], count: int, level: float
) -> tuple[Floats, Floats, Floats]:
    """Per mark: its ink (0 without a strong pixel), its share at the border, its box."""
    y, x = np.nonzero(labels)
    number, values = labels[y, x] - 1, ink[y, x]
    mass = np.bincount(number, values, count).astype(np.float32)
    ring = max(1, round(0.02 * min(ink.shape)))
    inside = np.zeros(ink.shape, bool)
    inside[ring:-ring, ring:-ring] = True
    at_border = np.bincount(number, values * ~inside[y, x], count).astype(np.float32) / mass
    boxes = np.full((count, 4), np.inf, np.float32)
    for side, position in enumerate((y, x, -y, -x)):
        np.minimum.at(boxes[:, side], number, position)
    strong = np.bincount(number, values > level, count) > 0
    return mass * strong, at_border, boxes


def _grown(start: int, boxes: Floats, allowed: Mask) -> Mask:
    """The mark to start from and all that stand close to it, or to one that does."""
    kept = np.zeros(len(boxes), bool)
    kept[start] = True
    while True:
        box = boxes[kept].min(0)
        reach = _REACH * (1 - min(box[2] + box[0], box[3] + box[1]))
        # Boxes are (top, left, -bottom, -right): a gap is positive where they do not overlap.
        gaps = np.maximum(boxes + np.roll(box, 2), 0).max(1)
        more = kept | (allowed & (gaps <= reach))
        if (more == kept).all():
            return kept
        kept = more


def _check_one_digit(boxes: Floats, mass: Floats) -> None:
    """Refuse two marks of like size that stand apart; a digit's own parts are close or small."""
    heights = 1 - boxes[:, 2] - boxes[:, 0]
    height = heights[mass.argmax()]
    big = boxes[(heights > 0.7 * height) & (mass > 0.4 * mass.max())]
    gaps = (big[:, None] + np.roll(big, 2, axis=1)).max(2)
    if gaps.max() > _REACH * height:
        raise UnreadableError("too_many_marks", "several digits stand side by side")


def _cut_out(picture: Image.Image, inverted: bool, paper: Floats, marks: Mask) -> Floats:
    """The ink of the chosen marks from the whole picture, longest side about _DETAIL_SIDE."""
    height, width = marks.shape
    rows, columns = np.flatnonzero(marks.any(1)), np.flatnonzero(marks.any(0))
    # Two pixels round the marks: half-dark edges that the reduced copy did not show.
    box = np.array([columns[0] - 2, rows[0] - 2, columns[-1] + 3, rows[-1] + 3], float)
    box = np.clip(box, 0, [width, height, width, height])
    sides = box[2:] - box[:2]
    size = np.maximum(1, np.round(sides * _DETAIL_SIDE / sides.max())).astype(int)
    scale = np.array([picture.width / width, picture.height / height] * 2)
    cut = picture.resize(size, Image.Resampling.BICUBIC, tuple(box * scale), 2.0)
    near = pictures.running_max(marks.astype(np.float32), 1)
    *channels, mask = (_cut(plane, size, box) for plane in (*np.moveaxis(paper, 2, 0), near))
    return ink_strength(_as_dark_ink(cut, inverted), np.stack(channels, axis=2)) * mask


def _cut(values: Floats, size: NDArray[np.int64], box: NDArray[np.float64]) -> Floats:
    image = Image.fromarray(np.ascontiguousarray(values, np.float32))
    return np.asarray(image.resize(size, Image.Resampling.BILINEAR, tuple(box)))


def adjust_pen(ink: Floats) -> Floats:
    """Thicken a pen thinner than MNIST's, thin one that is thicker; adds a margin of 8."""
    ink = np.pad(ink, 8)
    scale = _DETAIL_SIDE / 20
    pen = pictures.pen_width(ink) / scale
    if pen < _PEN_MIN:
        return pictures.running_max(ink, round((_PEN_MIN - pen) / 2 * scale))
    if pen > _PEN_MAX:
        return -pictures.running_max(-ink, round((pen - _PEN_MAX) / 2 * scale))
    return ink


def shrink(ink: Floats) -> Bytes:
    """Crop to the ink and scale its longest side to 20, grey levels kept and stretched to 255."""
    rows, columns = np.flatnonzero(ink.max(1) > 0.5), np.flatnonzero(ink.max(0) > 0.5)
    if not len(rows):
        raise UnreadableError("low_contrast", "the strokes are too pale to tell from paper")
    crop = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    scale = 20 / max(crop.shape)
    size = [max(1, round(side * scale)) for side in crop.shape[::-1]]
    small: Floats = np.asarray(Image.fromarray(crop).resize(size, Image.Resampling.BOX))
    return np.asarray(np.round(small * (255 / small.max())), dtype=np.uint8)


def centre(digit: Bytes) -> Bytes:
    """Place a digit of at most 20 x 20 in 28 x 28, its centre of mass in [13.5, 14.5) each way."""
    height, width = digit.shape
    y, x = pictures.centre_of_mass(digit)
    top = min(max(int(np.ceil(13.5 - y)), 0), 28 - height)
    left = min(max(int(np.ceil(13.5 - x)), 0), 28 - width)
    image = np.zeros((28, 28), np.uint8)
    image[top : top + height, left : left + width] = digit
    return image
