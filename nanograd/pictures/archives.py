"""Pictures in ZIP files. An archive is read in place, like a folder whose name ends in `.zip`.

The path of a member (a file in an archive) is the archive's path, a slash and the member's name:
`drawings.zip/7/drawing-0001.png`. Nothing is unpacked to disk, and a member is decompressed only up
to its allowed size.

References:
    PKWARE, "APPNOTE.TXT", 6.3.10, sections 4.3 and 4.4; Fifield (2019), "A better zip bomb".
"""

import re
import struct
import zlib
from collections import Counter
from collections.abc import Iterator, Set
from contextlib import ExitStack
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile

from nanograd.errors import DataError, Reason, StorageError, UnreadableError
from nanograd.runtime import storage
from nanograd.runtime.events import count

SUFFIX = ".zip"
_SUFFIXES = re.compile(r"\.zip(?=/|$)", re.IGNORECASE)
# Accepted methods. Deflate expands a byte to at most 1,032; bzip2 and LZMA have no such bound.
_METHODS = (ZIP_STORED, ZIP_DEFLATED)
_ENCRYPTED = 0x1
_EMPTY, _END_BYTES = b"PK\5\6", 22  # an archive without members begins with its end record
# Names that lead outside the archive: absolute, with a drive letter, or with a parent folder.
_OUTSIDE = re.compile(r"^/|^[A-Za-z]:|(^|/)\.\.(/|$)")
# Errors that `zipfile` raises for damaged bytes.
_BROKEN = (
    *(BadZipFile, zlib.error, struct.error, EOFError, OSError),
    *(ValueError, LookupError, RuntimeError, ArithmeticError),
)


def list_members(archive: str) -> list[tuple[str, int]]:
    """List path and stated size of the files in an archive; of an unreadable one, only itself."""
    try:
        if len(end := storage.read(archive, _END_BYTES)) == _END_BYTES and end.startswith(_EMPTY):
            return []
        with _open(archive) as found:
            # A damaged name may be empty, for which `is_dir` of Python 3.11 fails.
            infos = [info for info in found.infolist() if not info.filename.endswith("/")]
    except (UnreadableError, DataError, StorageError) as error:
        if isinstance(error, StorageError) and not isinstance(error.__cause__, PermissionError):
            raise
        return [(archive, 0)]
    return [(f"{archive}/{info.filename}", info.file_size) for info in infos]


class Archives(ExitStack):
    """Reader of files and of members of archives. It keeps the last archive open."""

    _place: str = ""
    _archive: ZipFile | None = None
    _ambiguous: Set[str] = frozenset()  # names of several members that differ

    def read(self, place: str, max_bytes: int) -> bytes:
        """Read the first `max_bytes` bytes of a file, or all of a member that has fewer bytes.

        Raises:
            DataError: the file or member does not exist.
            UnreadableError: `broken_archive`; for a member, `bad_name`, `encrypted`, `too_large` or
                `broken_member`.
        """
        if self._archive is None or not place.startswith(f"{self._place}/"):
            # A folder may have a name that ends in `.zip`, too.
            archive = next(filter(storage.is_file, possible_archives(place)), None)
            if archive is None:
                return storage.read(place, max_bytes)
            opened = _open(archive)
            self.close()
            self._place, self._archive = archive, self.enter_context(opened)
            contents = {(each.filename, each.CRC, each.file_size) for each in opened.infolist()}
            counts = Counter(member for member, _, _ in contents)
            self._ambiguous = {member for member, number in counts.items() if number > 1}
        if place == self._place:
            return storage.read(place, max_bytes)
        name = place.removeprefix(f"{self._place}/")
        try:
            info = self._archive.getinfo(name)
            most, double = count(max_bytes - 1, "byte"), "differs from another of this name"
            for is_refused, reason, detail in (
                (_OUTSIDE.search(name.replace("\\", "/")), Reason.BAD_NAME, "is outside of it"),
                (name in self._ambiguous, Reason.BROKEN_MEMBER, f"{double}; keep one"),
                (info.flag_bits & _ENCRYPTED, Reason.ENCRYPTED, "is encrypted"),
                (info.compress_type not in _METHODS, Reason.BROKEN_MEMBER, "is not deflated"),
                (info.file_size >= max_bytes, Reason.TOO_LARGE, f"has over {most}"),
            ):
                if is_refused:
                    raise UnreadableError(reason, f"{name!r} in the archive {detail}")
            with self._archive.open(info) as member:
                return member.read(info.file_size + 1)  # at the end, zipfile checks the checksum
        except KeyError as error:
            raise DataError(f"{place}: there is no such file in the archive") from error
        except _BROKEN as error:
            storage.read(self._place, 1)  # raises StorageError if the storage has failed
            detail = f"{name} in the archive is damaged ({error or type(error).__name__})"
            raise UnreadableError(Reason.BROKEN_MEMBER, detail) from error


def possible_archives(place: str) -> Iterator[str]:
    """Yield the path up to each of its names that end in `.zip`."""
    return (place[: found.end()] for found in _SUFFIXES.finditer(place))


def _open(place: str) -> ZipFile:
    file = storage.open_file(place)
    try:
        return ZipFile(file)
    except _BROKEN as error:
        storage.read(place, 1)  # raises StorageError if the storage has failed
        detail = f"the file is not a complete ZIP archive ({error or type(error).__name__})"
        raise UnreadableError(Reason.BROKEN_ARCHIVE, detail) from error
