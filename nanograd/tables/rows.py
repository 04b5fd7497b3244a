"""One row's picture to the 784 bytes that the net reads: from bytes, a file or Spark's pixels."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nanograd.data.dataset import NUM_PIXELS
from nanograd.digits import form
from nanograd.errors import UnreadableError
from nanograd.pictures import decode, fast_png, normalise
from nanograd.pictures.decode import PictureReader
from nanograd.runtime import storage

NORMALISE = ("auto", "always", "never")
_SIZE = (28, 28)
_MOST_BYTES = 100_000_000  # of a file that a path leads to

# First bytes of the accepted picture formats; 784 bytes that begin otherwise are raw pixels.
PICTURE_STARTS = (
    b"\x89PNG",
    b"\xff\xd8",
    b"GIF8",
    b"BM",
    b"II*\0",
    b"MM\0*",
    b"RIFF",
    b"P5",
    b"P6",
)

Images = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How pictures in a table are read.

    Args:
        polarity: auto, dark-on-light or light-on-dark.
        max_pixels: larger pictures are refused by their header.
        normalise: auto (what has MNIST's form keeps its bits), always, or never (a picture must be
            28 x 28; it is taken as it is, turned round if it is said to be dark on light).
        image_root: folder or URI below which a row's path may be followed; None follows none.
    """

    polarity: str = "auto"
    max_pixels: int = 50_000_000
    normalise: str = "auto"
    image_root: str | None = None

    def encoded(self, data: bytes | None) -> Images:
        """(784,) uint8 of a picture file's bytes, or of 784 raw pixels.

        Raises:
            UnreadableError: there is nothing to read.
        """
        if data is None:
            raise UnreadableError("no_bytes", "the picture's bytes are null")
        if is_raw(data):
            return self.numbers(np.frombuffer(data, np.uint8))
        return self._form(decode.decode(data, max_pixels=self.max_pixels))

    def plain(self, files: Sequence[bytes | None]) -> tuple[Images, NDArray[np.bool_]]:
        """Those files that are small grey PNG in MNIST's form, at once: a tenth of the time.

        Args:
            files: n files of any kind.

        Returns:
            images: (m, 784) uint8, what `encoded` gives for the m that were read here.
            which: (n,) bool, those.
        """
        if self.always:
            return np.zeros((0, NUM_PIXELS), np.uint8), np.zeros(len(files), np.bool_)
        images, which = fast_png.decode(files)
        if self.normalise == "never":
            return (255 - images if self.polarity == "dark-on-light" else images), which
        like = np.zeros(len(images), np.bool_)
        if self.polarity != "dark-on-light":
            like = form.are_mnist_like(images)
        if self.polarity != "light-on-dark" and not like.all():
            images = np.where(like[:, None], images, 255 - images)
            like[~like] = form.are_mnist_like(images[~like])
        which[which] = like
        return images[like], which

    def followed(self, path: str) -> Images:
        """(784,) uint8 of the picture file at a row's path, which must lie below `image_root`.

        Raises:
            UnreadableError: it lies elsewhere, or there is nothing to read.
        """
        reader = PictureReader(max_bytes=_MOST_BYTES, max_pixels=self.max_pixels)
        return self.encoded(reader.read(_below(self.image_root or "", path)))

    def spark(self, row: dict[str, Any] | None) -> Images:
        """(784,) uint8 of Spark's image struct.

        Raises:
            UnreadableError: there is nothing to read.
        """
        return self._form(picture(row, self.max_pixels))

    def numbers(self, image: Images) -> Images:
        """(784,) uint8 of pixels that are MNIST's form by definition.

        Raises:
            UnreadableError: `normalise` is always, and the normaliser finds nothing to read.
        """
        return self._form(Image.fromarray(image.reshape(_SIZE))) if self.always else image

    @property
    def always(self) -> bool:
        """Whether even what has MNIST's form is normalised."""
        return self.normalise == "always"

    def _form(self, picture: Image.Image) -> Images:
        if self.normalise != "never":
            image = normalise.normalise(picture, polarity=self.polarity, always=self.always)
            return image.reshape(NUM_PIXELS)
        if picture.size != _SIZE:
            detail = f"the picture has {picture.width} x {picture.height} pixels, not 28 x 28"
            raise UnreadableError("wrong_shape", detail)
        grey = np.asarray(picture.convert("L")).reshape(NUM_PIXELS)
        return 255 - grey if self.polarity == "dark-on-light" else grey


