"""The input files of a batch job: files, folder trees and globs, local or in an object store."""

import glob
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from errno import EACCES
from functools import lru_cache, partial
from hashlib import file_digest
from os import R_OK, X_OK
from pathlib import Path
from stat import S_ISLNK, S_ISREG
from typing import Any, NamedTuple, TypeAlias

from fsspec.utils import glob_translate

from nanograd.errors import DataError, StorageError, UsageError
from nanograd.images.csv import CSV, check_ending
from nanograd.pictures import archives
from nanograd.pictures.decode import SUFFIXES
from nanograd.runtime import storage
from nanograd.runtime.events import Listener, count, ignore, info, warning

TABLES = (".parquet", ".pq")
PICTURES = (*SUFFIXES, archives.SUFFIX)

# Tables whose Parquet files also hold deleted or replaced rows: the folder of their log, the suffix
# of its files, the kind of table, and a package that reads it.
_LAKES = {
    "_delta_log": ("", "a Delta table", "deltalake"),
    "metadata": (".metadata.json", "an Iceberg table", "pyiceberg"),
    ".hoodie": ("", "a Hudi table", "hudi"),
}

_END_BYTES = 65_536  # of the start and the end of a file in an object store, for `content_of`
_translate = lru_cache(maxsize=8)(glob_translate)  # to a regular expression
_HIVE = re.compile(r"/([^/=]+=[^/]+)/")  # a folder that defines a column
_DENIED = re.compile("access.?denied|permission", re.IGNORECASE)  # in errors of stores


class InputFile(NamedTuple):
    """A file to read, with the attributes that identify its version."""

    place: str  # absolute path or URI
    num_bytes: int  # size
    mtime_ns: int  # time when the content was last changed
    # Time when content or metadata was last changed, and inode number. Both are 0 in an object
    # store, where `mtime_ns` is enough because nobody can set it.
    ctime_ns: int = 0
    inode: int = 0

    @classmethod
    def of(cls, place: str, found: os.stat_result) -> "InputFile":
        """Describe a local file."""
        return cls(place, found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)


@dataclass(frozen=True)
class Origin:
    """The source of a row; the fields of this class are the first columns of every output."""

    path: str  # the user's picture or, if the row names none, `source_file`
    source_file: str  # path or URI of the input file
    source_row: int | None  # row number in the file; None for a whole file

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> "Origin":
        """Return the origin of a row of an output."""
        return cls(row["path"], row["source_file"], row["source_row"])

    @property
    def is_picture(self) -> bool:
        """Whether the path is of a picture, and not of a table."""
        return self.path != self.source_file or kind_of(self.path) == "picture"

    @property
    def place(self) -> str:
        """Return the path of the picture, or file and number of the row."""
        row = "" if self.is_picture or self.source_row is None else f", row {self.source_row:,}"
        return f"{self.path}{row}"

    @property
    def name(self) -> str:
        """Return `place` without folders."""
        return self.place.removeprefix(self.path.rpartition("/")[0]).removeprefix("/")


# Size and times of a file, and what else determines its rows (see `scan.ScannedFile`).
Version: TypeAlias = tuple[int | str | None, ...]
# Path of a file with links resolved, the file, and why it is skipped ("" if it is not).
Found: TypeAlias = tuple[str, InputFile, str]
_OTHERS = "file of another kind"
_BROKEN = "path to a broken link or a pipe"
_OWN = "folder of nanograd's output"
_DOTS = "object with . or .. in its key"  # `storage.arrow_filesystem` refuses it
# Names in a folder of predictions, and in one of a training run.
_MARKS = ({"_manifest.json", "predictions"}, {"config.toml", "metrics.jsonl"})


