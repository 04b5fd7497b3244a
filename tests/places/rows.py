"""Digits as rows of Parquet, written without the package that is under test."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from nanograd.digits.dataset import Mnist

NUM_ROWS = 193


def write_rows(sample: Mnist, file: Path) -> None:
    """Write some test digits as lists of pixels with labels."""
    digits = sample.test.take(slice(0, NUM_ROWS))
    images = pa.FixedSizeListArray.from_arrays(pa.array(digits.images.ravel()), 784)
    pq.write_table(pa.table({"image": images, "label": pa.array(digits.labels)}), file)
