from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from nanograd.pictures.morphology import closing, running_max


def _plain(values: NDArray[Any], radius: int) -> NDArray[Any]:
    """The maximum over each window, one window at a time."""
    widest = np.empty_like(values)
    for y, x in np.ndindex(values.shape[-2:]):
        top, left = max(0, y - radius), max(0, x - radius)
        window = values[..., top : y + radius + 1, left : x + radius + 1]
        widest[..., y, x] = window.max(axis=(-2, -1))
    return widest


@pytest.mark.parametrize("radius", [0, 1, 2, 5, 9])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_running_max_equals_the_plain_definition(radius: int, dtype: Any) -> None:
    values = (np.random.default_rng(radius).random((2, 7, 5)) * 200).astype(dtype)

    widest = running_max(values, radius)

    assert widest.dtype == dtype
    assert np.array_equal(widest, _plain(values, radius))


def test_closing_fills_lines_narrower_than_the_window_and_keeps_wider_ones() -> None:
    levels = np.full((20, 30), 200, np.uint8)
    levels[:, 5:8] = 50
    levels[:, 15:22] = 50

    closed = closing(levels, 2)

    assert (closed[:, :15] == 200).all()
    assert np.array_equal(closed[:, 15:], levels[:, 15:])
