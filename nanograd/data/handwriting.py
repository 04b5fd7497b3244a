"""Any picture of one handwritten digit to the 28 x 28 form that MNIST has.

A chain of small steps, each a function over arrays that can be looked at alone:

    grey or colour -> paper and ink told apart -> paper estimated and divided out -> threshold
    -> connected marks chosen -> the digit cut out in detail -> pen made MNIST's -> 20 x 20
    -> centre of mass to the centre

The digit is found in a reduced copy; it is then cut from the whole picture at one fixed size, so
that pen and noise have the same scale whether the picture had 28 or 4,000 pixels.

References:
    LeCun, Bottou, Bengio, Haffner (1998), "Gradient-based learning applied to document
    recognition", section III.A: 20 x 20 box, centre of mass in a 28 x 28 field.
    Otsu (1979), "A threshold selection method from gray-level histograms".
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from nanograd.data.pictures import UnreadableError, label_marks, otsu, running_max

POLARITIES = ("auto", "dark-on-light", "light-on-dark")

# Longest side of the copy in which the digit is looked for, and of the digit when it is drawn.
_SEARCH_SIDE = 160
_DETAIL_SIDE = 80

# 2 x area / outline of MNIST's digits: median 2.4 pixels, 5th to 95th percentile 1.6 to 3.6.
_PEN_MIN, _PEN_MAX = 2.0, 2.6

# A pen is never wider than this share of the picture's longest side, a shadow seldom narrower.
_PEN_SHARE = 0.3

# Parts of one digit are not further apart than this share of what has been found of it.
_REACH = 0.25

# Share of the variance between two tones (Otsu's criterion) above which they are ink and paper:
# 0.82 and more in drawings and crops of MNIST, 0.6 to 0.75 in photos under uneven light.
_TWO_TONES = 0.82

_LEAST_CONTRAST = 0.06
_LEAST_SIGNAL = 4.0

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]
Mask = NDArray[np.bool_]


def normalise(picture: Image.Image, *, polarity: str = "auto") -> Bytes:
    """The digit in a picture, as MNIST would have stored it.

    A picture that is MNIST-like already (also one with black and white exchanged) keeps its
    pixels bit for bit.

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
    ready = _ready_made(picture, polarity)
    if ready is not None:
        return ready
    picture = picture if picture.mode == "L" else picture.convert("RGB")
    search = _reduced(picture, _SEARCH_SIDE)
    inverted = _is_light_on_dark(_reduced(search, 64)) if polarity == "auto" else polarity == "light-on-dark"
    pixels = _as_dark_ink(search, inverted)
    paper = estimate_paper(pixels)
    ink = ink_strength(pixels, paper)
    level = ink_level(ink)
    marks = choose_marks(ink, level)
    detail = _cut_out(picture, inverted, paper, marks)
    return centre(shrink(adjust_pen(_contrast(detail, level))))


def is_mnist_like(image: Bytes) -> bool:
    """Whether a picture has the form of MNIST: size, place and full black and white.

    All 70,000 images of MNIST have a longest side of 19 or 20 pixels, the centre of mass in
    [13.48, 14.50) on both axes and a brightest pixel of 254 or 255; slack is for JPEG's noise.

    Args:
        image: (28, 28) uint8.
    """
    if image.shape != (28, 28) or int(image.max()) < 240:
        return False
    dark = image < 40
    rows, columns = np.flatnonzero(~dark.all(1)), np.flatnonzero(~dark.all(0))
    if not 18 <= max(np.ptp(rows), np.ptp(columns)) + 1 <= 20:
        return False
    y, x = _centre_of_mass(np.where(dark, np.uint8(0), image))
    return 13.4 <= min(y, x) and max(y, x) < 14.6


def _ready_made(picture: Image.Image, polarity: str) -> Bytes | None:
    if picture.size != (28, 28):
        return None
    image = np.asarray(picture)
    if image.ndim == 3:
        if (image != image[:, :, :1]).any():
            return None
        image = image[:, :, 0].copy()
    if polarity != "dark-on-light" and is_mnist_like(image):
        return image
    if polarity != "light-on-dark" and is_mnist_like(255 - image):
        return 255 - image
    return None


def _reduced(picture: Image.Image, longest: int) -> Image.Image:
    """The whole picture with no side above `longest`."""
    scale = min(1.0, longest / max(picture.size))
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.BOX, reducing_gap=2.0)


def _is_light_on_dark(search: Image.Image) -> bool:
    """Paper is what lies along the border and fills most of the picture; ink is the other tone.

    Two clear tones speak for themselves. Otherwise light falls unevenly, and is levelled first.
    """
    grey = np.asarray(search.convert("L"), dtype=np.float32) / 255
    light = grey > otsu(grey)
    between = light.mean() * (1 - light.mean())
    if between and between * _gap(grey, light) ** 2 < _TWO_TONES * grey.var():
        grey = _levelled(grey)
        light = grey > otsu(grey)
    width = max(1, round(0.04 * min(grey.shape)))
    border = np.ones(grey.shape, bool)
    border[width:-width, width:-width] = False
    return bool(light[border].mean() + light.mean() < 1)


