"""One row's picture, from bytes, a file, numbers or Spark's pixels, to the 784 bytes of a net."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nanograd.digits import form, levels
from nanograd.digits.dataset import NUM_PIXELS, SIDE
from nanograd.errors import Reason, UnreadableError
from nanograd.pictures import decode, fast_png, normalise
from nanograd.runtime import storage
from nanograd.settings.specs import PictureFileOptions, ReadOptions

# First bytes of the accepted picture formats; 784 bytes that begin otherwise are raw pixels. Two
# bytes alone are no signature: BMP has the size of its second header, Netpbm a number.
_SIGNATURE = re.compile(
    rb"\x89PNG|\xff\xd8\xff[\xc0-\xfe]|GIF8[79]a|II\*\0|MM\0\*|RIFF.{4}WEBP"
    rb"|BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0|P[1-7][ \t\r\n]+[#0-9]",
    re.DOTALL,
)
# Spark's channels -> Pillow's mode, and the order of the bytes of a pixel.
_LAYOUTS = {1: ("L", "L"), 3: ("RGB", "BGR"), 4: ("RGBA", "BGRA")}

Bytes = NDArray[np.uint8]


def is_raw(data: bytes) -> bool:
    """Test whether bytes are 784 pixels and no picture file."""
    return len(data) == NUM_PIXELS and not _SIGNATURE.match(data)


def read_encoded(data: bytes | None, options: ReadOptions) -> Bytes:
    """Read a picture file's bytes, or 784 raw pixels, as (784,) uint8; raise UnreadableError."""
    if data is None:
        raise UnreadableError(Reason.NO_BYTES, "the picture's bytes are null")
    if not is_raw(data):
        return _to_form(decode.decode(data, options), options)
    found, [problem] = levels.to_levels(np.frombuffer(data, np.uint8).reshape(1, SIDE, SIDE, 1))
    if problem >= 0:
        raise UnreadableError(Reason.BAD_PIXEL, levels.describe(problem))
    return read_array(found[0], options)


def read_plain(
    files: Sequence[bytes | None], options: ReadOptions
) -> tuple[Bytes, NDArray[np.bool_]]:
    """Read the small grey PNG files in MNIST's form among n files, at once: a tenth of the time.

    Returns:
        images: (m, 784) uint8, equal to `read_encoded`, of the m files that were read.
        which: (n,) bool, those files.
    """
    if options.normalise == "always":
        return np.zeros((0, NUM_PIXELS), np.uint8), np.zeros(len(files), np.bool_)
    images, which = fast_png.decode_plain(files)
    ready, like = select_ready(images, options)
    which[which] = like
    return ready, which


def select_ready(images: Bytes, options: ReadOptions) -> tuple[Bytes, NDArray[np.bool_]]:
    """Select the grey images, (n, 784) uint8, that need no steps of normalisation.

    Returns:
        images: (m, 784) uint8, equal to `read_array`, of the m images that are ready.
        which: (n,) bool, those images.
    """
    if options.normalise == "always":
        return images[:0], np.zeros(len(images), np.bool_)
    if options.normalise == "never":
        inverted = options.polarity == "dark-on-light"
        return (255 - images if inverted else images), np.ones(len(images), np.bool_)
    like = np.zeros(len(images), np.bool_)
    if options.polarity != "dark-on-light":
        like = form.are_mnist_like(images)
    if options.polarity != "light-on-dark" and not like.all():
        images = np.where(like[:, None], images, 255 - images)
        like[~like] = form.are_mnist_like(images[~like])
    return (images if like.all() else images[like]), like


def read_file(path: str, options: ReadOptions) -> Bytes:
    """Read the file at a row's path, which must lie below `image_root`, as `read_encoded` does."""
    file = _below(options.image_root or "", path)
    return read_encoded(decode.read(file, PictureFileOptions()), options)


def read_spark(row: dict[str, Any] | None, options: ReadOptions) -> Bytes:
    """Read Spark's image struct, of height, width, nChannels and data, as `read_encoded` does.

    Spark writes -1 and no bytes for pictures that it could not read. `mode` adds nothing to the
    channels: Spark stores bytes alone.

    References:
        Apache Spark, "Image data source" (OpenCV's layout: row by row, channels in the order BGRA).
    """
    if row is None or row["data"] is None:
        raise UnreadableError(Reason.NO_BYTES, "the picture's bytes are null")
    height, width, channels = (row[name] or 0 for name in ("height", "width", "nChannels"))
    if height < 1 or width < 1 or channels not in _LAYOUTS:
        detail = f"{width} x {height} pixels in {channels} channels are not a picture"
        raise UnreadableError(Reason.BROKEN_IMAGE, detail)
    decode.check_size(width, height, options.max_pixels)
    if len(row["data"]) != height * width * channels:
        detail = f"{len(row['data'])} bytes are not {width} x {height} pixels of {channels}"
        raise UnreadableError(Reason.BROKEN_IMAGE, detail)
    mode, order = _LAYOUTS[channels]
    picture = Image.frombytes(mode, (width, height), row["data"], "raw", order)
    return _to_form(decode.over_paper(picture) if mode == "RGBA" else picture, options)


def read_array(pixels: Bytes, options: ReadOptions) -> Bytes:
    """Read the pixels of a picture, (height, width, channels), as `read_encoded` reads a file."""
    height, width, channels = pixels.shape
    decode.check_size(width, height, options.max_pixels)
    picture = Image.fromarray(pixels[:, :, 0] if channels == 1 else np.ascontiguousarray(pixels))
    return _to_form(decode.over_paper(picture) if channels == 4 else picture, options)


def _to_form(picture: Image.Image, options: ReadOptions) -> Bytes:
    if options.normalise != "never":
        image = normalise.normalise(
            picture, polarity=options.polarity, always=options.normalise == "always"
        )
        return image.reshape(NUM_PIXELS)
    if picture.size != (SIDE, SIDE):
        detail = f"the picture has {picture.width} x {picture.height} pixels, not 28 x 28"
        raise UnreadableError(Reason.WRONG_SHAPE, detail)
    grey = np.asarray(picture.convert("L")).reshape(NUM_PIXELS)
    return 255 - grey if options.polarity == "dark-on-light" else grey


def _below(root: str, path: str) -> str:
    """Resolve a row's path, which must lie below the root."""
    outside = f"the path {path!r} leads outside {root}"
    if "\0" in path:
        raise UnreadableError(Reason.OUTSIDE_ROOT, outside)
    if storage.is_remote(root):
        place = storage.absolute(path) if storage.is_remote(path) else storage.join(root, path)
        inside = place.startswith(storage.join(root, "")) and ".." not in place.split("/")
    else:
        # Not by Path.resolve, which raises for links in a circle and names that are too long.
        folder = os.path.realpath(storage.local_path(root))
        place = os.path.realpath(Path(folder, path.removeprefix("file://")))
        inside = Path(place).is_relative_to(folder)
        if inside and os.path.exists(place) and not os.path.isfile(place):  # noqa: PTH110, PTH113
            raise UnreadableError(Reason.NO_FILE, f"{path!r} is no file in {root}")
    if not inside:
        raise UnreadableError(Reason.OUTSIDE_ROOT, outside)
    return place
