"""The input files of a batch job: files, folder trees and globs, local or in an object store."""

import glob
import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from hashlib import file_digest
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from fsspec.utils import glob_translate

from nanograd.errors import DataError, StorageError, UsageError
from nanograd.images.csv import CSV, check_ending
from nanograd.pictures import archives
from nanograd.pictures.decode import SUFFIXES
from nanograd.runtime import storage
from nanograd.runtime.events import Listener, ignore, info, warning

TABLES = (".parquet", ".pq")
_MAGIC = b"PAR1"  # at the start of a Parquet file, also of those by Hive, Impala and Dask

# Files of tables whose Parquet files also hold rows that were deleted or replaced; kind, package.
_LAKES = {
    "_delta_log/*": ("a Delta table", "deltalake"),
    "metadata/*.metadata.json": ("an Iceberg table", "pyiceberg"),
    ".hoodie/*": ("a Hudi table", "hudi"),
}
_LAKE_FOLDERS = [f"/{pattern.partition('/')[0]}/" for pattern in _LAKES]


# Files in an object store whose first bytes are read at once.
_NUM_THREADS = 16
# The beginning and the end of a file in an object store, by which it is known.
_END_BYTES = 65_536
# A folder that is a column, as in Hive.
_HIVE = re.compile(r"/([^/=]+=[^/]+)/")


class InputFile(NamedTuple):
    """A file to read, with the attributes that identify its version."""

    place: str  # absolute path or URI
    num_bytes: int  # its size
    mtime_ns: int  # time of its last change
    # Time of the last change of anything about it, and its number on the disk; 0 in a store, whose
    # times nobody sets.
    ctime_ns: int = 0
    inode: int = 0


class _Skipped(NamedTuple):
    """Files in folders that are not taken, by the reason."""

    broken: set[str]  # links that lead nowhere, pipes
    others: set[str]  # files of other kinds


def expand(
    inputs: Sequence[str],
    suffixes: tuple[str, ...],
    hint: str = "check the path",
    listener: Listener = ignore,
) -> list[InputFile]:
    """List all input files, sorted, none twice, also if links lead to it.

    In folders only files with one of the suffixes count and, where those of tables are among them,
    Parquet files of any name; names that begin with `_` or `.` are skipped, as Spark, Hive and
    Arrow do. A file named directly is always taken.

    Args:
        inputs: files, folders or globs, local or in an object store.
        suffixes: of the files to take.
        hint: advice if none is found.
        listener: receives a warning about files in folders that are not taken.

    Raises:
        DataError: an input does not exist, no file is found, or tables are looked for in a Delta,
            Iceberg or Hudi table.
        StorageError: a folder cannot be listed.
    """
    found: dict[str, InputFile] = {}
    skipped = _Skipped(set(), set())
    for place in map(storage.absolute, inputs):
        find = _find_remote if storage.is_remote(place) else _find_local
        for real, file in find(place, suffixes, skipped):
            same = (file, found.get(real, file))
            found[real] = min(same, key=lambda each: (each.place != real, each.place))
    for places, what in (
        (skipped.others, "other files are not read as input"),
        (skipped.broken, "links that lead to no file, or pipes, are not read"),
    ):
        if places:
            listener(warning(f"{len(places):,} {what}, such as {min(places)}"))
    if not found:
        raise DataError(f"no {' or '.join(suffixes[:2])} files in {', '.join(inputs)}; {hint}")
    return sorted(found.values())


def is_table(place: str) -> bool:
    """Return whether a file is Parquet, by its name or its first bytes."""
    if place.lower().endswith((*TABLES, *CSV, *SUFFIXES, archives.SUFFIX)):
        return place.lower().endswith(TABLES)
    try:
        return storage.read(place, len(_MAGIC)) == _MAGIC
    except (DataError, StorageError):
        return False


def expand_tables(
    inputs: Sequence[str],
    output: str,
    *,
    pictures_expected: bool = False,
    listener: Listener = ignore,
) -> list[InputFile]:
    """List all Parquet and CSV files, as `expand` does.

    CSV files beside Parquet files may be lists of labels or outputs: they count if an input names
    their ending.

    Args:
        inputs: files, folders or globs, local or in an object store.
        output: absolute place of a file that the job will write.
        pictures_expected: whether rows refer to pictures, which may be beside them.
        listener: receives a warning about files that are not read.

    Raises:
        UsageError: an input is a picture, or the inputs include the output.
    """
    named = {storage.absolute(each) for each in inputs}
    hint = "`nanograd ingest` makes them of pictures"
    files = expand(inputs, (*TABLES, *CSV, *SUFFIXES), hint, listener)
    pictures = [file.place for file in files if file.place.lower().endswith(SUFFIXES)]
    if direct := named.intersection(pictures):
        raise UsageError(
            f"{min(direct)} is a picture; `nanograd ingest` makes rows of it that can be predicted"
        )
    for place in named.intersection(file.place for file in files):
        if not is_table(place):
            check_ending(place)
    if len(pictures) == len(files):
        raise DataError(f"no {', '.join(TABLES)} or .csv files in {', '.join(inputs)}; {hint}")
    texts = [file.place for file in files if file.place.lower().endswith(CSV)]
    takes_csv = len(texts) + len(pictures) == len(files) or any(
        each.lower().endswith(CSV) for each in inputs
    )
    if around := [each for each in sorted(named) if _includes(each, output, csv=takes_csv)]:
        raise UsageError(
            f"the output, {output.rpartition('/')[0]}, lies in the input {around[0]} and would be "
            "input next time; choose another --output"
        )
    if pictures and not pictures_expected:
        text = f"{len(pictures):,} pictures, such as {pictures[0]}, are not predicted"
        listener(warning(f"{text}; `nanograd ingest` makes rows of them"))
    if texts and not takes_csv:
        text = (
            f"{len(texts):,} CSV files beside Parquet files, such as {texts[0]}, are not predicted"
        )
        listener(warning(f"{text}; name them to predict them"))
    left_out = {*pictures, *([] if takes_csv else texts)}
    return [file for file in files if file.place not in left_out]


