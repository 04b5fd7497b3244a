"""Any picture of one handwritten digit to the 28 x 28 form that MNIST has.

A chain of small steps, each a function over arrays that can be looked at alone; `steps` runs them
and keeps what each one gave. The digit is found in a reduced copy, then cut from the whole picture
at one fixed size, so that pen and noise have the same scale whether the picture had 28 or 4,000
pixels.

References:
    LeCun et al. (1998), "Gradient-based learning applied to document recognition", III.A.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nanograd.digits import form
from nanograd.errors import UnreadableError
from nanograd.pictures import marks, morphology, paper
from nanograd.pictures.morphology import running_max
from nanograd.pictures.paper import Levels

POLARITIES = ("auto", "dark-on-light", "light-on-dark")

# Longest side of the copy in which the digit is looked for.
_SEARCH_SIDE = 160

Floats = NDArray[np.floating]  # float32 wherever there is one value a pixel
Bytes = NDArray[np.uint8]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Steps:
    """What each step of `normalise` gave; None from the step on that was not reached.

    A picture that is MNIST-like already has no step but `image`. H x W is the size of the reduced
    copy, h x w that of the digit cut out.

    Args:
        search: (channels, H, W) uint8, the reduced copy, ink darker than paper.
        inverted: whether the picture's ink is lighter than its paper.
        paper: (channels, H, W) float32, 0 to 255, what the paper would be without ink.
        ink: (H, W) float32, 0 to 1, the share of light that the ink takes.
        levels: the strengths above which a pixel is ink, or belongs to it.
        marks: (H, W) bool, the pixels that belong to the digit.
        detail: (h, w) float32, 0 to 1, the digit cut from the whole picture.
        strokes: (h + 16, w + 16) float32, 0 to 1, with the pen brought to MNIST's width.
        image: (28, 28) uint8, ink 255 on 0.
        refused: why there is no image.
    """

    search: Bytes | None = None
    inverted: bool | None = None
    paper: Floats | None = None
    ink: Floats | None = None
    levels: Levels | None = None
    marks: Mask | None = None
    detail: Floats | None = None
    strokes: Floats | None = None
    image: Bytes | None = None
    refused: UnreadableError | None = None


def normalise(picture: Image.Image, *, polarity: str = "auto", always: bool = False) -> Bytes:
    """The digit in a picture, as MNIST would have stored it.

    A picture that is MNIST-like already, also with black and white exchanged, keeps its bits.

    Args:
        picture: mode L or RGB, upright, any size (see `pictures.decode`).
        polarity: `auto` (told from the picture), `dark-on-light` or `light-on-dark`.
        always: take the steps even with a picture that is MNIST-like already.

    Returns:
        (28, 28) uint8, ink 255 on 0.

    Raises:
        UnreadableError: `blank`, `low_contrast` or `too_many_marks`.
        ValueError: unknown polarity.
    """
    image: Bytes = dict(_chain(picture, polarity, always))["image"]
    return image


def steps(picture: Image.Image, *, polarity: str = "auto") -> Steps:
    """As `normalise`, with what each step gave; says why instead of raising UnreadableError."""
    reached: dict[str, Any] = {}
    try:
        for name, value in _chain(picture, polarity):
            reached[name] = value  # noqa: PERF403 - what was reached before an error counts
    except UnreadableError as error:
        return Steps(**reached, refused=error)
    return Steps(**reached)


def _chain(picture: Image.Image, polarity: str, always: bool = False) -> Iterator[tuple[str, Any]]:
    """The steps in their order, each by the name it has in `Steps`."""
    if polarity not in POLARITIES:
        raise ValueError(f"polarity {polarity!r} is none of {', '.join(POLARITIES)}")
    picture = picture if picture.mode in ("L", "RGB") else picture.convert("RGB")
    ready = None if always else _ready_made(picture, polarity)
    if ready is not None:
        yield "image", ready
        return
    reduced = paper.reduced(picture, _SEARCH_SIDE)
    inverted = polarity == POLARITIES[2]
    if polarity == "auto":
        inverted = paper.is_light_on_dark(reduced)
    yield "inverted", inverted
    search = paper.as_dark_ink(reduced, inverted)
    yield "search", search
    sheet = paper.estimate_paper(search, paper.pen_radius(search))
    yield "paper", sheet
    strength = paper.ink_strength(search, sheet)
    ink = np.maximum(strength, 0)
    yield "ink", ink
    levels = paper.ink_levels(strength)
    yield "levels", levels
    chosen = marks.choose_marks(ink, levels)
    yield "marks", chosen
    # Ink at the level becomes one half, paper below half the level 0, a stroke's core 1.
    detail = np.clip(cut_out(picture, inverted, sheet, chosen) / levels.strong - 0.5, 0, 1)
    yield "detail", detail
    drawn = morphology.adjust_pen(detail)
    yield "strokes", drawn
    yield "image", form.centre(form.shrink(drawn))


def _ready_made(picture: Image.Image, polarity: str) -> Bytes | None:
    if picture.size != (28, 28):
        return None
    image = np.asarray(picture).reshape(28, 28, -1)
    if (image != image[:, :, :1]).any():
        return None
    image = image[:, :, 0].copy()
    if polarity != "dark-on-light" and form.are_mnist_like(image.reshape(1, -1)).all():
        return image
    if polarity != "light-on-dark" and form.are_mnist_like(255 - image.reshape(1, -1)).all():
        return 255 - image
    return None


def cut_out(picture: Image.Image, inverted: bool, sheet: Floats, chosen: Mask) -> Floats:
    """The ink of the chosen marks from the whole picture, enlarged or reduced to one size.

    Args:
        picture: mode L or RGB.
        inverted: whether its ink is lighter than its paper.
        sheet: (channels, H, W) float32, the paper in the reduced copy.
        chosen: (H, W) bool, the marks in the reduced copy.

    Returns:
        (h, w) float32, at most 1, longest side `morphology.DETAIL_SIDE`.
    """
    height, width = chosen.shape
    rows, columns = np.flatnonzero(chosen.any(1)), np.flatnonzero(chosen.any(0))
    # Two pixels round the marks: half-dark edges that the reduced copy did not show.
    box = np.array([columns[0] - 2, rows[0] - 2, columns[-1] + 3, rows[-1] + 3], float)
    box = np.clip(box, 0, [width, height, width, height])
    sides = box[2:] - box[:2]
    size = np.maximum(1, np.round(sides * morphology.DETAIL_SIDE / sides.max())).astype(int)
    scale = np.array([picture.width / width, picture.height / height] * 2)
    cut = picture.resize(size, Image.Resampling.BICUBIC, tuple(box * scale), 2.0)
    near = running_max(chosen.astype(np.float32), 1)
    *channels, mask = (_cut(plane, size, box) for plane in (*sheet, near))
    return paper.ink_strength(paper.as_dark_ink(cut, inverted), np.stack(channels)) * mask


def _cut(values: Floats, size: NDArray[np.int64], box: NDArray[np.float64]) -> Floats:
    image = Image.fromarray(np.ascontiguousarray(values, np.float32))
    return np.asarray(image.resize(size, Image.Resampling.BILINEAR, tuple(box)))
