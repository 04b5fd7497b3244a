"""Picture files, wherever they are, to decoded pictures: so large at most, of formats allowed.

Whatever is wrong with one file is said of that file and stops nothing else; a place that fails as a
whole (the disk, the object store) is another matter and stays an error.
"""

from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image

from nanograd import storage
from nanograd.data import pictures
from nanograd.data.pictures import FORMATS, UnreadableError
from nanograd.errors import DataError, StorageError, UsageError

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
        formats: some of `pictures.FORMATS`.
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
        """The picture in a file's bytes, as `pictures.decode` gives it.

        Raises:
            UnreadableError: `empty`, `broken_image` or `too_large`.
        """
        return pictures.decode(data, max_pixels=self.max_pixels, formats=self.formats)


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