def is_raw(data: bytes) -> bool:
    """Whether bytes are 784 pixels and no picture file."""
    return len(data) == NUM_PIXELS and not data.startswith(PICTURE_STARTS)


def read_each(
    rows: list[Any], read: Callable[[Any], Images]
) -> tuple[Images, NDArray[np.int64], list[tuple[int, UnreadableError]]]:
    """Read row by row; what is wrong with one is said of that one.

    Returns:
        images: (n, 784) uint8.
        numbers: (n,) int64, the row of each.
        refused: the others, and why.
    """
    images, numbers, refused = [], [], []
    for number, row in enumerate(rows):
        try:
            images.append(read(row))
            numbers.append(number)
        except UnreadableError as error:
            refused.append((number, error))
    stacked = np.stack(images) if images else np.zeros((0, NUM_PIXELS), np.uint8)
    return stacked, np.array(numbers, np.int64), refused


def _below(root: str, path: str) -> str:
    """The place a row's path means, if it lies below the root: never a way out of it."""
    outside = UnreadableError("outside_root", f"the path {path!r} leads out of {root}")
    if "\0" in path:
        raise outside
    if storage.is_remote(root):
        place = path if storage.is_remote(path) else storage.join(root, path)
        inside = place.startswith(storage.join(root, "")) and ".." not in place.split("/")
    else:
        folder = storage.local_path(root).resolve()
        target = (folder / path.removeprefix("file://")).resolve()
        place, inside = str(target), target.is_relative_to(folder)
    if not inside:
        raise outside
    return place


# Channels -> Pillow's mode, and how the bytes of a pixel follow each other.
_LAYOUTS = {1: ("L", "L"), 3: ("RGB", "BGR"), 4: ("RGBA", "BGRA")}


def picture(row: dict[str, Any] | None, max_pixels: int) -> Image.Image:
    """The picture of one row, transparency over white.

    Args:
        row: height, width, nChannels and data; Spark writes -1 and no bytes for what it could not
            read. `mode` says no more than the channels: Spark stores bytes alone.
        max_pixels: width x height allowed.

    Returns:
        The picture in mode L (8-bit grey) or RGB.

    Raises:
        UnreadableError: `no_bytes`, `broken_image` or `too_large`.

    References:
        Apache Spark, "Image data source" (OpenCV's layout: row by row, channels in the order BGRA).
    """
    if row is None or row["data"] is None:
        raise UnreadableError("no_bytes", "the picture's bytes are null")
    height, width, channels = (row[name] or 0 for name in ("height", "width", "nChannels"))
    if height < 1 or width < 1 or channels not in _LAYOUTS:
        detail = f"{width} x {height} pixels in {channels} channels are no picture"
        raise UnreadableError("broken_image", detail)
    if height * width > max_pixels:
        detail = f"the picture has {width} x {height} pixels, more than {max_pixels}"
        raise UnreadableError("too_large", detail)
    if len(row["data"]) != height * width * channels:
        detail = f"{len(row['data'])} bytes are not {width} x {height} pixels of {channels}"
        raise UnreadableError("broken_image", detail)
    mode, order = _LAYOUTS[channels]
    found = Image.frombytes(mode, (width, height), row["data"], "raw", order)
    if mode != "RGBA":
        return found
    return Image.alpha_composite(Image.new("RGBA", found.size, "white"), found).convert("RGB")
