"""Conversion of picture files to pixels on white paper, rotated according to EXIF.

Files are untrusted: the header is checked before any pixel is loaded, only formats in use for
photos and scans are opened, and every failure raises the same exception type.
"""

import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import BytesIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from nanograd.errors import DataError, Reason, StorageError, UnreadableError
from nanograd.runtime import storage
from nanograd.runtime.events import count
from nanograd.settings.specs import PictureOptions

# Suffixes of pictures in a folder. The formats in the last line cannot be read; they are listed so
# that such files of phones appear in quarantine and are not skipped.
SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".gif", ".bmp", ".tif", ".tiff", ".webp",
    ".ppm", ".pgm", ".pbm",
    ".heic", ".heif", ".avif",
)  # fmt: skip

_DEFAULTS = PictureOptions()

# First bytes of archives (gzip, 7-Zip, RAR, bzip2, xz), and bytes 257 to 262 of tar files.
_ARCHIVES, _TAR = (b"\x1f\x8b", b"7z\xbc\xaf", b"Rar!", b"BZh", b"\xfd7zXZ"), b"ustar"
# Minimum shorter side of a reduced JPEG: three times the side of the normaliser's reduced copy.
_JPEG_SIDE = 480
# A pixel is visible if its alpha, and light if its grey, is above _HALF. Pixels have one tone if
# their greys differ by less than _ONE_TONE.
_HALF, _ONE_TONE = 127, 64
# Tag of TIFF files: whether 0 is white or black.
_PHOTOMETRIC = 262
# Tag of TIFF files: the first bit is set for a smaller copy of another picture in the file.
_KIND = 254
# Possible values of white in files with more than 8 bits: 1 for shares, otherwise 8 to 16 bits
# (scanners store 10, 12 or 14 bits in 16).
_FULL_SCALES = (1.0, 255.0, 1023.0, 4095.0, 16383.0, 65535.0)
# Errors that Pillow raises for damaged bytes. The first line was seen in 200,000 files with flipped
# and missing bytes (Pillow 13); the second line is from reports about EXIF, GIF and TIFF files.
_BROKEN = (
    *(OSError, ValueError, SyntaxError, struct.error),
    *(EOFError, LookupError, TypeError, ArithmeticError),
)


def read(
    file: str, options: PictureOptions, read: Callable[[str, int], bytes] = storage.read
) -> bytes:
    """Read the bytes of a picture file; `Archives.read` also reads files in archives.

    Raises:
        UnreadableError: `no_file`, `no_permission` or `too_large`, or a reason of `read`.
    """
    try:
        data = read(file, options.max_bytes + 1)
    except (DataError, StorageError) as error:
        if isinstance(error.__cause__, PermissionError):
            raise UnreadableError(Reason.NO_PERMISSION, str(error)) from error
        if isinstance(error, DataError):
            raise UnreadableError(Reason.NO_FILE, str(error)) from error
        raise
    if len(data) > options.max_bytes:
        detail = f"it has more than {count(options.max_bytes, 'byte')}"
        raise UnreadableError(Reason.TOO_LARGE, detail)
    return data


def decode(data: bytes, options: PictureOptions = _DEFAULTS, *, whole: bool = False) -> Image.Image:
    """Decode the first frame of a picture file to mode L (8-bit grey) or RGB.

    The picture is rotated according to EXIF. A transparent picture is laid over white, or over
    black if its ink is light. A JPEG file that is much larger than the normaliser needs is decoded
    at 1/2, 1/4 or 1/8 of its size, except with `whole`. A file with several pages is refused.

    Raises:
        UnreadableError: `empty` (no bytes), `broken_image` (not an accepted format, several pages,
            cut short or damaged) or `too_large` (more than `max_pixels`).
    """
    formats = options.formats.upper().split(",")
    if not data:
        raise UnreadableError(Reason.EMPTY, "the file has no bytes")
    with _refusals():
        try:
            picture = Image.open(BytesIO(data), formats=formats)
        except UnidentifiedImageError as error:
            size = count(len(data), "byte")
            detail = f"its content ({size}) is not a picture in {', '.join(formats)}"
            if data[4:8] == b"ftyp" or data.startswith(b"%PDF"):
                detail = "HEIC, AVIF and PDF are not read; export the picture as JPEG or PNG"
            elif data.startswith(_ARCHIVES) or data[257:262] == _TAR:
                detail = "of all archives only ZIP files are read; pack the pictures into one"
            elif data.startswith(b"PAR1"):
                detail = "this is a Parquet file; train and predict read tables named *.parquet"
            elif data.startswith(b"PK\3\4"):
                detail = "this is a ZIP file; rename it to .zip unless its name ends so, or name "
                detail += "a picture in it, as FILE.zip/PICTURE"
            raise UnreadableError(Reason.BROKEN_IMAGE, detail) from error
        except Image.DecompressionBombError as error:  # `max_pixels` is at most Pillow's limit
            detail = f"the picture has more than {options.max_pixels} pixels"
            raise UnreadableError(Reason.TOO_LARGE, detail) from error
        with picture:
            if _has_pages(picture):
                detail = "the file has several pages; save each page as a picture of its own"
                raise UnreadableError(Reason.BROKEN_IMAGE, detail)
            return _load(picture, options.max_pixels, whole)


