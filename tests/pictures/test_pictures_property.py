from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from nanograd.digits.form import are_mnist_like, centre_of_mass
from nanograd.errors import UnreadableError
from nanograd.pictures.normalise import normalise
from tests.helpers.picture_fuzzer import files, run, target

PICTURES = st.tuples(st.integers(1, 40), st.integers(1, 40)).flatmap(
    lambda shape: st.one_of(arrays(np.uint8, shape), arrays(np.uint8, (*shape, 3)))
)


def test_changed_files_are_read_or_refused_for_a_known_reason():
    changed = list(islice(files(seed=1), 400))

    assert changed[:20] == list(islice(files(seed=1), 20))
    assert {"read", "broken_image", "blank"} <= set(map(target, changed))


@pytest.mark.soak
def test_changed_files_of_ten_minutes_are_read_or_refused():
    assert run(600, seed=2).total() > 10_000


@given(PICTURES)
def test_any_picture_gets_mnists_form_or_is_refused(pixels):
    try:
        image = normalise(Image.fromarray(pixels))
    except UnreadableError as error:
        assert error.reason in {"blank", "low_contrast", "too_many_marks"}
        return

    assert (image.shape, image.dtype) == ((28, 28), np.uint8)
    assert image.max() == 255 or are_mnist_like(image.reshape(1, 784)).all()
    # A wide digit with its ink on one side is moved only as far as the frame allows.
    framed = [image[[0, -1]].any(), image[:, [0, -1]].any()]
    centres = centre_of_mass(image)
    assert all(13 <= place < 15 or edge for place, edge in zip(centres, framed, strict=True))