def expand(
    inputs: Sequence[str],
    suffixes: tuple[str, ...] = PICTURES,
    hint: str = "check the path",
    listener: Listener = ignore,
    *,
    members: bool = True,
) -> list[InputFile]:
    """List all input files, sorted. A file is listed once, even if several links lead to it.

    With `members`, a ZIP file is replaced by the pictures in it. A damaged ZIP file is listed
    itself, and rejected when it is read.

    Below a folder, files whose names end with one of `suffixes` are listed. If `.parquet` is one of
    them, files that begin as Parquet files do are listed, too. Names that begin with `_` or `.`
    are skipped, as in Spark, Hive and Arrow, and so are folders of predictions and training runs.
    The listener gets a warning about these folders, and about files with other suffixes. A file or
    folder that is an input itself is always listed.

    Raises:
        DataError: an input does not exist, no file is found (`hint` ends the message), or
            `suffixes` has `.parquet` and an input is a Delta, Iceberg or Hudi table.
        StorageError: a folder cannot be listed.
    """
    found: dict[str, InputFile] = {}
    skipped: dict[str, dict[str, str]] = {why: {} for why in (_OTHERS, _BROKEN, _OWN, _DOTS)}
    for each, place in zip(inputs, map(storage.absolute, inputs), strict=True):
        find = _find_remote if storage.is_remote(place) else _find_local
        slash = "/" if each.endswith("/") and find is _find_local and _is_glob(place) else ""
        for real, file, why in find(place + slash, suffixes):  # a slash: only folders, as in shells
            if why:
                skipped[why].setdefault(real, file.place)
                continue
            same, end = (file, found.get(real, file)), f"/{real.rpartition('/')[2]}"
            # The file itself takes precedence over a link with another name, also below a link.
            found[real] = min(same, key=lambda e: (e.place != real, not e.place.endswith(end), e))
    left = {why: [e[real] for real in e.keys() - found.keys()] for why, e in skipped.items()}
    _warn(left, listener)
    files = _with_members(found.values(), listener) if members else found.values()
    if not files:
        raise DataError(f"no {' or '.join(suffixes[:2])} files in {', '.join(inputs)}; {hint}")
    return sorted(files)


def _warn(skipped: Mapping[str, Collection[str]], listener: Listener) -> None:
    for why, places in skipped.items():
        if places:
            noun, _, kind = why.partition(" ")
            text = f"not read: {count(len(places), noun)} {kind}, such as {min(places)}"
            listener(warning(text))


def kind_of(place: str) -> str:
    """Return `parquet`, `csv`, `picture` or `archive` by the suffix of a file; "" for any other."""
    kinds = {"parquet": TABLES, "csv": CSV, "picture": SUFFIXES, "archive": (archives.SUFFIX,)}
    return next((kind for kind, ends in kinds.items() if place.lower().endswith(ends)), "")


def is_table(place: str) -> bool:
    """Return whether a file is Parquet, by its suffix or its first bytes."""
    if kind := kind_of(place):
        return kind == "parquet"
    try:
        return storage.read(place, 4) == b"PAR1"
    except (DataError, StorageError):
        return False


