"""Seams against shortest paths in the graph of the pixels."""

import numpy as np
import pytest
from scipy.sparse import lil_matrix
from scipy.sparse.csgraph import dijkstra

from nanograd.numbers import seams
from nanograd.numbers.seams import find_seams


@pytest.mark.parametrize("seed", range(8))
def test_sweep_finds_the_shortest_paths_and_their_origins(seed: int) -> None:
    draw = np.random.default_rng(seed)
    height, width = draw.integers(2, 7, 2).tolist()
    price = np.where(draw.random((height, width)) < 0.5, draw.random((height, width)), 0)
    other = draw.random((height, width))
    # From a pixel, a path enters the pixel below or beside it, and pays for the pixel it enters.
    graph = lil_matrix((height * width + 1, height * width + 1))
    dear = seams.SIDEWAYS * price + seams.STEP
    for y, x in np.ndindex(height, width):
        here = y * width + x
        if y == 0:
            graph[height * width, here] = price[y, x] + 1e-12  # zero would mean no edge
        else:
            graph[here - width, here] = price[y, x] + 1e-12
        if x + 1 < width:
            graph[here, here + 1] = dear[y, x + 1]
            graph[here + 1, here] = dear[y, x]
    expected = dijkstra(graph.tocsr(), indices=height * width)[:-1].reshape(height, width)

    (costs, _), (origins, _) = seams.sweep(np.stack([price, other]).astype(np.float32))

    assert costs == pytest.approx(expected, abs=1e-5)
    assert ((origins >= 0) & (origins < width)).all()


def test_paths_in_a_line_of_more_than_32767_columns_enter_the_row_in_place() -> None:
    price = np.ones((1, 2, 40_000), np.float32)
    price[0, 0] = 1000
    price[0, 0, -1] = 0

    _, origins = seams.sweep(price)

    assert origins[0, 1, -9:].tolist() == [39_999] * 9


def test_seams_of_two_bars_divide_them_and_only_them() -> None:
    ink = np.zeros((56, 60), np.float32)
    ink[8:48, 10:14] = ink[8:48, 40:44] = 1

    found = find_seams(ink, 4.0)

    assert len(found.last) == 3
    assert (found.last[1] >= 13).all()
    assert (found.last[1] < 40).all()
    assert found.cost[1] == pytest.approx(0, abs=1)


def test_seam_follows_the_gap_between_interlocked_strokes() -> None:
    ink = np.zeros((56, 60), np.float32)
    ink[8:28, 10:14] = ink[24:28, 10:34] = 1  # an L whose foot lies below
    ink[8:48, 46:50] = ink[12:16, 22:50] = 1  # the arm of the right stroke lies above it

    found = find_seams(ink, 4.0)

    divided = [
        left[8:28, 10:14].all() and left[24:28, 10:34].all() and not left[12:16, 22:50].any()
        for left in np.arange(60) <= found.last[1:-1, :, None]
    ]
    assert any(divided)
