"""Models and pictures from Python, without a command."""

from functools import partial
from os import PathLike, fsdecode
from typing import IO, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from nanograd.digits import levels
from nanograd.errors import ArgumentError, Reason, UnreadableError
from nanograd.images import rows, tensors
from nanograd.images.reader import read_pictures
from nanograd.models import model as model_io
from nanograd.models.model import Model
from nanograd.pictures import decode, normalise
from nanograd.runtime import storage
from nanograd.settings.arguments import resolved
from nanograd.settings.fields import Place
from nanograd.settings.specs import PictureFileOptions, Polarity, ReadOptions


def load_model(place: Place) -> Model:
    """Load a model directory: a folder or URI, such as RUN/model.

    Raises:
        DataError: it is missing, damaged, or of a format that this version does not know.
        StorageError: it cannot be read.
    """
    if not isinstance(place, str | PathLike):
        raise ArgumentError(f"{place!r} is no path or URI")
    return model_io.load(fsdecode(place))


def read_picture(
    picture: Place | bytes | IO[bytes] | Image.Image | ArrayLike, *, polarity: Polarity = "auto"
) -> NDArray[np.uint8]:
    """Convert a photo, scan or drawing of one digit to 28 x 28 pixels, as `ingest` does.

    Args:
        picture: path or URI of a file (also inside a ZIP file), its bytes, a file opened for these,
            a Pillow image, or an array (H, W) or of 3 or 4 channels, first or last, of booleans or
            numbers whose scale `nanograd.digits.levels` recognises.
        polarity: auto, dark-on-light or light-on-dark ink.

    Returns:
        (28, 28) uint8, ink 255 on 0.

    Raises:
        UnreadableError: no digit was found; `reason` and `detail` say why.
        UsageError: an argument of another kind.
    """
    with resolved(PictureFileOptions, None, {"polarity": polarity}) as options:
        if hasattr(picture, "read"):
            picture = picture.read(options.max_bytes + 1)
            if isinstance(picture, str):
                raise ArgumentError("the file was opened as text; open it with 'rb'")
        convert = partial(normalise.normalise, polarity=options.polarity)
        if isinstance(picture, Image.Image):
            return convert(decode.from_pillow(picture, options))
        if isinstance(picture, str | PathLike):
            item: tuple[str, bytes | None] = storage.absolute(fsdecode(picture)), None
        elif isinstance(picture, bytes | bytearray | memoryview):
            item = "", bytes(picture)
        else:
            return _read_array(np.asarray(picture), ReadOptions(polarity=options.polarity))
        [(_, image)] = read_pictures([item], convert, options)
        if isinstance(image, UnreadableError):
            raise image
        return image


def _read_array(pixels: NDArray[Any], options: ReadOptions) -> NDArray[np.uint8]:
    axes = tensors.picture_axes(pixels.shape)
    if pixels.dtype.kind not in "bfui" or axes is None:
        raise ArgumentError(
            "a picture is a path, bytes, an open file, a Pillow image or an array (H, W) or of 3 "
            f"or 4 channels, not {pixels.dtype} {pixels.shape}"
        )
    found, problem = levels.array_to_levels(pixels[None])
    if problem:
        raise UnreadableError(Reason.BAD_PIXEL, problem[1])
    return rows.read_array(tensors.as_pictures(found, axes)[0], options).reshape(28, 28)
