"""Any picture of one handwritten digit to the 28 x 28 form of MNIST.

A chain of small steps over arrays; `trace` returns the result of each. The digit is found in a
reduced copy, then cut from the whole picture at one fixed size, so that pen and noise have the same
scale whether the picture had 28 or 4,000 pixels.

References:
    LeCun et al. (1998), "Gradient-based learning applied to document recognition", III.A.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nanograd.data.dataset import SIDE
from nanograd.digits import form
from nanograd.errors import UnreadableError
from nanograd.pictures import marks, morphology, paper
from nanograd.pictures.paper import Levels

POLARITIES = ("auto", "dark-on-light", "light-on-dark")

# Longest side of the reduced copy in which the digit is found.
_SEARCH_SIDE = 160

Floats = NDArray[np.floating]  # float32 wherever there is one value a pixel
Bytes = NDArray[np.uint8]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Steps:
    """The result of each step of `normalise`; None from the step that failed.

    A picture that is MNIST-like already has only `image`. H x W is the size of the reduced copy,
    h x w that of the digit cut out.
    """

    search: Bytes | None = None  # (channels, H, W) uint8, the reduced copy, ink darker than paper
    inverted: bool | None = None  # whether the picture's ink is lighter than its paper
    paper: Floats | None = None  # (channels, H, W) float32, 0 to 255, the paper without ink
    ink: Floats | None = None  # (H, W) float32, 0 to 1, the share of light that the ink absorbs
    levels: Levels | None = None  # the strengths above which a pixel is ink
    marks: Mask | None = None  # (H, W) bool, the pixels of the digit
    detail: Floats | None = None  # (h, w) float32, 0 to 1, the digit cut from the whole picture
    # (h + 16, w + 16) float32, 0 to 1, its pen adjusted to MNIST's width.
    strokes: Floats | None = None
    image: Bytes | None = None  # (28, 28) uint8, ink 255 on 0
    refused: UnreadableError | None = None  # the reason for having no image


def normalise(picture: Image.Image, *, polarity: str = "auto", always: bool = False) -> Bytes:
    """Convert the digit in a picture to the form in which MNIST would store it.

    A picture that is MNIST-like already, also with black and white exchanged, keeps its bits.

    Args:
        picture: mode L or RGB, rotated upright, any size (see `pictures.decode`).
        polarity: `auto` (determined from the picture), `dark-on-light` or `light-on-dark`.
        always: take the steps even with a picture that is MNIST-like already.

    Returns:
        (28, 28) uint8, ink 255 on 0.

    Raises:
        UnreadableError: `blank`, `low_contrast` or `too_many_marks`.
        ValueError: unknown polarity.
    """
    image: Bytes = dict(_steps(picture, polarity, always))["image"]
    return image


def trace(picture: Image.Image, *, polarity: str = "auto") -> Steps:
    """Normalise a picture and return the result of each step, and any UnreadableError."""
    results: dict[str, Any] = {}
    try:
        for name, value in _steps(picture, polarity):
            results[name] = value  # noqa: PERF403 - the results before an error count
    except UnreadableError as error:
        results["refused"] = error
    return Steps(**results)


def _steps(picture: Image.Image, polarity: str, always: bool = False) -> Iterator[tuple[str, Any]]:
    """Yield the name in `Steps` and the result of each step."""
    if polarity not in POLARITIES:
        raise ValueError(f"polarity {polarity!r} is none of {', '.join(POLARITIES)}")
    picture = picture if picture.mode in ("L", "RGB") else picture.convert("RGB")
    ready = None if always else _mnist_like(picture, polarity)
    if ready is not None:
        yield "image", ready
        return
    reduced = paper.reduce(picture, _SEARCH_SIDE)
    inverted = polarity == "light-on-dark"
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
    detail = np.clip(_cut_out(picture, inverted, sheet, chosen) / levels.strong - 0.5, 0, 1)
    yield "detail", detail
    strokes = morphology.adjust_pen(detail)
    yield "strokes", strokes
    yield "image", form.centre(form.shrink(strokes))


def _mnist_like(picture: Image.Image, polarity: str) -> Bytes | None:
    """Return the image if it has MNIST's form already, in one of the polarities allowed."""
    if picture.size != (SIDE, SIDE):
        return None
    pixels = np.asarray(picture).reshape(SIDE, SIDE, -1)
    if (pixels != pixels[:, :, :1]).any():
        return None
    image = pixels[:, :, 0].copy()
    for other, candidate in (("dark-on-light", image), ("light-on-dark", 255 - image)):
        if polarity != other and form.are_mnist_like(candidate.reshape(1, -1)).all():
            return candidate
    return None


def _cut_out(picture: Image.Image, inverted: bool, sheet: Floats, chosen: Mask) -> Floats:
    """Cut the ink of the chosen marks from the whole picture, longest side DETAIL_SIDE."""
    height, width = chosen.shape
    rows, columns = np.flatnonzero(chosen.any(1)), np.flatnonzero(chosen.any(0))
    # Two pixels round the marks: half-dark edges that the reduced copy did not show.
    box = np.array([columns[0] - 2, rows[0] - 2, columns[-1] + 3, rows[-1] + 3], float)
    box = np.clip(box, 0, [width, height, width, height])
    sides = box[2:] - box[:2]
    size = np.maximum(1, np.round(sides * morphology.DETAIL_SIDE / sides.max())).astype(int)
    scale = np.array([picture.width / width, picture.height / height] * 2)
    cut = picture.resize(size, Image.Resampling.BICUBIC, tuple(box * scale), 2.0)
    near = morphology.running_max(chosen.astype(np.float32), 1)
    *channels, mask = (_resize(plane, size, box) for plane in (*sheet, near))
    return paper.ink_strength(paper.as_dark_ink(cut, inverted), np.stack(channels)) * mask


def _resize(plane: Floats, size: NDArray[np.int64], box: NDArray[np.float64]) -> Floats:
    image = Image.fromarray(np.ascontiguousarray(plane, np.float32))
    return np.asarray(image.resize(size, Image.Resampling.BILINEAR, tuple(box)))
