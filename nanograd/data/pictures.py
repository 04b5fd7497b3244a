"""Picture files to upright pixels on white paper.

Files come from anywhere: the header is checked before anything is loaded, only formats that are
pictures of paper are opened, and whatever cannot be read says so with one exception.
"""

import struct
import warnings
from io import BytesIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

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


class UnreadableError(Exception):
    """A picture in which no digit can be read: a row for quarantine, not a failure of the job.

    Args:
        reason: short and stable: broken_image, too_large, empty, blank, low_contrast,
            too_many_marks, ...
        detail: one sentence for a person.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[type["UnreadableError"], tuple[str, str]]:
        """Both arguments survive the way between processes."""
        return UnreadableError, (self.reason, self.detail)


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