def _gap(grey: Floats, light: Mask) -> float:
    return float(grey[light].mean() - grey[~light].mean())


def _levelled(grey: Floats) -> Floats:
    """Less the quadratic surface that most of the picture follows; 0 to 1."""
    y, x = np.meshgrid(*(np.linspace(-1, 1, side) for side in grey.shape), indexing="ij")
    terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=2).reshape(-1, 6)
    rest = grey.ravel()
    paper = np.ones(len(rest), bool)
    for _ in range(4):
        surface, *_ = np.linalg.lstsq(terms[paper], grey.ravel()[paper])
        rest = grey.ravel() - terms @ surface
        paper = np.abs(rest - np.median(rest)) <= 1.5 * rest[paper].std() + 1e-6
    rest = (rest - rest.min()) / max(float(np.ptp(rest)), 1e-6)
    return rest.reshape(grey.shape).astype(np.float32)


def _as_dark_ink(picture: Image.Image, inverted: bool) -> Floats:
    """(height, width, channels) float32, 0 to 1, ink darker than paper."""
    pixels = np.asarray(picture, dtype=np.float32) / 255
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    return 1 - pixels if inverted else pixels


def estimate_paper(pixels: Floats) -> Floats:
    """What the paper would be without ink, under the light that falls on it.

    A closing (maximum, then minimum, over a window wider than any pen) removes what is dark and
    narrow. It keeps slow shadows, and unlike a blur also the edge of a sheet.

    Args:
        pixels: (height, width, channels) float32, ink dark.

    Returns:
        Same shape.
    """
    radius = max(1, round(_PEN_SHARE * max(pixels.shape[:2]) / 2))
    paper = np.maximum(-running_max(-running_max(pixels, radius), radius), 0.05)
    # The closing follows the brightest grain of the paper; most of a picture is bare paper.
    return paper * np.median(pixels / paper, axis=(0, 1))


def ink_strength(pixels: Floats, paper: Floats) -> Floats:
    """Share of the paper's light that the ink takes, in the channel where it takes most.

    ink = max over channels of 1 - pixel / paper

    Args:
        pixels: (height, width, channels) float32.
        paper: same shape.

    Returns:
        (height, width) float32, 0 to 1.
    """
    return np.clip(1 - pixels / paper, 0, 1).max(2)


def ink_level(ink: Floats) -> float:
    """The strength above which a pixel is ink.

    Raises:
        UnreadableError: `blank` or `low_contrast`.
    """
    strongest = float(np.quantile(ink, 0.999))
    if strongest < _LEAST_CONTRAST:
        raise UnreadableError("blank", "the picture shows nothing but paper")
    level = otsu(ink)
    above = ink > level
    noise = float(ink[~above].std())
    if float(ink[above].mean()) < _LEAST_SIGNAL * noise:
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
    labels, count = label_marks(ink > level / 2)
    mass, at_border, boxes = _measure(ink, labels, count, level)
    inner = mass * (1 - at_border)
    if not inner.any():
        raise UnreadableError("blank", "the picture shows nothing but specks and a border")
    kept = _grown(int(inner.argmax()), boxes, (mass > 0.02 * inner.max()) & (at_border < 0.5))
    _check_one_digit(boxes[kept], mass[kept])
    return np.concatenate([[False], kept])[labels]


def _measure(
    ink: Floats, labels: NDArray[np.int64], count: int, level: float
) -> tuple[Floats, Floats, Floats]:
    """Per mark: its ink (0 without a strong pixel), its share at the border, its box."""
    y, x = np.nonzero(labels)
    number, values = labels[y, x] - 1, ink[y, x]
    mass = np.bincount(number, values, count)
    height, width = ink.shape
    ring = max(1, round(0.02 * min(height, width)))
    outside = np.minimum(np.minimum(y, height - 1 - y), np.minimum(x, width - 1 - x)) < ring
    at_border = np.bincount(number, values * outside, count) / mass
    boxes = np.empty((count, 4))
    boxes[:] = np.inf
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
        reach = _REACH * max(_extent(box))
        # Boxes are (top, left, -bottom, -right): a gap is positive where they do not overlap.
        gaps = np.maximum(boxes + np.roll(box, 2), 0).max(1)
        more = kept | (allowed & (gaps <= reach))
        if (more == kept).all():
            return kept
        kept = more


def _extent(box: Floats) -> tuple[float, float]:
    return float(1 - box[2] - box[0]), float(1 - box[3] - box[1])


