from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from nanograd.pictures.morphology import closing, pen_width, running_max


def maximum(values: NDArray[Any], radius: int) -> NDArray[Any]:
    """The definition, one window at a time."""
    widest = np.empty_like(values)
    for y, x in np.ndindex(values.shape[-2:]):
        top, left = max(0, y - radius), max(0, x - radius)
        window = values[..., top : y + radius + 1, left : x + radius + 1]
        widest[..., y, x] = window.max(axis=(-2, -1))
    return widest


@pytest.mark.parametrize("radius", [0, 1, 2, 5, 9])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_running_max_equals_the_definition(radius: int, dtype: Any) -> None:
    values = (np.random.default_rng(radius).random((2, 7, 5)) * 200).astype(dtype)

    widest = running_max(values, radius)

    assert widest.dtype == dtype
    assert np.array_equal(widest, maximum(values, radius))


def test_closing_fills_lines_narrower_than_the_window_and_keeps_wider_ones() -> None:
    levels = np.full((20, 30), 200, np.uint8)
    levels[:, 5:8] = 50
    levels[:, 15:22] = 50

    closed = closing(levels, 2)

    assert (closed[:, :15] == 200).all()
    assert np.array_equal(closed[:, 15:], levels[:, 15:])


@pytest.mark.parametrize("width", [2, 5, 11])
def test_pen_width_of_a_bar_is_its_width(width: int) -> None:
    ink = np.zeros((70, 40), np.float32)
    ink[5:65, 10 : 10 + width] = 1

    assert pen_width(ink) == pytest.approx(width, rel=0.05)