def _has_pages(picture: Image.Image) -> bool:
    """Return whether a TIFF file has a second picture that is no smaller copy of the first."""
    if picture.format != "TIFF":
        return False
    try:
        picture.seek(1)  # `n_frames` would read all pages, and a file may claim millions
    except EOFError:
        return False
    is_copy = picture.getexif().get(_KIND, 0) & 1
    picture.seek(0)
    return not is_copy


def from_pillow(picture: Image.Image, options: PictureOptions) -> Image.Image:
    """Convert a copy of a Pillow image to mode L or RGB, or refuse it, as `decode` does."""
    check_size(*picture.size, options.max_pixels)
    with _refusals():
        return _load(picture.copy(), options.max_pixels, whole=True)


@contextmanager
def _refusals() -> Iterator[None]:
    """Convert errors of Pillow, and warnings that filters turn into errors, to UnreadableError."""
    try:
        yield
    except Image.DecompressionBombWarning as error:
        raise UnreadableError(Reason.TOO_LARGE, f"{error}") from error
    except (Warning, *_BROKEN) as error:
        detail = f"the picture is damaged or cut short ({error or type(error).__name__})"
        raise UnreadableError(Reason.BROKEN_IMAGE, detail) from error


def _load(picture: Image.Image, max_pixels: int, whole: bool) -> Image.Image:
    """Load a picture, rotate it according to EXIF, and convert any mode to L or RGB."""
    check_size(*picture.size, max_pixels)
    # Set the minimum size at which a JPEG may be decoded; other formats ignore it.
    shrink = 1.0 if whole else max(1.0, min(picture.size) / _JPEG_SIDE)
    picture.draft(None, (int(picture.width / shrink), int(picture.height / shrink)))
    picture.load()
    # Pillow inverts TIFF files in which 0 is white, but not those with 16 or 32 bits.
    is_white_zero = getattr(picture, "tag_v2", {}).get(_PHOTOMETRIC) == 0
    with suppress(*_BROKEN):  # if only the EXIF data is damaged, the pixels are usable
        picture = ImageOps.exif_transpose(picture)
    if picture.has_transparency_data:
        return over_paper(picture)
    if picture.mode.startswith(("I", "F")):
        # Scale to 0..255, because Pillow's conversion would turn all levels above 255 to white.
        levels = np.nan_to_num(np.asarray(picture.convert("F")))
        bottom, highest = min(float(levels.min()), 0.0), float(levels.max())
        top = next((scale for scale in _FULL_SCALES if highest <= scale), highest)
        scaled = ((levels - bottom) * (255 / (top - bottom))).round()
        scaled = 255 - scaled if is_white_zero else scaled
        return Image.fromarray(scaled.astype(np.uint8))
    if picture.mode in ("L", "RGB"):
        return picture
    return picture.convert("L" if picture.mode == "1" else "RGB")


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Raise UnreadableError (`too_large`) if a picture has more than `max_pixels` pixels."""
    if width * height > max_pixels:
        detail = f"the picture has {width} x {height} pixels, more than {max_pixels}"
        raise UnreadableError(Reason.TOO_LARGE, detail)


def over_paper(picture: Image.Image) -> Image.Image:
    """Lay a transparent picture over white, or over black if its ink is light; return mode RGB."""
    layer = picture.convert("RGBA")
    grey, alpha = np.asarray(layer.convert("RGB").convert("L")), np.asarray(layer.getchannel("A"))
    seen = grey[alpha > _HALF]
    # If the visible pixels are few and have one light tone, they are ink without paper.
    is_light = bool(len(seen)) and seen.min() > _HALF and int(np.ptp(seen)) < _ONE_TONE
    ground = "black" if is_light and len(seen) < grey.size / 2 else "white"
    return Image.alpha_composite(Image.new("RGBA", layer.size, ground), layer).convert("RGB")
