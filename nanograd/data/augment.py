"""Distortions of training images, drawn afresh for every image and epoch.

All randomness comes from the generator that is passed in, which belongs to one shard and round:
the same images come out whoever computes them.
"""

import numpy as np
from numpy.random import Philox
from numpy.typing import NDArray

SIDE = 28


def shift(images: NDArray[np.uint8], most: int, generator: Philox) -> NDArray[np.uint8]:
    """Move each image by up to `most` whole pixels each way, zeros coming in.

    Args:
        images: (B, 784) uint8.
        most: >= 0, in pixels; the same chance for each of -most ... most, down and right apart.
        generator: source of the draws.

    Returns:
        (B, 784) uint8.

    References:
        Simard, Steinkraus & Platt (2003), "Best practices for convolutional neural networks
        applied to visual document analysis", section 2 (translations).
    """
    batch = images.reshape(-1, SIDE, SIDE)
    draws = generator.random_raw(2 * len(batch)).reshape(2, -1, 1, 1) % np.uint64(2 * most + 1)
    down, right = draws.astype(np.intp)
    padded = np.pad(batch, ((0, 0), (most, most), (most, most)))
    pixel = np.arange(SIDE)
    image = np.arange(len(batch))[:, None, None]
    moved: NDArray[np.uint8] = padded[image, down + pixel[:, None], right + pixel]
    return moved.reshape(images.shape)
