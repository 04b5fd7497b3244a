import numpy as np
import pytest
from numpy.typing import NDArray

from nanograd.pictures.paper import ink_levels, otsu


def test_otsu_takes_the_middle_between_two_far_tones() -> None:
    tones = np.array([51] * 90 + [204] * 10, np.uint8)

    threshold, separation = otsu(tones)

    assert threshold == pytest.approx(127.5, abs=1)
    assert separation > 0.9


def marked(digit: float, *, across: float) -> NDArray[np.float32]:
    """Ink of a square digit near the top, and of a band from side to side at the bottom."""
    ink = np.zeros((200, 200), np.float32)
    ink[10:80, 60:80] = digit
    ink[188:194] = across
    return ink


def test_pale_digit_is_ink_beside_a_dark_edge() -> None:
    assert ink_levels(marked(0.4, across=0.9)).strong < 0.4


def test_pale_line_below_a_dark_digit_is_not_ink() -> None:
    assert 0.4 < ink_levels(marked(0.9, across=0.4)).strong < 0.9
