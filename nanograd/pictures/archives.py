"""Pictures in ZIP files, read where they are: an archive is a folder whose name ends in `.zip`.

A member's place is the archive's, a slash and its name: `drawings.zip/7/drawing-0001.png`. Nothing
is unpacked to a disk, and no more of a member is decompressed than is allowed.

References:
    PKWARE, "APPNOTE.TXT", 6.3.10, sections 4.3 and 4.4; Fifield (2019), "A better zip bomb".
"""

import re
import struct
import zlib
from typing import NamedTuple, Self
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile

from nanograd.errors import DataError, UnreadableError
from nanograd.runtime import storage

SUFFIX = ".zip"
# Deflate makes at most 1,032 times as much of a byte; bzip2 and LZMA know no such bound.
_METHODS = (ZIP_STORED, ZIP_DEFLATED)
_ENCRYPTED = 0x1
# An absolute name, a drive letter, or a step up.
_OUT_OF_IT = re.compile(r"^/|^[A-Za-z]:|(^|/)\.\.(/|$)")
# What `zipfile` raises for bytes that are not what they claim to be.
_BROKEN = (
    *(BadZipFile, zlib.error, struct.error, EOFError, OSError),
    *(ValueError, LookupError, RuntimeError, ArithmeticError),
)


class Member(NamedTuple):
    """A file in an archive: its place, and its size in bytes as the archive says."""

    place: str
    num_bytes: int


def members(archive: str) -> list[Member]:
    """The files in an archive, each name once; the archive itself if it is no whole ZIP file.

    Raises:
        StorageError: it cannot be read at all; that is no damage.
    """
    try:
        with _open(archive) as found:
            infos = {info.filename: info for info in found.infolist() if not info.is_dir()}
    except (UnreadableError, DataError):
        return [Member(archive, 0)]
    return [Member(f"{archive}/{name}", info.file_size) for name, info in infos.items()]


class Archives:
    """Reads files, and files in archives; the archive read last stays open until the end."""

    def __init__(self) -> None:
        self._place = ""
        self._archive: ZipFile | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def read(self, place: str, most: int) -> bytes:
        """The first `most` bytes of a file, or all of an archive's member if it has fewer.

        Raises:
            DataError: there is no such file.
            StorageError: the place fails as a whole.
            UnreadableError: `broken_archive`, or of a member `bad_name`, `encrypted`, `too_large`
                or `broken_member`.
        """
        if self._archive is None or not place.startswith(f"{self._place}/"):
            archive = _archive_of(place)
            if archive is None:
                return storage.read(place, most)
            self._close()
            self._archive, self._place = _open(archive), archive
        name = place.removeprefix(f"{self._place}/")
        try:
            return _read(self._archive, name, most)
        except _BROKEN as error:
            storage.read(self._place, 1)  # a store that is gone says so here
            detail = f"{name} in the archive is damaged ({error or type(error).__name__})"
            raise UnreadableError("broken_member", detail) from error

    def _close(self) -> None:
        if self._archive is not None:
            self._archive.close()
            self._archive = None


def _archive_of(place: str) -> str | None:
    """The archive that a place is or lies in; a folder may have such a name, too."""
    lower, end = f"{place.lower()}/", 0
    while (at := lower.find(f"{SUFFIX}/", end)) >= 0:
        end = at + len(SUFFIX)
        if storage.is_file(place[:end]):
            return place[:end]
    return None


def _open(place: str) -> ZipFile:
    file = storage.open_file(place)
    try:
        return ZipFile(file)
    except _BROKEN as error:
        storage.read(place, 1)  # a store that is gone says so here
        detail = f"the file is no whole ZIP archive ({error or type(error).__name__})"
        raise UnreadableError("broken_archive", detail) from error


def _read(archive: ZipFile, name: str, most: int) -> bytes:
    info = archive.getinfo(name)
    if _OUT_OF_IT.search(name.replace("\\", "/")):
        raise UnreadableError("bad_name", f"the name {name!r} leads out of the archive")
    if info.flag_bits & _ENCRYPTED:
        raise UnreadableError("encrypted", f"{name} in the archive is encrypted")
    if info.compress_type not in _METHODS:
        detail = f"{name} in the archive is compressed by method {info.compress_type}, not deflate"
        raise UnreadableError("broken_member", detail)
    if info.file_size >= most:
        detail = f"{name} has {info.file_size} bytes in the archive, {most - 1} are allowed"
        raise UnreadableError("too_large", detail)
    with archive.open(info) as member:
        return member.read(info.file_size + 1)  # to the end, where the checksum is compared
