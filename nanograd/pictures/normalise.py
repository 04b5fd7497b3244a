"""Conversion of any picture of one handwritten digit to the 28 x 28 form of MNIST.

The digit is found in a reduced copy, and is then cut from the whole picture at a fixed size, so
that pen and noise have the same scale in every picture. Several methods each make a candidate: a
bright sheet or a dark board with surroundings, the plain method, ruled paper, a pale pen. The first
candidate with a score of CLEAR is used, otherwise the one with the highest score.

References:
    LeCun et al. (1998), "Gradient-based learning applied to document recognition", III.A.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
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

Weights: TypeAlias = tuple[float, float, float, float]  # weights of red, green, blue and 1

_NOT_YET: Any = None
# Scores of a candidate.
NOTHING, WIDE, CLEAR = range(3)


@dataclass(frozen=True, kw_only=True)
class Search:
    """What to look for in a picture, and how."""

    polarity: str = "auto"  # or `dark-on-light`, `light-on-dark`
    side: int = tuning.SEARCH_SIDE  # longest side of the reduced copy in pixels
    # Share of a side, or number of rings, that surroundings of a sheet have at least. None does not
    # cut them off.
    sheet: tuple[float, int, float] | None = (tuning.EDGE, tuning.RINGS, 0.0)
    share: float = tuning.LEAST_SHARE  # minimum share of the pixels that is ink
    hue: float = tuning.HUE  # minimum difference of hue between ink and a coloured sheet
    spread: bool = False  # whether a bright sheet takes precedence, also with pale ink
    surroundings: bool = True  # whether a sheet's tone may be painted over its surroundings
    weaker: bool = False  # whether marks that are weaker than others are ink, too
    choose: Callable[[Floats, Levels], Mask] = marks.choose_marks  # the pixels to read


@dataclass(kw_only=True)
class Candidate:
    """The result of one method to find the digit, step by step; a step that was skipped has None.

    H x W is the size of the reduced copy of the picture, and h x w the size of the digit that is
    cut out. For a picture in MNIST's form, only `image` is set. All Floats are float32.
    """

    picture: Image.Image = _NOT_YET  # mode L or RGB; the digit is cut from it
    box: Box | None = None  # the sheet in the picture, if it has surroundings; H x W is its copy
    hue: Weights | None = None  # weights that make ink dark on a coloured sheet
    light: Floats | None = None  # (H, W), 0 to 1, the light on the paper; None if it is even
    lines: Floats | None = None  # (H, W), 0 to 1, the share of light that printed lines absorb
    how: Search = Search()
    search: Bytes = _NOT_YET  # (channels, H, W) uint8, the reduced copy, ink darker than paper
    inverted: bool = False  # whether the picture's ink is lighter than its paper
    paper: Floats = _NOT_YET  # (channels, H, W), 0 to 255, the paper without ink
    ink: Floats = _NOT_YET  # (H, W), 0 to 1, the share of light that the ink absorbs
    levels: Levels | None = None  # the strengths above which a pixel is ink
    marks: Mask | None = None  # (H, W) bool, the pixels of the digit
    spread: bool = False  # whether a sheet's tone was painted over its surroundings
    widest: float = tuning.WIDEST_PEN  # maximum pen width / longest side for the score CLEAR
    detail: Floats | None = None  # (h, w), 0 to 1, the digit cut from the whole picture
    strokes: Floats | None = None  # (h + 16, w + 16), 0 to 1, `detail` with MNIST's pen width
    image: Bytes = _NOT_YET  # (28, 28) uint8, ink 255 on 0
    refused: UnreadableError | None = None  # why there is no image

    @property
    def score(self) -> int:
        """NOTHING if there are no marks or they touch several sides; else WIDE or CLEAR strokes."""
        if self.marks is None:
            return NOTHING
        sides = (self.marks[0], self.marks[-1], self.marks[:, 0], self.marks[:, -1])
        if sum(bool(side.any()) for side in sides) > 1:
            return NOTHING
        return WIDE if self.pen_share > self.widest else CLEAR

    @cached_property
    def pen_share(self) -> float:
        """Pen width / longest side of the marks; 0 without marks."""
        if self.marks is None:
            return 0.0
        rows, columns = (np.flatnonzero(self.marks.any(axis)) for axis in (1, 0))
        box = self.marks[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        return float(morphology.pen_width(np.pad(box, 1).astype(np.float32)) / max(box.shape))

    @property
    def strength(self) -> float:
        """The strength above which a pixel is ink, 0 to 1; 0 if it is unknown."""
        return self.levels.strong if self.levels else 0.0


def normalise(picture: Image.Image, *, polarity: str = "auto", always: bool = False) -> Bytes:
    """Convert the digit in a picture to the form of MNIST, (28, 28) uint8, ink 255 on 0.

    The picture has any size and is upright (see `decode`). If it is in MNIST's form and not
    `always`, it is returned unchanged, or inverted if its paper is light.

    Raises:
        UnreadableError: `blank`, `low_contrast` or `too_many_marks`.
    """
    found = trace(picture, polarity=polarity, always=always)
    if found.refused:
        # Raise a new error. Its traceback refers to this frame, so `found.refused` would form a
        # reference cycle that keeps the pictures in memory.
        raise UnreadableError(found.refused.reason, found.refused.detail)
    return found.image


def trace(picture: Image.Image, *, polarity: str = "auto", always: bool = False) -> Candidate:
    """Normalise a picture as `normalise` does; return the chosen candidate with all its steps."""
    picture = picture if picture.mode in ("L", "RGB") else picture.convert("RGB")
    ready = None if always else _mnist_like(picture, polarity)
    if ready is not None:
        return Candidate(image=ready)
    found = find(picture, Search(polarity=polarity))
    if found.marks is not None and not found.refused:
        found.detail = cut_out(found, found.marks)
        found.strokes = morphology.adjust_pen(found.detail)
        found.image = form.centre(form.shrink(found.strokes))
    return found


def find(picture: Image.Image, how: Search) -> Candidate:
    """Find marks in a picture, mode L or RGB, without cutting them out."""
    reduced = paper.reduce(picture, how.side)
    if picture.mode == "RGB" and _is_grey(reduced):
        picture, reduced = picture.convert("L"), reduced.convert("L")  # same result as for mode L
    found = None
    weights = by_hue(reduced, how.hue) if how.polarity == "auto" else None
    if weights is not None:
        grey, small = picture.convert("L", weights), reduced.convert("L", weights)
        found = replace(_find(grey, small, replace(how, polarity="dark-on-light")), hue=weights)
    if found is None or found.score == NOTHING:
        found = _find(picture, reduced, how)
    return found


def _find(picture: Image.Image, reduced: Image.Image, how: Search) -> Candidate:
    """Return the first candidate with a score of CLEAR, otherwise the one with the highest score.

    The latter is refused if its marks are fainter than noise or wider than a pen.
    """
    plain = _locate(picture, reduced, how)
    is_bitmap = max(picture.size) <= tuning.BITMAP_SIDE
    if plain.levels and not is_bitmap and how.sheet:
        box = find_sheet(plain.ink > plain.levels.weak, *how.sheet)
        if box is not None:
            edges = np.round(np.array(box) * (*picture.size, *picture.size)).astype(int)
            sheet = picture.crop(tuple(edges.tolist()))
            within = _locate(sheet, paper.reduce(sheet, how.side), how)
            if within.marks is not None or plain.score < CLEAR:
                plain = replace(within, box=box)
    if plain.marks is None and (brighter := paper.two_tones(plain.search)) is not None:
        two_tones = mark(plain, brighter)
        plain = plain if two_tones.marks is None else two_tones
    if is_bitmap:
        return plain
    doubtful = []
    for found in _candidates(plain, picture, reduced, how):
        if found.score == CLEAR:
            return found
        doubtful.append(found)
    best = max(doubtful, key=lambda found: found.score)
    # Faint marks from side to side are noise, the edge of a shadow, or printed lines.
    faint = tuning.NOISE if all(found.lines is None for found in doubtful) else tuning.PALE
    is_faint = best.score == NOTHING and best.strength < faint
    is_no_digit = best.marks is not None and (is_faint or best.pen_share > tuning.BLOT)
    if is_no_digit and not paper.is_crop(reduced):
        best.refused = UnreadableError(Reason.BLANK, "what is on the paper is no digit")
    return best


def _candidates(
    plain: Candidate, picture: Image.Image, reduced: Image.Image, how: Search
) -> Iterator[Candidate]:
    """Yield candidates. Each is computed only if the caller did not accept an earlier one."""
    # Candidate: a bright sheet, or a dark board, with surroundings.
    dark = plain.search
    is_board = (dark < (int(dark.min()) + int(dark.max())) / 2).mean() > tuning.MOSTLY_DARK
    least = tuning.INVERTED_SHEET if plain.inverted else tuning.SHEET
    for ink, negative, num_sides, is_likely in (
        ("dark-on-light", np.uint8(0), 1, how.spread or plain.inverted or plain.score < CLEAR),
        ("light-on-dark", np.uint8(255), 3, is_board and not plain.inverted),
    ):
        if not is_likely or how.polarity not in ("auto", ink) or not how.surroundings:
            continue
        spread = spread_sheet(np.asarray(reduced) ^ negative, num_sides, least)
        if spread is None:
            continue
        # A shadow may look like a sheet. Its edge is then pale ink, and the shadow itself a wide
        # pen. The hole of a bold, cropped zero may look like a sheet, too.
        widest = tuning.WIDEST_PEN if paper.is_crop(reduced) else tuning.BLOT
        found = _locate(picture, Image.fromarray(spread ^ negative), replace(how, polarity=ink))
        sheet = _without_lines(replace(found, widest=widest, spread=True))
        if sheet.score == CLEAR and (how.spread or sheet.strength > tuning.PALE):
            yield sheet
    yield plain
    if (ruled := _without_lines(plain)) is not plain:
        yield ruled
    # Candidate: a thin, pale pen among shadows.
    inverted = how.polarity == "light-on-dark"
    search = paper.as_dark_ink(reduced.filter(ImageFilter.GaussianBlur(tuning.SMOOTH)), inverted)
    blank = Candidate(picture=picture, how=how, inverted=inverted, search=search)
    pale = mark(blank, paper.pale_paper(search), is_pale=True)
    if pale.marks is not None and pale.score == CLEAR:
        # With a narrow window, bold strokes leave pale rims, so in a crop the digit must be large.
        is_crop = paper.is_crop(reduced)
        most, least = (tuning.PALEST, tuning.LEAST_SIZE) if is_crop else (tuning.PALE, 0)
        longest = max(int(pale.marks.any(axis).sum()) for axis in (0, 1))
        if pale.strength < most and longest > least * min(pale.marks.shape):
            yield pale


def _without_lines(found: Candidate) -> Candidate:
    """Count printed lines as paper if a candidate has no marks or they touch several sides."""
    lines = find_lines(found.ink) if found.score == NOTHING else None
    return found if lines is None else mark(found, found.paper, lines)


def _locate(picture: Image.Image, reduced: Image.Image, how: Search) -> Candidate:
    """Find the digit by the plain method: even out the light, estimate the paper, choose marks."""
    light = light_surface(reduced) if max(reduced.size) > tuning.BITMAP_SIDE else None
    if light is not None:
        reduced = divide(reduced, light)
    inverted = how.polarity == "light-on-dark"
    if how.polarity == "auto":
        inverted = paper.is_light_on_dark(reduced)
    search = paper.as_dark_ink(reduced, inverted)
    blank = Candidate(picture=picture, how=how, light=light, inverted=inverted, search=search)
    return mark(blank, paper.estimate_paper(search, paper.pen_radius(search)))


def mark(
    blank: Candidate, sheet: Floats, lines: Floats | None = None, *, is_pale: bool = False
) -> Candidate:
    """Choose the marks on `sheet`; return a new candidate, refused if there is no digit.

    Where printed lines are black, nothing is ink.
    """
    sheet = sheet if lines is None else sheet * (1 - np.minimum(lines, tuning.MOST_LINE))
    strength = paper.ink_strength(blank.search, sheet)
    if lines is not None:
        # On a line, pixels that are brighter than `sheet` are paler parts of the line, not grain.
        strength = np.where(lines > 0, np.maximum(strength, 0), strength)
        strength = np.where(lines > tuning.MOST_LINE, 0, strength)
    ink = np.maximum(strength, 0)
    found = replace(blank, paper=sheet, lines=lines, ink=ink, levels=None, marks=None, refused=None)
    try:
        if is_pale:
            found.levels = paper.pale_levels(strength)
        else:
            found.levels = paper.ink_levels(strength, found.how.share, weaker=found.how.weaker)
        found.marks = found.how.choose(ink, found.levels)
    except UnreadableError as error:
        found.refused = error.with_traceback(None)  # the traceback would keep the picture in memory
    return found


def _is_grey(picture: Image.Image) -> bool:
    """Return whether all channels are equal."""
    return len({channel.tobytes() for channel in picture.split()}) == 1


def _mnist_like(picture: Image.Image, polarity: str) -> Bytes | None:
    """Return the image of a picture in MNIST's form, as light ink; None for others.

    An empty border is cut off, for example of digits stored as 32 x 32. None also if the ink
    contradicts `polarity`.
    """
    width, height = picture.size
    if min(width, height) < SIDE or max(width, height) > tuning.MAX_BORDERED_SIDE:
        return None
    if not _is_grey(picture):
        return None
    pixels, top, left = np.asarray(picture.getchannel(0)), (height - SIDE) // 2, (width - SIDE) // 2
    for other, sheet in (("dark-on-light", 0), ("light-on-dark", 255)):
        ink = pixels ^ np.uint8(sheet)
        image = ink[top : top + SIDE, left : left + SIDE].copy()
        is_bordered = np.count_nonzero(ink) == np.count_nonzero(image)
        if polarity != other and is_bordered and form.are_mnist_like(image.reshape(1, -1)).all():
            return image
    return None


def cut_out(found: Candidate, chosen: Mask, scale: float = 0) -> Floats:
    """Copy the ink of the chosen marks out of the whole picture, with a margin.

    Marks are found in a reduced copy of the picture. `chosen` is (H, W), True for the pixels of
    this copy that are in the marks, and the margin is two of these pixels. Each of these pixels
    becomes `scale` x `scale` pixels of the result; by default, its longest side is DETAIL_SIDE.

    The result grows with the strength of the ink: it is 0.5 at the threshold between paper and ink,
    0 at half the threshold or below, and 1 at 1.5 times the threshold or above.
    """
    picture, sheet, light = found.picture, found.paper, found.light
    height, width = chosen.shape
    rows, columns = np.flatnonzero(chosen.any(1)), np.flatnonzero(chosen.any(0))
    # The pixels around the marks have their soft edges, which the reduced copy does not show.
    box = np.array([columns[0] - 2, rows[0] - 2, columns[-1] + 3, rows[-1] + 3], float)
    box = np.clip(box, 0, [width, height, width, height])
    sides = box[2:] - box[:2]
    scale = scale or tuning.DETAIL_SIDE / sides.max()
    size = np.maximum(1, np.round(sides * scale)).astype(int)
    ratio = np.array([picture.width / width, picture.height / height] * 2)
    cut = picture.resize(size, Image.Resampling.BICUBIC, tuple(box * ratio), 2.0)

    # Copy only the part around the marks: a line may be a small part of a page.
    reach = 2 + np.ceil((sides / size).max())
    left, top = np.maximum(box[:2] - reach, 0).astype(int)
    right, bottom = (box[2:] + reach).astype(int)
    part, inner = np.s_[top:bottom, left:right], tuple(box - [left, top, left, top])

    def resized(plane: Floats) -> Floats:
        image = Image.fromarray(np.ascontiguousarray(plane, np.float32))
        return np.asarray(image.resize(size, Image.Resampling.BILINEAR, inner))

    if light is not None:
        cut = divide(cut, resized(light[part]))
    mask = resized(morphology.running_max(chosen[part].astype(np.float32), 1))
    whole = np.stack([resized(each[part]) for each in sheet])
    pixels = paper.as_dark_ink(cut, found.inverted)
    return np.clip(paper.ink_strength(pixels, whole) * mask / found.strength - 0.5, 0, 1)
