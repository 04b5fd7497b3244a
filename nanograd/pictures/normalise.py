"""Any picture of one handwritten digit to the 28 x 28 form of MNIST.

A chain of small steps over arrays; `trace` returns the result of each. The digit is found in a
reduced copy, then cut from the whole picture at one fixed size, so that pen and noise have the same
scale whether the picture had 28 or 4,000 pixels.

References:
    LeCun et al. (1998), "Gradient-based learning applied to document recognition", III.A.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from nanograd.data.dataset import SIDE
from nanograd.digits import form
from nanograd.errors import Reason, UnreadableError
from nanograd.pictures import marks, morphology, paper
from nanograd.pictures.colour import by_hue
from nanograd.pictures.light import divide, light_surface
from nanograd.pictures.lines import find_lines
from nanograd.pictures.paper import Levels
from nanograd.pictures.surroundings import Box, find_sheet, spread_sheet

POLARITIES = ("auto", "dark-on-light", "light-on-dark")

# Longest side of the reduced copy in which the digit is found.
_SEARCH_SIDE = 160

# Few pens are wider than this share of the digit's longest side, none than that.
_WIDEST_PEN, _BLOT = 0.2, 0.35
# Levels below which ink is pale, also in pictures of two tones, and below which marks from side to
# side are noise; least size of a pale digit on two tones, as a share of the shorter side.
_PALE, _PALEST, _NOISE, _LEAST_SIZE = 0.26, 0.1, 0.05, 0.3
# Least share of dark pixels in a picture of a board. Least share of the picture of a sheet that was
# taken for ink, of any other, and of a board: beside a bold digit, paper may look like a sheet.
_MOSTLY_DARK, _INVERTED_SHEET, _SHEET = 0.3, 0.08, 0.3
# Smoothing before the search for pale ink, in pixels.
_SMOOTH = 0.8

# Larger pictures of digits in MNIST's form, with a border, are not usual.
_MAX_BORDERED_SIDE = 64

Floats = NDArray[np.floating]  # float32 wherever there is one value a pixel
Bytes = NDArray[np.uint8]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Steps:
    """The result of each step of `normalise`; None from the step that failed.

    A picture that is MNIST-like already has only `image`. H x W is the size of the reduced copy,
    h x w that of the digit cut out.
    """

    box: Box | None = None  # the sheet in the picture, if anything is beside it; H x W is its copy
    # Weights of red, green, blue and 1 that make ink dark on a coloured sheet.
    hue: tuple[float, float, float, float] | None = None
    light: Floats | None = None  # (H, W) float32, 0 to 1, the light on the paper unless it is even
    lines: Floats | None = None  # (H, W) float32, 0 to 1, the light that printed lines absorb
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
    return Steps(**_attempt(_steps(picture, polarity)))


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
    if picture.mode == "RGB" and _is_grey(np.asarray(reduced)):
        picture, reduced = picture.convert("L"), reduced.convert("L")  # grey: the same bits as L
    found: dict[str, Any] = {}
    weights = by_hue(reduced) if polarity == "auto" else None
    if weights is not None:
        seen = picture.convert("L", weights)
        found = _find(seen, reduced.convert("L", weights), "dark-on-light") | {"hue": weights}
    if _looks_wrong(found):
        found = _find(picture, reduced, polarity)
    yield from ((name, found[name]) for name in found if name != "picture")
    if "refused" in found:
        raise found["refused"]
    # Ink at the level becomes one half, paper below half the level 0, a stroke's core 1.
    cut = _cut_out(found)
    detail = np.clip(cut / found["levels"].strong - 0.5, 0, 1)
    yield "detail", detail
    strokes = morphology.adjust_pen(detail)
    yield "strokes", strokes
    yield "image", form.centre(form.shrink(strokes))


def _attempt(steps: Iterator[tuple[str, Any]]) -> dict[str, Any]:
    """Collect the results of steps, and any UnreadableError as `refused`."""
    results: dict[str, Any] = {}
    try:
        for name, value in steps:
            results[name] = value  # noqa: PERF403 - the results before an error count
    except UnreadableError as error:
        results["refused"] = error
    return results


def _find(picture: Image.Image, reduced: Image.Image, polarity: str) -> dict[str, Any]:
    """Find the digit; where that fails or surroundings disturb it, in other ways.

    Returns:
        The steps up to `marks`, or `refused`; and `picture`, from which the marks are to be cut.
    """
    found = _attempt(_locate(reduced, polarity)) | {"picture": picture}
    is_bitmap = max(picture.size) <= paper.BITMAP_SIDE
    if "levels" in found and not is_bitmap:
        box = find_sheet(found["ink"] > found["levels"].weak)
        if box is not None:
            edges = np.round(np.array(box) * (*picture.size, *picture.size)).astype(int)
            sheet = picture.crop(tuple(edges.tolist()))
            within = _attempt(_locate(paper.reduce(sheet, _SEARCH_SIDE), polarity))
            if "marks" in within or _is_doubtful(found):
                found = within | {"picture": sheet, "box": box}
    if "marks" not in found:
        found = _retry(found, paper.two_tones(found["search"]))
    if is_bitmap:
        return found
    on_sheet = _find_on_sheet(found, reduced, polarity)
    if on_sheet is not None:
        return on_sheet | {"picture": picture}
    if not _is_doubtful(found):
        return found
    lines = find_lines(found["ink"]) if _looks_wrong(found) else None
    if lines is not None:
        other = _retry(found, found["paper"], lines)
        found = found if _looks_wrong(other) else other
    if _is_doubtful(found):
        is_crop = paper.is_crop(reduced)
        pale = _attempt(_locate_pale(reduced, polarity)) | {"picture": picture}
        if not _is_doubtful(pale) and _is_pale(pale, is_crop):
            return pale
        if "marks" in found and not is_crop and _is_no_digit(found, lines):
            found["refused"] = UnreadableError(Reason.BLANK, "what is on the paper is no digit")
    return found


def _find_on_sheet(
    found: dict[str, Any], reduced: Image.Image, polarity: str
) -> dict[str, Any] | None:
    """Find the digit on a bright sheet, or a dark board, with surroundings on several sides."""
    dark = found["search"]
    is_board = (dark < (int(dark.min()) + int(dark.max())) / 2).mean() > _MOSTLY_DARK
    least = _INVERTED_SHEET if found["inverted"] else _SHEET
    tries = (
        ("dark-on-light", np.uint8(0), 1, found["inverted"] or _is_doubtful(found)),
        ("light-on-dark", np.uint8(255), 3, is_board and not found["inverted"]),
    )
    for within, negative, num_sides, is_likely in tries:
        if not is_likely or polarity not in ("auto", within):
            continue
        spread = spread_sheet(np.asarray(reduced) ^ negative, num_sides, least)
        if spread is None:
            continue
        other = _attempt(_locate(Image.fromarray(spread ^ negative), within))
        # A shadow may look like a sheet: pale ink is its edge, a wide pen the shadow itself. So may
        # a bold zero that is cropped: its hole is as wide.
        widest = _WIDEST_PEN if paper.is_crop(reduced) else _BLOT
        is_clear = not _looks_wrong(other) and _pen_share(other["marks"]) < widest
        if is_clear and other["levels"].strong > _PALE:
            return other
    return None


def _locate(reduced: Image.Image, polarity: str) -> Iterator[tuple[str, Any]]:
    """Yield the steps from a reduced picture to the marks of its digit."""
    light = light_surface(reduced) if max(reduced.size) > paper.BITMAP_SIDE else None
    yield "light", light
    if light is not None:
        reduced = divide(reduced, light)
    inverted = polarity == "light-on-dark"
    if polarity == "auto":
        inverted = paper.is_light_on_dark(reduced)
    yield "inverted", inverted
    search = paper.as_dark_ink(reduced, inverted)
    yield "search", search
    yield from _mark(search, paper.estimate_paper(search, paper.pen_radius(search)))


def _locate_pale(reduced: Image.Image, polarity: str) -> Iterator[tuple[str, Any]]:
    """Yield the steps to the marks of a thin, pale pen among shadows."""
    inverted = polarity == "light-on-dark"
    search = paper.as_dark_ink(reduced.filter(ImageFilter.GaussianBlur(_SMOOTH)), inverted)
    yield from {"light": None, "inverted": inverted, "search": search}.items()
    yield from _mark(search, paper.pale_paper(search), levels_of=paper.pale_levels)


def _mark(
    search: Bytes,
    sheet: Floats,
    lines: Floats | None = None,
    levels_of: Callable[[Floats], Levels] = paper.ink_levels,
) -> Iterator[tuple[str, Any]]:
    sheet = sheet if lines is None else sheet * (1 - lines)
    yield "paper", sheet
    strength = paper.ink_strength(search, sheet)
    if lines is not None:
        yield "lines", lines
        # Where a line is paler than its strength, the paper is no brighter: that is not its grain.
        strength = np.where(lines > 0, np.maximum(strength, 0), strength)
    ink = np.maximum(strength, 0)
    yield "ink", ink
    levels = levels_of(strength)
    yield "levels", levels
    yield "marks", marks.choose_marks(ink, levels)


def _looks_wrong(found: dict[str, Any]) -> bool:
    """Whether nothing was found, or marks that touch more than one side."""
    if "marks" not in found:
        return True
    chosen = found["marks"]
    sides = (chosen[0], chosen[-1], chosen[:, 0], chosen[:, -1])
    return sum(bool(side.any()) for side in sides) > 1


def _is_doubtful(found: dict[str, Any]) -> bool:
    return _looks_wrong(found) or _pen_share(found["marks"]) > _WIDEST_PEN


def _is_no_digit(found: dict[str, Any], lines: Floats | None) -> bool:
    """Whether doubtful marks are a shadow, printed lines or noise."""
    is_pale = found["levels"].strong < (_PALE if lines is not None else _NOISE)
    return (is_pale and _looks_wrong(found)) or _pen_share(found["marks"]) > _BLOT


def _is_pale(found: dict[str, Any], is_crop: bool) -> bool:
    """Whether marks are a pale digit, not what a narrow window leaves of bold strokes."""
    most, least = (_PALEST, _LEAST_SIZE) if is_crop else (_PALE, 0)
    longest = max(int(found["marks"].any(axis).sum()) for axis in (0, 1))
    return bool(found["levels"].strong < most and longest > least * min(found["marks"].shape))


def _pen_share(chosen: Mask) -> float:
    """Width of the strokes as a share of the marks' longest side."""
    rows, columns = (np.flatnonzero(chosen.any(axis)) for axis in (1, 0))
    box = chosen[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return float(morphology.pen_width(np.pad(box, 1).astype(np.float32)) / max(box.shape))


def _retry(
    found: dict[str, Any], sheet: Floats | None, lines: Floats | None = None
) -> dict[str, Any]:
    """Find the marks on another paper; keep what was found before if that fails, too."""
    if sheet is None:
        return found
    other = _attempt(_mark(found["search"], sheet, lines))
    if "marks" not in other:
        return found
    return {name: found[name] for name in found if name != "refused"} | other


def _is_grey(pixels: Bytes) -> bool:
    """Whether all channels of (height, width, channels) are equal."""
    # A plane at a time: a comparison along the short last axis takes ten times as long.
    return all((pixels[..., 0] == pixels[..., other]).all() for other in range(1, pixels.shape[-1]))


def _mnist_like(picture: Image.Image, polarity: str) -> Bytes | None:
    """Return the image if it has MNIST's form already, in one of the polarities allowed.

    It may have a border without ink, as digits of 32 x 32 often have.
    """
    if min(picture.size) < SIDE or max(picture.size) > _MAX_BORDERED_SIDE:
        return None
    pixels = np.asarray(picture).reshape(picture.height, picture.width, -1)
    if not _is_grey(pixels):
        return None
    top, left = (picture.height - SIDE) // 2, (picture.width - SIDE) // 2
    image = pixels[top : top + SIDE, left : left + SIDE, 0].copy()
    for other, sheet in (("dark-on-light", 0), ("light-on-dark", 255)):
        bordered = (pixels[:, :, 0] != sheet).sum() == (image != sheet).sum()
        candidate = np.abs(image.astype(np.int16) - sheet).astype(np.uint8)
        if polarity != other and bordered and form.are_mnist_like(candidate.reshape(1, -1)).all():
            return candidate
    return None


def _cut_out(found: dict[str, Any]) -> Floats:
    """Cut the ink of the chosen marks from the whole picture, longest side DETAIL_SIDE."""
    picture = found["picture"]
    chosen, sheet, light = found["marks"], found["paper"], found["light"]
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
    if light is not None:
        cut = divide(cut, _resize(light, size, box))
    *channels, mask = (_resize(plane, size, box) for plane in (*sheet, near))
    return paper.ink_strength(paper.as_dark_ink(cut, found["inverted"]), np.stack(channels)) * mask


def _resize(plane: Floats, size: NDArray[np.int64], box: NDArray[np.float64]) -> Floats:
    image = Image.fromarray(np.ascontiguousarray(plane, np.float32))
    return np.asarray(image.resize(size, Image.Resampling.BILINEAR, tuple(box)))
