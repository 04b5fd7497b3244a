"""Picture files to upright pixels on white paper.

Files come from anywhere: the header is checked before anything is loaded, only formats that are
pictures of paper are opened, and whatever cannot be read says so with one exception.
"""

import struct
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from nanograd.errors import DataError, StorageError, UnreadableError, UsageError
from nanograd.runtime import storage

# Pillow knows some forty more; each is attack surface, and none is how people photograph digits.
# MPO (two JPEG pictures in one file, from some phones) is opened as JPEG.
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM")

# A digit becomes 20 pixels; three times what the normaliser looks at is kept from a large JPEG.
_ENOUGH_PIXELS = 480

# White in wide grey files: shares, then 8 to 16 bits (scanners store 10, 12 or 14 bits in 16).
_FULL_SCALES = (1.0, 255.0, 1023.0, 4095.0, 16383.0, 65535.0)

# What Pillow's readers of these formats raise for bytes that are not what they claim to be. In
# 200,000 files with flipped and missing bytes Pillow 13 raised only the first three; the others
# are known from its reports about EXIF, GIF and TIFF.
_BROKEN = (
    *(OSError, ValueError, SyntaxError, struct.error),
    *(EOFError, LookupError, TypeError, ArithmeticError),
)


def decode(
    data: bytes, *, max_pixels: int = 50_000_000, formats: tuple[str, ...] = FORMATS
) -> Image.Image:
    """Decode a picture file.

    The first frame, turned upright as its EXIF says, transparency over white. JPEG files much
    larger than the normaliser needs are decoded at 1/2, 1/4 or 1/8 of their size.

    Args:
        data: a whole PNG, JPEG, MPO, GIF, BMP, TIFF, WEBP or PPM file, whatever its name was.
        max_pixels: width x height allowed, from the header, before any pixel is loaded.
        formats: those allowed.

    Returns:
        The picture in mode L (8-bit grey) or RGB.

    Raises:
        UnreadableError: `empty` (no bytes), `broken_image` (none of the formats, cut short or
            damaged) or `too_large` (more than `max_pixels`).
    """
    if not data:
        raise UnreadableError("empty", "the file has no bytes")
    try:
        with warnings.catch_warnings():
            # Odd metadata is no reason to stop, and the pixel cap is our own (below).
            warnings.simplefilter("ignore")
            with Image.open(BytesIO(data), formats=formats) as picture:
                _check_size(picture, max_pixels)
                picture.draft(None, _draft_size(picture))
                return _flat(_upright(picture))
    except Image.DecompressionBombError as error:
        raise UnreadableError("too_large", f"{error}") from error
    except UnidentifiedImageError as error:
        detail = f"the {len(data)} bytes are no picture in {', '.join(formats)}"
        raise UnreadableError("broken_image", detail) from error
    except _BROKEN as error:
        detail = f"the picture is damaged or cut short ({error or type(error).__name__})"
        raise UnreadableError("broken_image", detail) from error


def _check_size(picture: Image.Image, max_pixels: int) -> None:
    width, height = picture.size
    if width * height > max_pixels:
        detail = f"the picture has {width} x {height} pixels, more than {max_pixels}"
        raise UnreadableError("too_large", detail)


def _draft_size(picture: Image.Image) -> tuple[int, int]:
    """What a JPEG may shrink to, at least; other formats ignore it."""
    shrink = max(1.0, min(picture.size) / _ENOUGH_PIXELS)
    return int(picture.width / shrink), int(picture.height / shrink)


def _upright(picture: Image.Image) -> Image.Image:
    picture.load()
    try:
        return ImageOps.exif_transpose(picture)
    except _BROKEN:
        # The pixels are whole; only the note about their orientation is damaged.
        return picture


def _flat(picture: Image.Image) -> Image.Image:
    """Any mode to L or RGB."""
    if picture.has_transparency_data:
        return _over_white(picture)
    if picture.mode.startswith(("I", "F")):
        return _eight_bits(picture)
    if picture.mode in ("L", "RGB"):
        return picture
    return picture.convert("L" if picture.mode == "1" else "RGB")


def _over_white(picture: Image.Image) -> Image.Image:
    layer = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")


def _eight_bits(picture: Image.Image) -> Image.Image:
    """Wide grey levels to 0..255: Pillow's own conversion clips everything above 255 to white."""
    levels = np.nan_to_num(np.asarray(picture.convert("F")))
    bottom, highest = min(float(levels.min()), 0.0), float(levels.max())
    top = next((scale for scale in _FULL_SCALES if highest <= scale), highest)
    return Image.fromarray(((levels - bottom) * (255 / (top - bottom))).round().astype(np.uint8))


# What counts as a picture in a folder. Those of the last line cannot be read, but what a phone
# wrote must be seen in quarantine, not passed over.
SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".gif", ".bmp", ".tif", ".tiff", ".webp",
    ".ppm", ".pgm", ".pbm",
    ".heic", ".heif", ".avif",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class PictureReader:
    """Which picture files are read.

    Args:
        max_bytes: of a file; of a larger one nothing is decoded.
        max_pixels: width x height, from the header, before any pixel is loaded.
        formats: some of `FORMATS`.
    """

    max_bytes: int
    max_pixels: int
    formats: tuple[str, ...] = FORMATS

    def read(self, file: str, read: Callable[[str, int], bytes] = storage.read) -> bytes:
        """A file's bytes.

        Args:
            file: its place.
            read: gives the first so many bytes of a place; that of `Archives` looks into them.

        Raises:
            UnreadableError: `no_file`, `no_permission` or `too_large`, or what `read` raises.
            StorageError: the place fails as a whole.
        """
        try:
            data = read(file, self.max_bytes + 1)
        except DataError as error:
            raise UnreadableError("no_file", str(error)) from error
        except StorageError as error:
            if isinstance(error.__cause__, PermissionError):
                raise UnreadableError("no_permission", str(error)) from error
            raise
        if len(data) > self.max_bytes:
            raise UnreadableError("too_large", f"the file has more than {self.max_bytes} bytes")
        return data

    def decode(self, data: bytes) -> Image.Image:
        """The picture in a file's bytes, as `decode` gives it.

        Raises:
            UnreadableError: `empty`, `broken_image` or `too_large`.
        """
        return decode(data, max_pixels=self.max_pixels, formats=self.formats)


def formats_named(names: str) -> tuple[str, ...]:
    """The formats in a list of names with commas.

    Raises:
        UsageError: one is not known.

    >>> formats_named("png,JPG")
    ('PNG', 'JPEG')
    """
    usual = {"JPG": "JPEG", "TIF": "TIFF"}
    words = [name.strip().upper() for name in names.split(",") if name.strip()]
    formats = tuple(usual.get(word, word) for word in words)
    unknown = sorted(set(formats) - set(FORMATS))
    if unknown or not formats:
        raise UsageError(
            f"--formats {names!r}: {(unknown or ['nothing'])[0].lower()} is none of "
            f"{', '.join(FORMATS).lower()}"
        )
    return formats
