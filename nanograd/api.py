"""Python functions that are no commands: load a model, convert a picture."""

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from os import PathLike, fsdecode
from typing import IO, TypeAlias, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from nanograd.digits import levels
from nanograd.errors import ArgumentError, Reason, UnreadableError
from nanograd.images import rows, tensors
from nanograd.images.reader import read_pictures
from nanograd.models import model as model_io
from nanograd.models.model import Model
from nanograd.numbers import recognise
from nanograd.numbers.recognise import Number
from nanograd.pictures import decode, normalise
from nanograd.runtime import process, storage
from nanograd.settings.arguments import resolved
from nanograd.settings.fields import Place
from nanograd.settings.specs import Polarity, ReadOptions

load_model = model_io.load
Picture: TypeAlias = Place | bytes | IO[bytes] | Image.Image | ArrayLike
Found = TypeVar("Found")


def read_picture(picture: Picture, *, polarity: Polarity = "auto") -> NDArray[np.uint8]:
    """Convert a photo, scan or drawing of one digit to 28 x 28 pixels, as `ingest` does.

    Args:
        picture: one of these: path or URI of a file, possibly in a ZIP file; bytes of a file; a
            file opened in binary mode; a Pillow image; an array (H, W), (H, W, C) or (C, H, W) with
            C = 3 or 4, of booleans, or of numbers from 0 to 1 or from 0 to 255.
        polarity: auto, dark-on-light or light-on-dark ink.

    Returns:
        (28, 28) uint8, ink 255 on 0.

    Raises:
        UnreadableError: no digit was found; `reason` and `detail` say why.
        UsageError: an argument has another type or value.
    """
    return _convert(picture, partial(normalise.normalise, polarity=polarity), polarity)


def read_numbers(
    picture: Picture, model: Model | Place | None = None, *, polarity: Polarity = "auto"
) -> list[Number]:
    """Read the lines of digits in a photo, scan or drawing, as `predict --digits many` does.

    Args:
        picture: see `read_picture`.
        model: classifies the digits; a model, or its path or URI as for `load_model`; None for the
            model in this package.
        polarity: auto, dark-on-light or light-on-dark ink.

    Returns:
        The lines from top to bottom, then from left to right; at least one.

    Raises:
        UnreadableError: no mark was found, or no mark is a digit; `reason` and `detail` say why.
        UsageError: an argument has another type or value.
    """
    with process.one_thread():
        convert = partial(recognise.read_numbers, model=load_model(model), polarity=polarity)
        return _convert(picture, convert, polarity, whole=True)


def _convert(
    picture: Picture, convert: Callable[[Image.Image], Found], polarity: str, *, whole: bool = False
) -> Found:
    """Decode a picture, `whole` or reduced as in `decode`, and convert it."""
    with resolved(ReadOptions, {"polarity": polarity}) as options:
        if hasattr(picture, "read"):
            with suppress(UnicodeDecodeError):
                picture = picture.read(options.max_bytes + 1)
            if isinstance(picture, str) or hasattr(picture, "read"):
                raise ArgumentError("the file was opened as text; open it with 'rb'")
        if isinstance(picture, Image.Image):
            if not all(picture.size):
                raise UnreadableError(Reason.EMPTY, "the picture has no pixels")
            return convert(decode.from_pillow(picture, options))
        if isinstance(picture, str | PathLike):
            item: tuple[str, bytes | None] = storage.absolute(fsdecode(picture)), None
        elif isinstance(picture, bytes | bytearray | memoryview):
            item = "", bytes(picture)
        else:
            pixels = np.asarray(picture)
            axes = tensors.picture_axes(pixels.shape)
            if pixels.dtype.kind not in "bfui" or axes is None:
                raise ArgumentError(
                    "a picture is a path, bytes, an open file, a Pillow image or an array (H, W) "
                    f"or of 3 or 4 channels, not {pixels.dtype} {pixels.shape}"
                )
            of_scale, problem = levels.array_to_levels(pixels[None])
            if problem:
                raise UnreadableError(Reason.BAD_PIXEL, problem[1])
            return rows.read_array(tensors.as_pictures(of_scale, axes)[0], options, convert)
        [(_, found)] = read_pictures([item], convert, options, whole=whole)
        if isinstance(found, UnreadableError):
            raise found
        return found
