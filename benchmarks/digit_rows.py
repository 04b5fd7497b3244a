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

from nanograd.digits.dataset import Dataset

Images = NDArray[np.uint8]


def write_rows(folder: Path, images: Dataset, form: str, number: int, files: int) -> None:
    """Write rows of repeated images, in files of equal size.

    Files with the same rows are hard links. This saves disk space and time, and does not affect
    readers.

    Args:
        folder: folder to create.
        images: images of MNIST, with their labels.
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


def write_small_files(folder: Path, images: Dataset, number: int, rows: int = 10) -> None:
    """Write files of a few raw images and their labels, a thousand files per folder."""
    for file in range(number):
        place = folder / f"{file // 1000:04d}" / f"{file:06d}.parquet"
        place.parent.mkdir(parents=True, exist_ok=True)
        chosen = images.take(np.arange(file * rows, (file + 1) * rows) % len(images))
        columns = {"image": [image.tobytes() for image in chosen.images], "label": chosen.labels}
        pq.write_table(pa.table(columns), place)


def write_pictures(file: Path, images: Dataset, number: int, side: int = 1220) -> None:
    """Write a row group of distinct uncompressed pictures, of 1.5 MB each."""
    file.parent.mkdir()
    enlarged = [
        np.asarray(Image.fromarray(image.reshape(28, 28)).resize((side, side)))
        for image in images.images[:20]
    ]
    noise = np.random.default_rng(0)
    pictures = []
    for row in range(number):
        picture = enlarged[row % 20] // 8 * 8 + noise.integers(0, 8, (side, side), np.uint8)
        stream = BytesIO()
        Image.fromarray(255 - picture).save(stream, "BMP")
        pictures.append(stream.getvalue())
    labels = pa.array(images.labels[np.arange(number) % 20], pa.int64())
    pq.write_table(
        pa.table([pa.array(pictures, pa.large_binary()), labels], ["image", "label"]), file
    )


def as_png(image: Images) -> bytes:
    """Encode a (784,) uint8 image with Pillow."""
    stream = BytesIO()
    Image.fromarray(image.reshape(28, 28)).save(stream, "PNG")
    return stream.getvalue()


FORMS: dict[str, Callable[[Images], bytes]] = {"png": as_png, "raw": lambda image: image.tobytes()}
