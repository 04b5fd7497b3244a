"""The surroundings of a sheet: a binding, a table, a second sheet beside it.

Without this module, dark bands along the border would be the strongest ink of a picture. Almost
nothing of a band is in the middle of the picture, which distinguishes bands from the strokes of a
tightly cropped digit.
"""

import numpy as np

from nanograd.pictures import tuning
from nanograd.pictures.morphology import closing, label_marks, running_max
from nanograd.pictures.paper import otsu
from nanograd.runtime.arrays import Bytes, Ints, Mask

# Left, top, right and bottom edge, as shares of the picture's width or height.
Box = tuple[float, float, float, float]


def find_sheet(
    mask: Mask, edge: float = tuning.EDGE, rings: int = tuning.RINGS, even: float = 0.0
) -> Box | None:
    """Return the box of the sheet without its surroundings; None if it has no surroundings.

    `mask` is (height, width) bool, True where a pixel is darker than paper. Surroundings are dark
    along more than the share `edge` of a side, or are a binding with at least `rings` rings. The
    share `even` of the distances between rings, or more, differs from their median by less than
    UNEVEN.
    """
    sides = [np.rot90(mask, turns) for turns in range(4)]  # row 0 is top, right, bottom, left side
    has_edges = any(side[:3].mean(1).max() > edge for side in sides)
    if not has_edges and not any(
        _are_rings(side[: _start(side)], rings, even).any() for side in sides
    ):
        return None
    labels, count = label_marks(mask)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    height, width = mask.shape
    middle = labels[height // 4 : height - height // 4, width // 4 : width - width // 4]
    inner = np.bincount(middle.ravel(), minlength=count + 1) > tuning.IN_MIDDLE * sizes
    inner[0] = True
    depths = [
        _depth(np.rot90(labels, turns), inner, sizes, edge, rings, even=even) for turns in range(4)
    ]
    if not any(depths):
        return None
    top, right, bottom, left = depths
    return left / width, top / height, 1 - right / width, 1 - bottom / height


def spread_sheet(pixels: Bytes, num_sides: int, least: float) -> Bytes | None:
    """Paint the tone of a bright sheet's edge over darker surroundings; None without a sheet.

    `pixels` is (height, width) or (height, width, 3) uint8. At least `num_sides` sides must have
    surroundings, and the box around the sheet must cover the share `least` of the picture.
    """
    grey = pixels.reshape(*pixels.shape[:2], -1).mean(axis=2)
    bright = grey > otsu(grey.astype(np.uint8))[0]
    labels, count = label_marks(bright)
    if not count:
        return None
    largest = labels == 1 + np.bincount(labels.ravel(), minlength=count + 1)[1:].argmax()
    sides = sorted(side.mean() for side in (bright[0], bright[-1], bright[:, 0], bright[:, -1]))
    # Lines of ruled paper do not join the digits on them to the surroundings.
    closed = closing(largest.view(np.uint8), tuning.RULED) > 0
    outside, _ = label_marks(np.pad(~closed, 1, constant_values=True))
    sheet = (outside != outside[0, 0])[1:-1, 1:-1]  # includes the holes, which are ink
    sheet = running_max((~np.pad(sheet, 1)).view(np.uint8), tuning.RIM)[1:-1, 1:-1] == 0
    rows, columns = np.flatnonzero(sheet.any(1)), np.flatnonzero(sheet.any(0))
    if sides[num_sides - 1] > tuning.BRIGHT or len(rows) * len(columns) < least * sheet.size:
        return None
    solid = sheet.sum() / (len(rows) * len(columns))
    if min(solid, largest[sheet].mean()) < tuning.SOLID:
        return None
    spread = pixels.copy()
    for row in rows:
        first, last = np.flatnonzero(sheet[row])[[0, -1]]
        spread[row, :first], spread[row, last:] = pixels[row, first], pixels[row, last]
    spread[: rows[0]], spread[rows[-1] :] = spread[rows[0]], spread[rows[-1]]
    return spread


def _start(side: Mask) -> int:
    return max(2, round(tuning.RINGS_START * len(side)))


def _are_rings(side: Mask, least: int, even: float) -> Mask:
    """Find the rows that have rings: at least `least` runs of True, see `find_sheet`."""
    starts = side > np.pad(side, ((0, 0), (1, 0)))[:, :-1]
    found = starts.sum(1) >= least
    for row in np.flatnonzero(found):
        steps = np.diff(np.flatnonzero(starts[row]))
        found[row] = (np.abs(steps / np.median(steps) - 1) < tuning.UNEVEN).mean() >= even
    return np.asarray(found, bool)


def _depth(labels: Ints, inner: Mask, sizes: Ints, edge: float, least: int, *, even: float) -> int:
    """Return the number of rows at the top that belong to the surroundings."""
    height, width = labels.shape
    near = np.bincount(labels[:3].max(0), minlength=len(inner)) > edge * width
    edges = (near & ~inner)[labels]
    rings = _are_rings(~inner[labels], least, even)
    rows = np.flatnonzero((edges.mean(1) > tuning.ROW) | rings)
    if not len(rows) or rows[0] >= _start(edges):
        return 0
    gaps = np.flatnonzero(np.diff(rows) > max(2, tuning.GAP * height))
    depth = int(rows[gaps[0]] if len(gaps) else rows[-1]) + 2 + round(0.01 * height)
    lost = np.bincount(labels[:depth].ravel(), minlength=len(inner))
    if depth > tuning.DEEPEST * height or (lost > tuning.LOSS * sizes)[inner][1:].any():
        return 0
    return int(depth)
