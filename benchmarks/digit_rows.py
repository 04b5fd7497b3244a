"""Folders of Parquet files with MNIST's images, repeated to any number of rows."""

import os
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from nanograd.data.dataset import Dataset

Images = NDArray[np.uint8]


def write_rows(folder: Path, images: Dataset, form: str, number: int, files: int) -> None:
    """Write rows of repeated images, in files of equal size.

    Files with the same rows are hard links, which saves disk and time and does not affect readers.

    Args:
        folder: created here.
        images: of MNIST, with their labels.
        form: png or raw.
        number: number of rows, a multiple of `files`.
        files: number of files.
    """
    size = number // files
    first: dict[int, Path] = {}
    folder.mkdir()
    for file in range(files):
        place, start = folder / f"rows-{file:04d}.parquet", file * size % len(images)
        if start in first:
            os.link(first[start], place)
        else:
            first[start] = place
            chosen = np.arange(start, start + size) % len(images)
            encoded = [FORMS[form](image) for image in images.images[chosen]]
            labels = pa.array(images.labels[chosen].astype(np.int64))
            columns = {"image": pa.array(encoded, pa.binary()), "label": labels}
            pq.write_table(pa.table(columns), place)


def as_png(image: Images) -> bytes:
    """Encode a (784,) uint8 image with Pillow."""
    stream = BytesIO()
    Image.fromarray(image.reshape(28, 28)).save(stream, "PNG")
    return stream.getvalue()


FORMS: dict[str, Callable[[Images], bytes]] = {"png": as_png, "raw": lambda image: image.tobytes()}