def _check_one_digit(boxes: Floats, mass: Floats) -> None:
    """Refuse two marks of like size side by side; a digit's own parts overlap or are small."""
    heights = 1 - boxes[:, 2] - boxes[:, 0]
    big = (heights > 0.7 * heights.max()) & (mass > 0.4 * mass.max())
    left, right = boxes[big, 1], -boxes[big, 3]
    if len(left) > 1 and left.max() - right.min() > 0.25 * heights.max():
        raise UnreadableError("too_many_marks", "several digits stand side by side")


def _cut_out(picture: Image.Image, inverted: bool, paper: Floats, marks: Mask) -> Floats:
    """The ink of the chosen marks from the whole picture, longest side about _DETAIL_SIDE."""
    height, width = marks.shape
    rows, columns = np.flatnonzero(marks.any(1)), np.flatnonzero(marks.any(0))
    # Two pixels round the marks: half-dark edges that the reduced copy did not show.
    box = np.array([columns[0] - 2, rows[0] - 2, columns[-1] + 3, rows[-1] + 3], float)
    box = np.clip(box, 0, [width, height, width, height])
    sides = box[2:] - box[:2]
    size = tuple(int(side) for side in np.maximum(1, np.round(sides * _DETAIL_SIDE / sides.max())))
    scale = np.array([picture.width / width, picture.height / height] * 2)
    cut = picture.resize(size, Image.Resampling.BICUBIC, tuple(box * scale), 2.0)
    channels = [_resized(paper[..., k], size, box) for k in range(paper.shape[2])]
    ink = ink_strength(_as_dark_ink(cut, inverted), np.stack(channels, axis=2))
    near = running_max(marks.astype(np.float32), 1)
    return ink * _resized(near, size, box)


def _resized(values: Floats, size: tuple[int, ...], box: Floats) -> Floats:
    image = Image.fromarray(np.ascontiguousarray(values, np.float32))
    return np.asarray(image.resize(size, Image.Resampling.BILINEAR, tuple(box)))


def _contrast(ink: Floats, level: float) -> Floats:
    """Ink at the level becomes one half; paper below half the level 0, the stroke's core 1."""
    return np.clip(ink / level - 0.5, 0, 1)


def adjust_pen(ink: Floats) -> Floats:
    """Thicken a pen thinner than MNIST's, thin one that is thicker.

    Args:
        ink: (height, width) float32, 0 to 1, longest side about 80.

    Returns:
        (height + 16, width + 16) float32.
    """
    ink = np.pad(ink, 8)
    scale = _DETAIL_SIDE / 20
    pen = pen_width(ink) / scale
    if pen < _PEN_MIN:
        return running_max(ink, round((_PEN_MIN - pen) / 2 * scale))
    if pen > _PEN_MAX:
        return -running_max(-ink, round((pen - _PEN_MAX) / 2 * scale))
    return ink


def pen_width(ink: Floats) -> float:
    """Width of the stroke, in pixels, if it were one bar: area = w l, outline = 2 (w + l).

    The outline is the total variation, which is right for sharp and for soft edges.
    """
    down, across = np.diff(ink, axis=0)[:, :-1], np.diff(ink, axis=1)[:-1]
    quarter = float(np.hypot(down, across).sum()) / 4
    return quarter - max(quarter**2 - float(ink.sum()), 0.0) ** 0.5


def shrink(ink: Floats) -> Bytes:
    """Crop to the ink and scale its longest side to 20, grey levels kept and stretched to 255."""
    rows, columns = np.flatnonzero(ink.max(1) > 0.5), np.flatnonzero(ink.max(0) > 0.5)
    if not len(rows):
        raise UnreadableError("low_contrast", "the strokes are too pale to be told from paper")
    crop = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    scale = 20 / max(crop.shape)
    size = [max(1, round(side * scale)) for side in crop.shape[::-1]]
    small = np.asarray(Image.fromarray(crop).resize(size, Image.Resampling.BOX))
    return np.round(small * (255 / small.max())).astype(np.uint8)


def centre(digit: Bytes) -> Bytes:
    """Place a digit in 28 x 28 so that its centre of mass is in [13.5, 14.5) on both axes.

    Args:
        digit: (height, width) uint8, both at most 20.

    Returns:
        (28, 28) uint8.
    """
    height, width = digit.shape
    y, x = _centre_of_mass(digit)
    top = min(max(int(np.ceil(13.5 - y)), 0), 28 - height)
    left = min(max(int(np.ceil(13.5 - x)), 0), 28 - width)
    image = np.zeros((28, 28), np.uint8)
    image[top : top + height, left : left + width] = digit
    return image


def _centre_of_mass(image: Bytes) -> tuple[float, float]:
    rows, columns = image.sum(1, dtype=np.float64), image.sum(0, dtype=np.float64)
    total = rows.sum()
    y = rows @ np.arange(len(rows)) / total
    x = columns @ np.arange(len(columns)) / total
    return float(y), float(x)
