"""Any bytes and any pixels give an image in MNIST's form, or are refused for a known reason."""

from collections.abc import Iterator
from itertools import islice
from time import process_time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from nanograd.digits.form import are_mnist_like, centre_of_mass
from nanograd.errors import UnreadableError
from nanograd.pictures.decode import decode
from nanograd.pictures.normalise import normalise
from nanograd.settings.specs import PictureOptions
from tests.helpers.odd_files import BAD, READABLE

PICTURES = st.tuples(st.integers(1, 40), st.integers(1, 40)).flatmap(
    lambda shape: st.one_of(arrays(np.uint8, shape), arrays(np.uint8, (*shape, 3)))
)
NO_DIGIT = {"blank", "low_contrast", "too_many_marks"}
# Values for lengths, sizes and counts in a header.
EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF)


def changed_files(seed: int) -> Iterator[bytes]:
    """Yield files of every format with random changes, half of them in the header, without end."""
    draw = np.random.default_rng(seed)
    originals = [make() for make in READABLE.values()] + [make() for _, make in BAD.values()]
    originals = [data[:200_000] for data in originals if data]
    while True:
        data = bytearray(originals[draw.integers(len(originals))])
        for _ in range(draw.integers(1, 6)):
            other = originals[draw.integers(len(originals))]
            reach = len(data) if draw.random() < 0.5 else min(len(data), 100)
            start = int(draw.integers(reach + 1))
            part = slice(start, min(len(data), start + int(draw.geometric(0.1))))
            size = int(draw.choice([1, 2, 4]))
            extreme = int(draw.choice(EXTREMES)) & (256**size - 1)
            order = "big" if draw.random() < 0.5 else "little"
            changes = (
                (part, draw.bytes(part.stop - start)),
                (part, b""),
                (part, data[part] * int(draw.integers(1, 50))),
                (part, other[part]),
                (slice(start, start + size), extreme.to_bytes(size, order)),
                (slice(start, None), b""),
            )
            where, new = changes[draw.integers(len(changes))]
            data[where] = new
        yield bytes(data)


@pytest.mark.parametrize("number", [400, pytest.param(100_000, marks=pytest.mark.soak)])
def test_changed_files_are_read_or_refused_for_a_known_reason(number):
    outcomes = set[str]()
    for data in islice(changed_files(seed=number), number):
        began = process_time()
        try:
            image = normalise(decode(data, PictureOptions(max_pixels=4_000_000)))
            assert (image.shape, image.dtype, image.max() > 0) == ((28, 28), np.uint8, True)
            outcomes.add("read")
        except UnreadableError as error:
            outcomes.add(error.reason)
        assert process_time() - began < 10

    assert {"read", "broken_image", "blank"} <= outcomes
    assert outcomes <= {"read", "empty", "broken_image", "too_large", *NO_DIGIT}


@given(PICTURES)
def test_any_picture_gets_mnists_form_or_is_refused(pixels):
    try:
        image = normalise(Image.fromarray(pixels))
    except UnreadableError as error:
        assert error.reason in NO_DIGIT
        return

    assert (image.shape, image.dtype) == ((28, 28), np.uint8)
    assert image.max() == 255 or are_mnist_like(image.reshape(1, 784)).all()
    # A wide digit with its ink on one side is moved only as far as the frame allows.
    framed = [image[[0, -1]].any(), image[:, [0, -1]].any()]
    centres = centre_of_mass(image)
    assert all(13 <= place < 15 or edge for place, edge in zip(centres, framed, strict=True))