def expand_pictures(
    inputs: Sequence[str], hint: str = "check the path", listener: Listener = ignore
) -> list[InputFile]:
    """List all picture files, as `expand` does; ZIP files count as folders of pictures.

    A damaged archive is listed itself, to be rejected when it is read.
    """
    files: list[InputFile] = []
    for file in expand(inputs, (*SUFFIXES, archives.SUFFIX), hint, listener):
        if not file.place.lower().endswith(archives.SUFFIX):
            files.append(file)
            continue
        for place, num_bytes in archives.list_members(file.place):
            name = place.removeprefix(f"{file.place}/")
            if place == file.place or (name.lower().endswith(SUFFIXES) and not _is_hidden(name)):
                files.append(InputFile(place, num_bytes, *file[2:]))
    if not files:
        raise DataError(f"no .png or .jpg files in {', '.join(inputs)}; {hint}")
    return sorted(files)


def roots_of(inputs: Sequence[str], listener: Listener = ignore) -> list[str]:
    """Return the files and folders that inputs name, of a glob the folder before its wildcards.

    Args:
        inputs: files, folders or globs, local or in an object store.
        listener: receives a message about folders in them that would be columns below an input.
    """
    roots = []
    for place in map(storage.absolute, inputs):
        is_glob = glob.has_magic(place) and not storage.exists(place)
        roots.append(re.split(r"[*?[]", place)[0].rpartition("/")[0] if is_glob else place)
    if named := next((root for root in roots if _HIVE.search(f"{root}/")), None):
        [folder] = _HIVE.findall(f"{named}/")[-1:]
        text = f"{folder} is no column, because it is not below the input {named}; name the folder"
        listener(info(f"{text} above it to read it"))
    return roots


def check_version(file: str, version: tuple[int | str | None, ...]) -> None:
    """Raise DataError unless a file is the one that was planned.

    Args:
        file: path or URI.
        version: that of an `InputFile` and, in an object store that has one, its `entity_tag`.
    """
    size, mtime, _, _, *tag = version
    try:
        if tag:
            with storage.open_file(file) as stream:
                found = [stream.size(), mtime, entity_tag(stream)]
        elif storage.is_remote(file):
            [(_, *found)] = storage.files_below(file)
        else:
            status = os.stat(file)  # noqa: PTH116 - a Path takes three times as long
            found = [status.st_size, status.st_mtime_ns]
    except (FileNotFoundError, DataError):
        found = []
    # Another link to a file changes its ctime, and some file systems number files anew.
    if found != [size, mtime, *tag]:
        raise DataError(f"{file} was changed after the job began; start the job again")


def content_of(file: str) -> str:
    """Return what tells the content of a file from others of its size: its SHA-256.

    In an object store, where reading it again may take minutes, that of its beginning and end. Its
    entity tag would not do: a copy of an object that was uploaded in pieces has another.

    Raises:
        DataError: the file does not exist.
        StorageError: it cannot be read.
    """
    with storage.open_file(file) as stream:
        if not storage.is_remote(file):
            return file_digest(stream, "sha256").hexdigest()
        start = max(0, stream.size() - _END_BYTES)
        return storage.checksum(stream.read_at(_END_BYTES, 0) + stream.read_at(_END_BYTES, start))


def entity_tag(stream: Any) -> str | None:
    """Return the tag that an object store gave to the content of a file; None without one."""
    tag = (stream.metadata() or {}).get("ETag")
    return None if tag is None else tag.decode(errors="replace")


def _find_local(
    place: str, suffixes: tuple[str, ...], skipped: _Skipped
) -> Iterator[tuple[str, InputFile]]:
    """Yield files, each after its place without links."""
    # Path.glob takes no absolute pattern, and a Path raises for names that are too long.
    is_glob = not os.path.exists(place)  # noqa: PTH110
    found = sorted(glob.glob(place, recursive=True)) if is_glob else [place]  # noqa: PTH207
    # A dangling link or a pipe is found, too.
    matches = [Path(each) for each in found if os.path.isfile(each) or os.path.isdir(each)]  # noqa: PTH112, PTH113
    if not matches:
        raise DataError(f"{place}: there is no such file or folder; check the path")
    skipped.broken.update({*found}.difference(map(str, matches)))
    seen: set[str] = set()
    for match in matches:
        if match.is_dir():
            yield from _walk(match, suffixes, seen, skipped)
        else:
            _check_plain(str(match.parent), suffixes)
            yield os.path.realpath(match), _input_file(str(match), match.stat())


