"""A fuzz target: bytes, decoder, normaliser.

Files of every format are changed at random (bytes flipped, cut out, doubled, swapped with another
file's, numbers set to their extremes) and must soon give a 28 x 28 image or an `UnreadableError`
with a documented reason.
"""

from collections import Counter
from collections.abc import Iterator
from time import process_time

import numpy as np
from numpy.random import Generator

from nanograd.errors import Reason, UnreadableError
from nanograd.pictures.decode import decode
from nanograd.pictures.normalise import normalise
from nanograd.settings.specs import PictureOptions
from tests.helpers.odd_files import BAD, READABLE

REASONS = {
    *(Reason.EMPTY, Reason.BROKEN_IMAGE, Reason.TOO_LARGE),
    *(Reason.BLANK, Reason.LOW_CONTRAST, Reason.TOO_MANY_MARKS),
}
# Limits that hold for a picture with a false size, too.
_MAX_PIXELS, _LONGEST_S = 4_000_000, 10.0
# Values for lengths, sizes and counts in a header.
_EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF)


def target(data: bytes) -> str:
    """Read a picture; return `read` or the reason of its refusal."""
    began = process_time()
    try:
        picture = decode(data, PictureOptions(max_pixels=_MAX_PIXELS))
        image = normalise(picture)
        assert (image.shape, image.dtype, image.max() > 0) == ((28, 28), np.uint8, True)
        outcome = "read"
    except UnreadableError as error:
        assert error.reason in REASONS
        outcome = error.reason
    assert process_time() - began < _LONGEST_S
    return outcome


def files(seed: int) -> Iterator[bytes]:
    """Yield changed files without end; they follow from the seed."""
    draw = np.random.default_rng(seed)
    originals = [make() for make in READABLE.values()] + [make() for _, make in BAD.values()]
    originals = [data[:200_000] for data in originals if data]
    while True:
        data = bytearray(originals[draw.integers(len(originals))])
        for _ in range(draw.integers(1, 6)):
            other = originals[draw.integers(len(originals))]
            data = change(data, other, draw)
        yield bytes(data)


def change(data: bytearray, other: bytes, draw: Generator) -> bytearray:
    # Half of all changes are made in the header, where a few bytes have most effect.
    reach = len(data) if draw.random() < 0.5 else min(len(data), 100)
    start = int(draw.integers(reach + 1))
    end = min(len(data), start + int(draw.geometric(0.1)))
    kind = draw.integers(6)
    if kind == 0:
        data[start:end] = draw.bytes(end - start)
    elif kind == 1:
        del data[start:end]
    elif kind == 2:
        data[start:start] = data[start:end] * int(draw.integers(1, 50))
    elif kind == 3:
        data[start:end] = other[start:end]
    elif kind == 4:
        size = int(draw.choice([1, 2, 4]))
        value = int(draw.choice(_EXTREMES)) & (256**size - 1)
        data[start : start + size] = value.to_bytes(
            size, "big" if draw.random() < 0.5 else "little"
        )
    else:
        del data[start:]
    return data


def run(seconds: float, seed: int) -> Counter[str]:
    """Feed the target for some seconds; return counts of its outcomes."""
    end, outcomes = process_time() + seconds, Counter[str]()
    for data in files(seed):
        if process_time() > end:
            break
        outcomes[target(data)] += 1
    return outcomes