def expand_all(
    inputs: Sequence[str],
    output: str,
    format_: str = "parquet",
    *,
    image_root: str | None = None,
    listener: Listener = ignore,
) -> tuple[list[InputFile], list[InputFile]]:
    """List all tables and all pictures, as `expand` does.

    CSV files in a folder with Parquet files or pictures may be lists of labels or outputs. They are
    listed only if an input with a CSV suffix names them. A file that is an input itself, and whose
    type is unknown, counts as a picture. Files of the output (`output` is its absolute path or URI,
    and `format_` the format of its files) are not listed. Rows of tables may refer to pictures
    below `image_root`, so pictures there and in a folder with tables are listed only if an input
    names them. Archives that cannot be read are listed with the tables.

    Raises:
        UsageError: an input names the output or files in it.
        DataError: there is no file to read.
    """
    named = {storage.absolute(each) for each in inputs}
    globs = list(filter(_is_glob, named))

    def is_named(file: InputFile, ending: str | tuple[str, ...] = "") -> bool:
        some = (glob for glob in globs if glob.lower().endswith(ending))
        return file.place in named or any(_is_named(each, file.place) for each in some)

    hint = "Parquet and CSV files are read, too; check the path"
    tables, texts, pictures = list[InputFile](), list[InputFile](), list[InputFile]()
    found = expand(inputs, (*PICTURES, *TABLES, *CSV), hint, listener, members=False)
    for file in found:
        kind = kind_of(file.place)
        if kind in ("", "archive") and is_named(file) and not is_table(file.place):
            check_ending(file.place)
            kind = kind or "picture"
        if not file.place.startswith(f"{output}/"):
            lists = {"picture": pictures, "archive": pictures, "csv": texts}
            lists.get(kind, tables).append(file)
    folders = {_before_wildcards(each) if each in globs else each for each in named}

    def given(file: InputFile) -> str:
        """Return the folder of the input in which a file was found, the innermost one."""
        return max(folders & _folders(file.place), key=len, default="")

    mixed = {given(file) for file in (*tables, *pictures)} if texts else set()
    left = [file for file in texts if given(file) in mixed and not is_named(file, CSV)]
    tables += set(texts).difference(left)
    below = storage.join(output, "predictions")
    own = [output, below, storage.join(below, f"part.{format_}")]
    # Resolve links, because both may name the same folder. The output does not exist yet.
    own = [each if storage.is_remote(each) else os.path.realpath(each) for each in own]
    for place in sorted(named):
        real = place if storage.is_remote(place) else os.path.realpath(place)
        if real == own[0] or any(_is_named(real, each) for each in own[1:]):
            text = f"the input {place} names the output, {output}, or files in it"
            raise UsageError(f"{text}; choose another --output")
    if left:
        text = f"not read: {count(len(left), 'CSV file')} beside other files, such as"
        listener(warning(f"{text} {left[0].place}; name it to predict its rows"))
    if image_root is not None and tables:
        mixed = {given(file) for file in tables}
        pictures = [
            each
            for each in pictures
            if is_named(each) or not (given(each) in mixed or image_root in _folders(each.place))
        ]
    pictures = _with_members(pictures, listener)
    damaged = [file for file in pictures if kind_of(file.place) == "archive"]
    tables = sorted([*tables, *damaged])
    pictures = sorted({*pictures}.difference(damaged))
    if not tables and not pictures:
        if any(file.place.startswith(f"{output}/") for file in found):
            raise UsageError(f"the whole input is in the output, {output}; choose another --output")
        raise DataError(f"no {' or '.join(SUFFIXES[:2])} files in {', '.join(inputs)}; {hint}")
    return tables, pictures


def _with_members(files: Iterable[InputFile], listener: Listener) -> list[InputFile]:
    """Return files, and instead of an archive its pictures, or itself if it is damaged."""
    found: dict[str, InputFile] = {}
    others = list[str]()
    for file in files:
        if kind_of(file.place) != "archive":
            found[file.place] = file
            continue
        for place, num_bytes in archives.list_members(file.place):
            name = place.removeprefix(f"{file.place}/")
            if place == file.place or (name.lower().endswith(SUFFIXES) and not _is_hidden(name)):
                found[place] = InputFile(place, num_bytes, *file[2:])
            elif not _is_hidden(name):
                others.append(place)
    _warn({_OTHERS: others}, listener)
    return list(found.values())


def roots_of(inputs: Sequence[str], listener: Listener = ignore) -> list[str]:
    """Return the inputs as absolute paths or URIs; for a glob, the folder before its wildcards.

    Only folders `name=value` below an input define columns. The listener receives a message if the
    path of an input itself has such a folder.
    """
    places = map(storage.absolute, inputs)
    roots = [_before_wildcards(place) if _is_glob(place) else place for place in places]
    if named := next((root for root in roots if _HIVE.search(f"{root}/")), None):
        [folder] = _HIVE.findall(f"{named}/")[-1:]
        text = f"{folder} is no column, because it is not below the input {named}; name the folder"
        listener(info(f"{text} above it to read it"))
    return roots


