"""Which files a batch job reads: files, folder trees and globs, local or in an object store."""

import glob
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from nanograd.errors import DataError
from nanograd.pictures import archives
from nanograd.pictures.decode import SUFFIXES
from nanograd.runtime import storage


class InputFile(NamedTuple):
    """A file to be read, and what shows that it is still the same one.

    Args:
        place: absolute path or URI.
        num_bytes: its size.
        mtime_ns: when it was changed.
    """

    place: str
    num_bytes: int
    mtime_ns: int


def expand(
    inputs: Sequence[str], suffixes: tuple[str, ...], hint: str = "check the path"
) -> list[InputFile]:
    """All files meant; sorted, none twice.

    In folders only files with one of the suffixes count, and names that begin with `_` or `.` are
    passed over, as Spark, Hive and Arrow do. A file named directly is always taken.

    Args:
        inputs: files, folders or globs, local or in an object store.
        suffixes: those of the files meant.
        hint: what to do if there are none.

    Raises:
        DataError: an input is not there, or nothing is left.
    """
    found: set[InputFile] = set()
    for place in inputs:
        found |= set(_expand_one(storage.absolute(place), suffixes))
    if not found:
        raise DataError(f"no {' or '.join(suffixes[:2])} files in {', '.join(inputs)}; {hint}")
    return sorted(found)


def expand_pictures(inputs: Sequence[str]) -> list[InputFile]:
    """All picture files meant, as `expand`; ZIP files are folders of pictures.

    An archive that cannot be opened stands for itself, to be refused when it is read.

    Raises:
        DataError: an input is not there, or nothing is left.
    """
    files = [each for file in expand(inputs, (*SUFFIXES, archives.SUFFIX)) for each in _in(file)]
    if not files:
        raise DataError(
            f"no {' or '.join(SUFFIXES[:2])} files in {', '.join(inputs)}; check the path"
        )
    return sorted(files)


def _in(file: InputFile) -> Iterator[InputFile]:
    """The pictures in a file: itself, or those of an archive."""
    if not file.place.lower().endswith(archives.SUFFIX):
        yield file
        return
    for place, num_bytes in archives.members(file.place):
        if place == file.place or _counts(place.removeprefix(f"{file.place}/"), SUFFIXES):
            yield InputFile(place, num_bytes, file.mtime_ns)


def _expand_one(place: str, suffixes: tuple[str, ...]) -> Iterator[InputFile]:
    if storage.is_remote(place):
        yield from _expand_remote(place, suffixes)
        return
    path = Path(place)
    if path.is_file():
        yield _local_file(path)
    elif path.is_dir():
        for each in sorted(path.rglob("*")):
            if each.is_file() and _counts(str(each.relative_to(path)), suffixes):
                yield _local_file(each)
    else:
        # Path.glob takes no absolute pattern.
        found = sorted(glob.glob(place, recursive=True))  # noqa: PTH207
        # A link to nowhere is found, too, and would match itself for ever.
        matches = [each for each in found if Path(each).is_file() or Path(each).is_dir()]
        if not matches:
            raise DataError(f"{place}: there is no such file or folder; check the path")
        for match in matches:
            yield from _expand_one(match, suffixes)


def _expand_remote(place: str, suffixes: tuple[str, ...]) -> Iterator[InputFile]:
    for found in storage.files_below(place):
        file = InputFile(*found)
        below = file.place.removeprefix(place.rstrip("/") + "/")
        if file.place == place or _counts(below, suffixes):
            yield file


def _local_file(path: Path) -> InputFile:
    status = path.stat()
    return InputFile(str(path), status.st_size, status.st_mtime_ns)


def _counts(name: str, suffixes: tuple[str, ...]) -> bool:
    hidden = any(part.startswith(("_", ".")) and part != ".." for part in Path(name).parts)
    return not hidden and name.lower().endswith(suffixes)
