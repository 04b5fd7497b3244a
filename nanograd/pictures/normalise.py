"""Any picture of one handwritten digit to the 28 x 28 form of MNIST.

The digit is found in a reduced copy, then cut from the whole picture at one fixed size, so that pen
and noise have the same scale whether the picture had 28 or 4,000 pixels. Where the plain way fails
or finds marks that are hardly a digit, further candidates are made: on a sheet with surroundings,
on two tones, on ruled paper, and of a pale pen.

References:
    LeCun et al. (1998), "Gradient-based learning applied to document recognition", III.A.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from nanograd.digits import form
from nanograd.digits.dataset import SIDE
from nanograd.errors import Reason, UnreadableError
from nanograd.pictures import marks, morphology, paper, tuning
from nanograd.pictures.light import by_hue, divide, light_surface
from nanograd.pictures.lines import find_lines
from nanograd.pictures.paper import Levels
from nanograd.pictures.surroundings import Box, find_sheet, spread_sheet
from nanograd.runtime.arrays import Bytes, Floats, Mask

POLARITIES = ("auto", "dark-on-light", "light-on-dark")


@dataclass(kw_only=True)
class Candidate:
    """One way to see the digit in a picture: the result of each step, None of those not taken.

    H x W is the size of the reduced copy, h x w that of the digit cut out. A picture that is
    MNIST-like already has only `image`.
    """

    # Mode L or RGB, the picture from which the digit is cut.
    picture: Image.Image = None  # type: ignore[assignment]
    box: Box | None = None  # the sheet in the picture, if anything is beside it; H x W is its copy
    # Weights of red, green, blue and 1 that make ink dark on a coloured sheet.
    hue: tuple[float, float, float, float] | None = None
    light: Floats | None = None  # (H, W) float32, 0 to 1, the light on the paper unless it is even
    lines: Floats | None = None  # (H, W) float32, 0 to 1, the light that printed lines absorb
    # (channels, H, W) uint8, the reduced copy, ink darker than paper.
    search: Bytes = None  # type: ignore[assignment]
    inverted: bool = False  # whether the picture's ink is lighter than its paper
    # (channels, H, W) float32, 0 to 255, the paper without ink.
    paper: Floats = None  # type: ignore[assignment]
    # (H, W) float32, 0 to 1, the share of light that the ink absorbs.
    ink: Floats = None  # type: ignore[assignment]
    levels: Levels | None = None  # the strengths above which a pixel is ink
    marks: Mask | None = None  # (H, W) bool, the pixels of the digit
    detail: Floats | None = None  # (h, w) float32, 0 to 1, the digit cut from the whole picture
    # (h + 16, w + 16) float32, 0 to 1, its pen adjusted to MNIST's width.
    strokes: Floats | None = None
    image: Bytes = None  # type: ignore[assignment]  # (28, 28) uint8, ink 255 on 0
    refused: UnreadableError | None = None  # the reason for having no image

    @property
    def looks_wrong(self) -> bool:
        """Whether nothing was found, or marks that touch more than one side."""
        if self.marks is None:
            return True
        sides = (self.marks[0], self.marks[-1], self.marks[:, 0], self.marks[:, -1])
        return sum(bool(side.any()) for side in sides) > 1

    @property
    def pen_share(self) -> float:
        """Width of the strokes as a share of the marks' longest side; 0 without marks."""
        if self.marks is None:
            return 0.0
        rows, columns = (np.flatnonzero(self.marks.any(axis)) for axis in (1, 0))
        box = self.marks[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        return float(morphology.pen_width(np.pad(box, 1).astype(np.float32)) / max(box.shape))

    @property
    def is_doubtful(self) -> bool:
        """Whether the marks look wrong, or are wider than a pen."""
        return self.looks_wrong or self.pen_share > tuning.WIDEST_PEN

    @property
    def strength(self) -> float:
        """The strength above which a pixel is ink, 0 to 1; 0 if it is not known."""
        return self.levels.strong if self.levels else 0.0


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
    found = trace(picture, polarity=polarity, always=always)
    if found.refused:
        # A new one: its traceback keeps this frame, so `found` would keep itself and its pictures.
        raise UnreadableError(found.refused.reason, found.refused.detail)
    return found.image


def trace(picture: Image.Image, *, polarity: str = "auto", always: bool = False) -> Candidate:
    """Normalise a picture, as `normalise` does; return the chosen candidate with all its steps."""
    if polarity not in POLARITIES:
        raise ValueError(f"polarity {polarity!r} is none of {', '.join(POLARITIES)}")
    picture = picture if picture.mode in ("L", "RGB") else picture.convert("RGB")
    ready = None if always else _mnist_like(picture, polarity)
    if ready is not None:
        return Candidate(image=ready)
    reduced = paper.reduce(picture, tuning.SEARCH_SIDE)
    if picture.mode == "RGB" and _is_grey(np.asarray(reduced)):
        picture, reduced = picture.convert("L"), reduced.convert("L")  # grey: the same bits as L
    found = None
    weights = by_hue(reduced) if polarity == "auto" else None
    if weights is not None:
        grey, small = picture.convert("L", weights), reduced.convert("L", weights)
        found = replace(_find(grey, small, "dark-on-light"), hue=weights)
    if found is None or found.looks_wrong:
        found = _find(picture, reduced, polarity)
    if found.marks is not None and not found.refused:
        # Ink at the level becomes one half, paper below half the level 0, a stroke's core 1.
        found.detail = np.clip(_cut_out(found, found.marks) / found.strength - 0.5, 0, 1)
        found.strokes = morphology.adjust_pen(found.detail)
        found.image = form.centre(form.shrink(found.strokes))
    return found


def _find(picture: Image.Image, reduced: Image.Image, polarity: str) -> Candidate:
    """Find the digit; where the plain way fails or surroundings disturb it, in other ways."""
    found = _locate(picture, reduced, polarity)
    is_bitmap = max(picture.size) <= tuning.BITMAP_SIDE
    if not is_bitmap:
        found = _within_sheet(found, polarity)
    if found.marks is None:
        found = _on_two_tones(found)
    if is_bitmap:
        return found
    if on_sheet := _on_spread_sheet(found, picture, reduced, polarity):
        return on_sheet
    if not found.is_doubtful:
        return found
    lines = find_lines(found.ink) if found.looks_wrong else None
    if lines is not None:
        ruled = _mark(found, found.paper, lines)
        found = found if ruled.looks_wrong else ruled
    if found.is_doubtful:
        faint = tuning.NOISE if lines is None else tuning.PALE
        return _of_pale_pen(found, picture, reduced, polarity, faint)
    return found


def _locate(picture: Image.Image, reduced: Image.Image, polarity: str) -> Candidate:
    """Find the digit the plain way: even out the light, estimate the paper, choose marks."""
    light = light_surface(reduced) if max(reduced.size) > tuning.BITMAP_SIDE else None
    if light is not None:
        reduced = divide(reduced, light)
    inverted = polarity == "light-on-dark"
    if polarity == "auto":
        inverted = paper.is_light_on_dark(reduced)
    search = paper.as_dark_ink(reduced, inverted)
    blank = Candidate(picture=picture, light=light, inverted=inverted, search=search)
    return _mark(blank, paper.estimate_paper(search, paper.pen_radius(search)))


def _within_sheet(found: Candidate, polarity: str) -> Candidate:
    """Look again within the edges of a sheet, if something is beside it."""
    box = find_sheet(found.ink > found.levels.weak) if found.levels else None
    if box is None:
        return found
    edges = np.round(np.array(box) * (*found.picture.size, *found.picture.size)).astype(int)
    sheet = found.picture.crop(tuple(edges.tolist()))
    within = _locate(sheet, paper.reduce(sheet, tuning.SEARCH_SIDE), polarity)
    is_better = within.marks is not None or found.is_doubtful
    return replace(within, box=box) if is_better else found


def _on_two_tones(found: Candidate) -> Candidate:
    """Take the brighter of two tones for the paper."""
    sheet = paper.two_tones(found.search)
    other = found if sheet is None else _mark(found, sheet)
    return found if other.marks is None else other


def _on_spread_sheet(
    found: Candidate, picture: Image.Image, reduced: Image.Image, polarity: str
) -> Candidate | None:
    """Find the digit on a bright sheet, or a dark board, with surroundings on several sides."""
    dark = found.search
    is_board = (dark < (int(dark.min()) + int(dark.max())) / 2).mean() > tuning.MOSTLY_DARK
    least = tuning.INVERTED_SHEET if found.inverted else tuning.SHEET
    tries = (
        ("dark-on-light", np.uint8(0), 1, found.inverted or found.is_doubtful),
        ("light-on-dark", np.uint8(255), 3, is_board and not found.inverted),
    )
    for within, negative, num_sides, is_likely in tries:
        if not is_likely or polarity not in ("auto", within):
            continue
        spread = spread_sheet(np.asarray(reduced) ^ negative, num_sides, least)
        if spread is None:
            continue
        other = _locate(picture, Image.fromarray(spread ^ negative), within)
        # A shadow may look like a sheet: pale ink is its edge, a wide pen the shadow itself. So may
        # a bold zero that is cropped: its hole is as wide.
        widest = tuning.WIDEST_PEN if paper.is_crop(reduced) else tuning.BLOT
        is_clear = not other.looks_wrong and other.pen_share < widest
        if is_clear and other.strength > tuning.PALE:
            return other
    return None


def _of_pale_pen(
    found: Candidate, picture: Image.Image, reduced: Image.Image, polarity: str, faint: float
) -> Candidate:
    """Find a thin, pale pen among shadows; refuse doubtful marks that are no digit.

    Weaker marks than `faint` that look wrong are the edge of a shadow, printed lines or noise.
    """
    inverted = polarity == "light-on-dark"
    smooth = reduced.filter(ImageFilter.GaussianBlur(tuning.SMOOTH))
    search = paper.as_dark_ink(smooth, inverted)
    blank = Candidate(picture=picture, inverted=inverted, search=search)
    pale = _mark(blank, paper.pale_paper(search), levels_of=paper.pale_levels)
    is_crop = paper.is_crop(reduced)
    if pale.marks is not None and not pale.is_doubtful:
        # A narrow window leaves pale rims of bold strokes: in a crop, the digit must be large.
        most, least = (tuning.PALEST, tuning.LEAST_SIZE) if is_crop else (tuning.PALE, 0)
        longest = max(int(pale.marks.any(axis).sum()) for axis in (0, 1))
        if pale.strength < most and longest > least * min(pale.marks.shape):
            return pale
    is_faint = found.looks_wrong and found.strength < faint
    if found.marks is not None and not is_crop and (is_faint or found.pen_share > tuning.BLOT):
        found.refused = UnreadableError(Reason.BLANK, "what is on the paper is no digit")
    return found


def _mark(
    blank: Candidate,
    sheet: Floats,
    lines: Floats | None = None,
    levels_of: Callable[[Floats], Levels] = paper.ink_levels,
) -> Candidate:
    """Choose the marks on a paper; return a new candidate, which is refused if there are none."""
    sheet = sheet if lines is None else sheet * (1 - lines)
    strength = paper.ink_strength(blank.search, sheet)
    if lines is not None:
        # Where a line is paler than its strength, the paper is no brighter: that is not its grain.
        strength = np.where(lines > 0, np.maximum(strength, 0), strength)
    ink = np.maximum(strength, 0)
    found = replace(blank, paper=sheet, lines=lines, ink=ink, levels=None, marks=None, refused=None)
    try:
        found.levels = levels_of(strength)
        found.marks = marks.choose_marks(ink, found.levels)
    except UnreadableError as error:
        found.refused = error.with_traceback(None)  # its frames would keep the picture
    return found


def _is_grey(pixels: Bytes) -> bool:
    """Whether all channels of (height, width, channels) are equal."""
    # A plane at a time: a comparison along the short last axis takes ten times as long.
    return all((pixels[..., 0] == pixels[..., other]).all() for other in range(1, pixels.shape[-1]))


def _mnist_like(picture: Image.Image, polarity: str) -> Bytes | None:
    """Return the image if it has MNIST's form already, in one of the polarities allowed.

    It may have a border without ink, as digits of 32 x 32 often have.
    """
    if min(picture.size) < SIDE or max(picture.size) > tuning.MAX_BORDERED_SIDE:
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


def _cut_out(found: Candidate, chosen: Mask) -> Floats:
    """Cut the ink of the chosen marks from the whole picture, longest side DETAIL_SIDE."""
    picture, sheet, light = found.picture, found.paper, found.light
    height, width = chosen.shape
    rows, columns = np.flatnonzero(chosen.any(1)), np.flatnonzero(chosen.any(0))
    # Two pixels round the marks: half-dark edges that the reduced copy did not show.
    box = np.array([columns[0] - 2, rows[0] - 2, columns[-1] + 3, rows[-1] + 3], float)
    box = np.clip(box, 0, [width, height, width, height])
    sides = box[2:] - box[:2]
    size = np.maximum(1, np.round(sides * tuning.DETAIL_SIDE / sides.max())).astype(int)
    scale = np.array([picture.width / width, picture.height / height] * 2)
    cut = picture.resize(size, Image.Resampling.BICUBIC, tuple(box * scale), 2.0)
    near = morphology.running_max(chosen.astype(np.float32), 1)
    if light is not None:
        cut = divide(cut, _resize(light, size, box))
    *channels, mask = (_resize(plane, size, box) for plane in (*sheet, near))
    return paper.ink_strength(paper.as_dark_ink(cut, found.inverted), np.stack(channels)) * mask


def _resize(plane: Floats, size: NDArray[np.int64], box: NDArray[np.float64]) -> Floats:
    image = Image.fromarray(np.ascontiguousarray(plane, np.float32))
    return np.asarray(image.resize(size, Image.Resampling.BILINEAR, tuple(box)))