def content_of(file: str) -> str:
    """Return the SHA-256 of a file; in an object store, of its first and last 64 KiB.

    Reading a whole object can take minutes, and its entity tag does not identify the content: two
    copies of the same object have different tags if one was uploaded in parts.
    """
    if not storage.is_remote(file):  # Arrow's stream takes twice as long
        with storage.accessing(file, "read"), storage.local_path(file).open("rb", 0) as local:
            return file_digest(local, "sha256").hexdigest()
    with storage.open_file(file) as stream:
        start = max(0, stream.size() - _END_BYTES)
        return storage.checksum(stream.read_at(_END_BYTES, 0) + stream.read_at(_END_BYTES, start))


def _find_local(place: str, suffixes: tuple[str, ...]) -> Iterator[Found]:
    """Yield the files that a path or glob names, and the files in folders; linked folders last."""
    is_glob = not storage.exists(place)
    found = sorted(each.rstrip("/") or "/" for each in _match(place)) if is_glob else [place]
    folders = _listable(found)
    files = [each for each in found if os.path.isfile(each)]  # noqa: PTH113
    if not folders and not files:
        device = "this is a pipe or device, no file; check the path"
        raise DataError(f"{place}: {_without_match(place) if is_glob else device}")
    for file in set(found).difference(folders, files):  # a dangling link or a pipe
        yield file, InputFile(file, 0, 0), _BROKEN
    for folder in {_table_of(each) for each in (*folders, *(str(Path(e).parent) for e in files))}:
        _check_plain(folder, suffixes)
    for file in files:
        yield os.path.realpath(file), InputFile.of(file, Path(file).stat()), ""

    def fail(error: OSError) -> None:
        raise StorageError(f"cannot list {error.filename}: {error.strerror}") from error

    seen = set[str]()
    for start in folders:
        for path, below, names in os.walk(start, onerror=fail):
            real = os.path.realpath(path)
            if real in seen:
                below.clear()
                continue
            seen.add(real)
            _listable([path])
            if path != place and any(marks <= {*below, *names} for marks in _MARKS):
                yield real, InputFile(path, 0, 0), _OWN
                below.clear()
                continue
            _check_plain(path, suffixes)
            below[:] = sorted(name for name in below if not _is_hidden(name))
            paths = [os.path.join(path, name) for name in below]  # noqa: PTH118
            folders += [each for each in paths if os.path.islink(each)]  # noqa: PTH114
            for name in (each for each in names if not _is_hidden(each)):
                file, target = (os.path.join(each, name) for each in (path, real))  # noqa: PTH118
                status = os.lstat(file)
                if S_ISLNK(status.st_mode):
                    with suppress(DataError), storage.accessing(file, "read"):
                        status = os.stat(file)  # noqa: PTH116 - it fails for a circular link
                        target = os.path.realpath(file)
                why = _BROKEN
                if S_ISREG(status.st_mode):
                    why = "" if _is_wanted(file, suffixes) else _OTHERS
                yield target, InputFile.of(file, status), why


def _match(place: str) -> list[str]:
    """Return what a local glob matches; raise StorageError if it has to look into a locked folder.

    `glob.glob` would skip such a folder, and Path.glob rejects absolute patterns.
    """
    for above in _folders(place) if glob.has_magic(place) else ():
        if above.startswith(_before_wildcards(place)):
            _listable(glob.glob(above, recursive=True))  # noqa: PTH207
    return glob.glob(place, recursive=True)  # noqa: PTH207


def _listable(places: Iterable[str]) -> list[str]:
    """Return the folders among places; raise StorageError if one may not be listed or entered."""
    folders = [each for each in places if os.path.isdir(each)]  # noqa: PTH112
    for folder in folders:
        if not os.access(folder, R_OK | X_OK, effective_ids=True):
            raise StorageError(f"cannot list {folder}: {os.strerror(EACCES)}")
    return folders


