"""Cuts between the digits of a line, as seams: paths of little ink from the top to the bottom.

A seam may go sideways along a row, so it can follow the gap between slanted or interlocked digits.
The cost of a path grows with the ink that it crosses. Two sweeps of dynamic programming, from the
top and from the bottom, find for each pixel the cheapest path through it. In five rows at
equal distances, a pixel gives a seam if its path is cheaper than the paths of the pixels beside it.
If several seams are at nearly the same place, one is kept.

References:
    Avidan & Shamir (2007), "Seam carving for content-aware image resizing", section 3.
    Casey & Lecolinet (1996), "A survey of methods and strategies in character segmentation",
    section IV.
"""

from dataclasses import dataclass

import numpy as np

from nanograd.runtime.arrays import Floats, Ints

# Height of the digits of a line in pixels. Ink above FAINT belongs to a digit, ink above STRONG to
# its box.
LINE, FAINT, STRONG = 40, 0.12, 0.35
# A path pays ink ** POWER for a pixel, so that only full ink is dear. A step sideways costs
# SIDEWAYS times as much, and STEP more.
POWER, SIDEWAYS, STEP = 8, 4.0, 0.2
# Maximum cost of a seam: this many pens, and pixels.
MOST_PENS, MOST_PIXELS = 2.6, 14.0
# The rows in which seams are looked for, as shares of the line's height.
HEIGHTS = (0.5, 0.25, 0.75, 0.38, 0.62)
# Seams are copies if less ink than this is between them, in squares of the pen. A seam also needs
# this much ink on both sides.
COPY, LEAST = 0.6, 0.5
# Maximum number of seams of a line: a few, and more for each pixel of its width.
FEW, DENSITY = 8, 0.16 * LINE


@dataclass(frozen=True)
class Seams:
    """N possible cuts, ordered by the ink to their left. The first and last are the line's ends."""

    last: Ints  # (N, height), the last column to the left of the seam, -1 to width
    cost: Floats  # (N,) cost of the path, 0 for the ends


def find_seams(ink: Floats, pen: float) -> Seams:
    """Find the seams of a line, (height, width) float32, 0 to 1, with strokes of `pen` pixels."""
    height, width = ink.shape
    price = np.where(ink > FAINT, ink**POWER, np.float32(0))
    (down, up), (from_above, from_below) = sweep(np.stack([price, price[::-1]]))
    up, from_below = up[::-1], from_below[::-1]
    rows = np.flatnonzero((ink > STRONG).any(1))
    middles = (rows[0] + np.array(HEIGHTS) * (rows[-1] - rows[0])).astype(int)
    totals = down[middles] + up[middles] - price[middles]
    nearby = np.minimum.reduce([np.roll(totals, shift, 1) for shift in (-2, -1, 1, 2)])
    is_least = (totals <= nearby + 1e-9) & (totals < MOST_PENS * pen + MOST_PIXELS)
    is_least[:, 1:] &= ~is_least[:, :-1]  # in a gap, many paths have one cost
    which, column = np.nonzero(is_least)
    cost, start = totals[is_least], middles[which]
    path = np.repeat(column[None], height, 0)  # (height, seams)
    for y in range(start.max(initial=0), 0, -1):
        path[y - 1] = np.where(start >= y, from_above[y, path[y]], column)
    for y in range(start.min(initial=height), height - 1):
        path[y + 1] = np.where(start <= y, from_below[y, path[y]], path[y + 1])
    path = path.T
    order = np.lexsort((path.sum(1), cost))
    cost, path = cost[order], path[order]
    left = price.cumsum(1)[np.arange(height), path]  # ink to the left in each row
    mass, whole, square = left.sum(1), price.sum(), pen * pen
    _, distinct = np.unique(np.round(cost + 1j * mass, 6), return_index=True)
    distinct.sort()
    inside = (mass >= LEAST * square) & (mass <= whole - LEAST * square)
    kept: list[int] = []
    for each in distinct[inside[distinct]].tolist():
        if len(kept) > FEW + width / DENSITY:
            break
        if not kept or np.abs(left[kept] - left[each]).sum(1).min() >= COPY * square:
            kept.append(each)
    kept.sort(key=lambda each: mass[each])
    ends = np.full(height, -1), np.full(height, width)
    return Seams(
        np.stack([ends[0], *path[kept], ends[1]]), np.concatenate([[0.0], cost[kept], [0.0]])
    )


def sweep(price: Floats) -> tuple[Floats, Ints]:
    """Compute the cost of the cheapest path from the first row to each pixel of N lines.

    Args:
        price: (N, height, width) float32, cost of each pixel.

    Returns:
        (N, height, width) costs, and the column from which each path enters its row.
    """
    dear = SIDEWAYS * price + STEP
    right = dear.cumsum(2)  # cost of the way along a row from its start, including a pixel
    # Of the lines, then of their mirror images: less the cost of the way from the start of a row.
    # From the left, the path to x costs min over x' <= x of entered(x') + way(x') - way(x).
    # The rows come first here, because each row needs the costs of the one before.
    way = np.concatenate([-right, (right - dear)[..., ::-1]]).swapaxes(0, 1).copy()
    entry = np.concatenate([price, price[..., ::-1]]).swapaxes(0, 1) + way
    count, width = len(price), price.shape[2]
    mirrored = np.roll(np.arange(2 * count), count)
    values, leasts, costs = np.empty((3, *way.shape), np.float32)
    above = np.zeros_like(way[0])
    for y in range(len(way)):
        np.add(above, entry[y], out=values[y])
        np.minimum.accumulate(values[y], 1, out=leasts[y])
        least = leasts[y] - way[y]
        costs[y] = above = np.minimum(least, least[mirrored, ::-1])
    columns = np.arange(width, dtype=np.min_scalar_type(-width))
    origins = np.maximum.accumulate(np.where(values == leasts, columns, columns[:1]), 2)
    leasts -= way
    is_back = leasts[:, count:, ::-1] < leasts[:, :count]
    origins = np.where(is_back, width - 1 - origins[:, count:, ::-1], origins[:, :count])
    return costs[:, :count].swapaxes(0, 1), origins.swapaxes(0, 1)
