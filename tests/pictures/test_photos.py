import numpy as np
import pytest
from scipy import ndimage

from nanograd.digits.dataset import Mnist
from nanograd.pictures.morphology import label_marks
from simulators.photos import centre_line, photograph, thinned
from simulators.scenes import KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_photo_follows_from_its_digit_kind_and_seed(kind: str, sample: Mnist) -> None:
    one, other = (image.reshape(28, 28) for image in sample.test.images[:2])

    photo = photograph(one, kind, 7)

    assert photograph(one, kind, 7) == photo
    assert photograph(one, kind, 8) != photo
    assert photograph(other, kind, 7) != photo


def test_thinned_strokes_are_lines_one_pixel_wide() -> None:
    mask = np.zeros((30, 40), bool)
    mask[5:12, 4:36] = mask[5:28, 20:27] = True

    line = thinned(mask)

    assert line.sum() < 80
    assert (line & ~mask).sum() == 0
    windows = np.lib.stride_tricks.sliding_window_view(line, (3, 3)).all((2, 3))
    assert not windows.any()


def test_finer_pen_opens_a_filled_loop_and_adds_none_to_a_crossing() -> None:
    rows, columns = np.mgrid[:80, :80]
    stroke = (np.abs(columns - 40) <= 4) & (rows > 5) & (rows < 60)
    disc = (rows - 55) ** 2 + (columns - 40) ** 2 <= 15**2
    bar = (np.abs(rows - 30) <= 4) & (np.abs(columns - 40) < 30)

    loop, cross = centre_line(stroke | disc), centre_line(stroke | bar)

    assert [label_marks(line)[1] for line in (loop, cross)] == [1, 1]
    assert [ndimage.label(~line)[1] for line in (loop, cross)] == [2, 1]  # with what is within
