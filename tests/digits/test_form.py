import numpy as np
from numpy.typing import NDArray

from nanograd.digits.form import are_mnist_like, centre_of_mass


def is_mnist_like(image: NDArray[np.uint8]) -> bool:
    """The definition, for one image at a time."""

    def longest_side(ink: NDArray[np.bool_]) -> int:
        rows, columns = np.flatnonzero(ink.any(1)), np.flatnonzero(ink.any(0))
        return int(max(rows[-1] - rows[0], columns[-1] - columns[0])) + 1

    if image.max() < 240 or longest_side(image >= 16) < 19 or longest_side(image >= 40) > 20:
        return False
    y, x = centre_of_mass(np.where(image < 16, np.uint8(0), image))
    return min(y, x) >= 13.4 and max(y, x) < 14.6


def test_form_of_many_images_is_the_form_of_each(sample):
    digits = sample.test.images[:193]
    shifted = [np.roll(digits.reshape(-1, 28, 28), n, axis=n % 2 + 1) for n in range(1, 5)]
    faint = (digits * np.linspace(0.8, 1, 193)[:, None]).astype(np.uint8)
    edges = np.where(digits > 0, digits, np.uint8(15))
    noise = np.random.default_rng(7).integers(0, 256, (193, 784), np.uint8)
    images = np.concatenate([digits, *(s.reshape(-1, 784) for s in shifted), faint, edges, noise])

    many = are_mnist_like(images)
    blank = are_mnist_like(np.zeros((2, 784), np.uint8))

    assert many.tolist() == [is_mnist_like(image.reshape(28, 28)) for image in images]
    assert 200 < many.sum() < len(many)
    assert (blank.tolist(), are_mnist_like(images[:0]).tolist()) == ([False, False], [])
    skewed = np.zeros((7, 9), np.uint8)
    skewed[2, 5] = skewed[4, 6] = 200
    assert centre_of_mass(skewed) == (3.0, 5.5)