def _is_wanted(place: str, suffixes: tuple[str, ...]) -> bool:
    """Return whether a file has one of the suffixes, or is Parquet, by its content, if wanted."""
    return place.lower().endswith(suffixes) or (set(TABLES) <= {*suffixes} and is_table(place))


def _find_remote(place: str, suffixes: tuple[str, ...]) -> Iterator[Found]:
    """Yield the files in an object store that a URI or glob names, and the files in folders."""
    is_glob = _is_glob(place)
    base = _before_wildcards(place) if is_glob else place
    listed = [] if is_glob and not storage.exists(base) else storage.files_below(base)
    places = {name for name, _, _ in listed}
    tables = {e.partition(log)[0] for e in places for log in map("/{}/".format, _LAKES) if log in e}
    folder = base.rpartition("/")[0] if base in places else base.rstrip("/")
    try:
        for each in {*tables, _table_of(folder)}:
            _check_plain(each, suffixes)
    except StorageError as error:  # a store may allow to read a named file, and no lists
        if base not in places or not _DENIED.search(str(error)):
            raise
    for name in {each for each in places if {".", ".."} & {*each.split("/")}}:
        yield name, InputFile(name, 0, 0), _DOTS
        places.remove(name)
    for marks in _MARKS:
        heads = ({name.rpartition(f"/{mark}")[0] for name in places} for mark in marks)
        for own in filter(partial(takes, place), set.intersection(*heads) - {base.rstrip("/")}):
            yield own, InputFile(own, 0, 0), _OWN
            places -= {e for e in places if e.startswith(f"{own}/") and not _is_named(place, e)}
    visible = [InputFile(*e) for e in listed if e[0] in places and takes(place, e[0])]
    if is_glob and not visible:
        raise DataError(f"{place}: {_without_match(place)}")
    wanted = storage.map_all(lambda file: _is_wanted(file.place, suffixes), visible)
    for file, is_wanted in zip(visible, wanted, strict=True):
        yield file.place, file, "" if is_wanted or _is_named(place, file.place) else _OTHERS


def _is_glob(place: str) -> bool:
    """Return whether a path has wildcards; a file or folder of that name is taken as it is."""
    return glob.has_magic(place) and not storage.exists(place)


def _without_match(place: str) -> str:
    hint = ", and write [[] for a [ in a name" if "[" in place else ""
    return f"there is no such file or folder; check the path{hint}"


def _before_wildcards(place: str) -> str:
    """Return the folder before the wildcards of a glob."""
    return re.split(r"[*?[]", place)[0].rpartition("/")[0]


def _folders(place: str) -> set[str]:
    """Return all folders that a file is in."""
    return {place[:end] or "/" for end, letter in enumerate(place) if letter == "/"}


def _is_named(place: str, file: str) -> bool:
    """Return whether a path or glob names a file."""
    return file == place or bool(re.fullmatch(_translate(place), file))


def takes(place: str, file: str) -> bool:
    """Return whether a path or glob names a file, or a folder in which the file is not hidden."""
    names = file.split("/")
    return any(
        _is_named(place, "/".join(names[:end])) and not _is_hidden("/".join(names[end:]))
        for end in range(len(names), 0, -1)
    )


def _table_of(folder: str) -> str:
    """Return the folder without `data` and `name=value` at its end, as tables call their parts."""
    return re.sub(r"(/data|/[^/=]+=[^/]*)+$", "", folder)


def _check_plain(folder: str, suffixes: tuple[str, ...]) -> None:
    """Raise DataError if Parquet is wanted and a folder is a Delta, Iceberg or Hudi table."""
    for log, (ending, kind, package) in _LAKES.items() if set(TABLES) <= {*suffixes} else ():
        if any(name.endswith(ending) for name in storage.names(storage.join(folder, log))):
            raise DataError(
                f"{folder} is {kind}, whose files also hold rows that were deleted or replaced; "
                f"export its current rows, for example with the package {package}, and predict them"
            )


def _is_hidden(name: str) -> bool:
    return any(part.startswith(("_", ".")) and part not in (".", "..") for part in name.split("/"))