def _walk(
    folder: Path, suffixes: tuple[str, ...], seen: set[str], skipped: _Skipped
) -> Iterator[tuple[str, InputFile]]:
    """Yield the visible files below a folder; linked folders last, and none that was seen."""
    direct = [(str(folder), os.path.realpath(folder))]
    linked: list[tuple[str, str]] = []
    while direct or linked:
        path, real = (direct or linked).pop(0)
        if real in seen:
            continue
        seen.add(real)
        _check_plain(path, suffixes)
        try:
            with os.scandir(path) as entries:
                visible = [each for each in entries if not each.name.startswith(("_", "."))]
        except OSError as error:
            raise StorageError(f"cannot list {path}: {error.strerror}") from error
        for entry in visible:
            is_link = entry.is_symlink()
            target = os.path.realpath(entry.path) if is_link else f"{real}/{entry.name}"
            # Not by the entry, which raises for links in a circle.
            if os.path.isdir(entry.path) if is_link else entry.is_dir():  # noqa: PTH112
                (linked if is_link else direct).append((entry.path, target))
            elif not (os.path.isfile(entry.path) if is_link else entry.is_file()):  # noqa: PTH113
                skipped.broken.add(entry.path)
            elif _is_wanted(entry.path, suffixes):
                yield target, _input_file(entry.path, entry.stat())
            else:
                skipped.others.add(entry.path)


def _input_file(place: str, status: os.stat_result) -> InputFile:
    return InputFile(place, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


def _is_wanted(place: str, suffixes: tuple[str, ...]) -> bool:
    """Return whether a file is of the kinds to take."""
    return place.lower().endswith(suffixes) or (set(TABLES) <= {*suffixes} and is_table(place))


def _find_remote(
    place: str, suffixes: tuple[str, ...], skipped: _Skipped
) -> Iterator[tuple[str, InputFile]]:
    """Yield files, each after its place."""
    base = place
    if glob.has_magic(place) and not storage.exists(place):
        base = re.split(r"[*?[]", place)[0].rpartition("/")[0]
    empty = base != place and not storage.exists(base)
    listed = [] if empty else storage.files_below(base)
    for name, _, _ in listed:
        if any(word in name for word in _LAKE_FOLDERS):
            _check_plain(name, suffixes)
    visible = [InputFile(*each) for each in listed if _takes(place, each[0])]
    with ThreadPoolExecutor(_NUM_THREADS) as pool:  # of names that say nothing, bytes are read
        wanted = list(pool.map(lambda file: _is_wanted(file.place, suffixes), visible))
    for file, is_wanted in zip(visible, wanted, strict=True):
        if is_wanted or _is_named(place, file.place):
            yield file.place, file
        else:
            skipped.others.add(file.place)
    if base != place and not visible:
        raise DataError(f"{place}: there is no such file or folder; check the path")


def _includes(place: str, file: str, *, csv: bool) -> bool:
    """Return whether the files of a folder or glob include a file that does not exist yet."""
    if not storage.is_remote(place):
        place, file = os.path.realpath(place), os.path.realpath(file)
    return _takes(place, file) and (
        file.lower().endswith((*TABLES, *CSV) if csv else TABLES) or _is_named(place, file)
    )


def _is_named(place: str, file: str) -> bool:
    return file == place or bool(_glob(place).fullmatch(file))


def _takes(place: str, file: str) -> bool:
    """Return whether a file is the one named by a place, matches its glob or is in its folders."""
    if _is_named(place, file):
        return True
    names = file.split("/")
    ends = (n for n in range(1, len(names)) if _is_named(place, "/".join(names[:n])))
    return any(not _is_hidden("/".join(names[end:])) for end in ends)


@lru_cache
def _glob(place: str) -> re.Pattern[str]:
    return re.compile(glob_translate(place))


def _check_plain(place: str, suffixes: tuple[str, ...]) -> None:
    """Refuse a local folder, or a remote file, of a table with a log of its own."""
    if not set(TABLES) <= set(suffixes):
        return
    remote = storage.is_remote(place)
    folder = place.rsplit("/", 2)[0] if remote else place
    for pattern, (kind, package) in _LAKES.items():
        if PurePosixPath(place).match(pattern) if remote else any(Path(place).glob(pattern)):
            raise DataError(
                f"{folder} is {kind}, whose files also hold rows that were deleted or replaced; "
                f"export its current rows, for example with the package {package}, and predict them"
            )


def _is_hidden(name: str) -> bool:
    return any(part.startswith(("_", ".")) and part != ".." for part in Path(name).parts)
