"""The input files of a batch job: files, folder trees and globs, local or in an object store."""

import glob
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from nanograd.errors import DataError
from nanograd.pictures import archives
from nanograd.pictures.decode import SUFFIXES
from nanograd.runtime import storage


class InputFile(NamedTuple):
    """A file to read, with the attributes that identify its version."""

    place: str  # absolute path or URI
    num_bytes: int  # its size
    mtime_ns: int  # time of its last change


def expand(
    inputs: Sequence[str], suffixes: tuple[str, ...], hint: str = "check the path"
) -> list[InputFile]:
    """List all input files, sorted, none twice.

    In folders only files with one of the suffixes count, and names that begin with `_` or `.` are
    skipped, as Spark, Hive and Arrow do. A file named directly is always taken.

    Args:
        inputs: files, folders or globs, local or in an object store.
        suffixes: of the files to take.
        hint: advice if none is found.

    Raises:
        DataError: an input does not exist, or no file is found.
    """
    found: set[InputFile] = set()
    for place in inputs:
        found |= set(_expand_one(storage.absolute(place), suffixes))
    if not found:
        raise DataError(f"no {' or '.join(suffixes[:2])} files in {', '.join(inputs)}; {hint}")
    return sorted(found)


def expand_pictures(inputs: Sequence[str]) -> list[InputFile]:
    """List all picture files, as `expand` does; ZIP files count as folders of pictures.

    A damaged archive is listed itself, to be rejected when it is read.
    """
    files: list[InputFile] = []
    for file in expand(inputs, (*SUFFIXES, archives.SUFFIX)):
        if not file.place.lower().endswith(archives.SUFFIX):
            files.append(file)
            continue
        for place, num_bytes in archives.list_members(file.place):
            if place == file.place or _matches(place.removeprefix(f"{file.place}/"), SUFFIXES):
                files.append(InputFile(place, num_bytes, file.mtime_ns))
    if not files:
        raise DataError(f"no .png or .jpg files in {', '.join(inputs)}; check the path")
    return sorted(files)


def _expand_one(place: str, suffixes: tuple[str, ...]) -> Iterator[InputFile]:
    if storage.is_remote(place):
        for each in storage.files_below(place):
            file = InputFile(*each)
            name = file.place.removeprefix(place.rstrip("/") + "/")
            if file.place == place or _matches(name, suffixes):
                yield file
        return
    path = Path(place)
    if path.is_file():
        yield _local_file(path)
    elif path.is_dir():
        for below in sorted(path.rglob("*")):
            if below.is_file() and _matches(str(below.relative_to(path)), suffixes):
                yield _local_file(below)
    else:
        # Path.glob takes no absolute pattern.
        found = sorted(glob.glob(place, recursive=True))  # noqa: PTH207
        # A dangling link or a pipe is found, too, and would match itself for ever.
        matches = [each for each in found if Path(each).is_file() or Path(each).is_dir()]
        if not matches:
            raise DataError(f"{place}: there is no such file or folder; check the path")
        for match in matches:
            yield from _expand_one(match, suffixes)


def _local_file(path: Path) -> InputFile:
    status = path.stat()
    return InputFile(str(path), status.st_size, status.st_mtime_ns)


def _matches(name: str, suffixes: tuple[str, ...]) -> bool:
    hidden = any(part.startswith(("_", ".")) and part != ".." for part in Path(name).parts)
    return not hidden and name.lower().endswith(suffixes)
