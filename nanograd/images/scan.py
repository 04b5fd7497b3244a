"""The columns and rows of files: Parquet files by their footers, CSV files by a whole read.

Files of one job may have image columns of different types, and any columns that are not read. A
column that is copied to the predictions may have different types, if one type can hold them. A
value that does not fit this type ends the job.
"""

import os
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from itertools import filterfalse, islice
from typing import Any, NamedTuple

import pyarrow as pa

from nanograd.errors import DataError, Reason, StorageError, UnreadableError, UsageError
from nanograd.images.columns import (
    Columns,
    Partitions,
    choose,
    fits,
    flat_columns,
    list_names,
    odd_labels,
    rename_taken,
)
from nanograd.images.csv import CSV, CsvFile
from nanograd.images.inputs import InputFile, Version, kind_of
from nanograd.images.parquet import open_parquet
from nanograd.images.tensors import is_any, is_list, plain_type
from nanograd.pictures.archives import Archives, possible_archives
from nanograd.runtime import storage
from nanograd.runtime.events import Listener, count, warning
from nanograd.settings.specs import NO_LABELS, ReadOptions

_NOTHING = pa.schema([])
ALL = "*"  # keeps all columns except the images


class ScannedFile(NamedTuple):
    """A Parquet or CSV file, a picture (one row, no columns), or a damaged archive."""

    file: InputFile
    schema: pa.Schema = _NOTHING  # columns of the file; empty if it cannot be opened
    group_rows: tuple[int, ...] = ()  # number of rows in each row group
    rejected: UnreadableError | None = None  # why the file cannot be used
    num_bytes: int = 0  # uncompressed bytes of all columns; of a picture, bytes of its file
    # What else determines the rows: the entity tag in an object store, or the label of a picture.
    more: Version = ()
    whole: pa.Schema = _NOTHING  # columns of the file and of its folder names
    columns: Columns | None = None  # columns of images and labels; None if it cannot be used

    @property
    def version(self) -> Version:
        """The values that `check_version` and `find_earlier` compare."""
        return (*self.file[1:], *self.more)

    @property
    def num_rows(self) -> int:
        """Number of rows in the file."""
        return sum(self.group_rows)

    def fit(
        self, readings: tuple[ReadOptions, ...]
    ) -> tuple["ScannedFile", tuple[ReadOptions, ...]]:
        """Return the file with the columns of the first options that fit, and those and later ones.

        A file that was usable with the first options is returned as it is, as is one for which no
        options fit.
        """
        readings = tuple(dict.fromkeys(readings))
        for number, options in enumerate(readings if self.rejected else ()):
            with suppress(DataError):
                columns = choose(self.whole, options)
                return self._replace(columns=columns, rejected=None), readings[number:]
        return self, readings


def check_version(file: str, version: Version) -> None:
    """Raise DataError unless a file still has the `ScannedFile.version` that was planned."""
    size, mtime, _, _, *tag = version
    found: list[int | str | None] = []
    with suppress(DataError), storage.accessing(file, "read"):
        if tag:
            with storage.open_file(file) as stream:
                found = [stream.size(), mtime, entity_tag(stream)]
        elif storage.is_remote(file):
            [(_, *found)] = storage.files_below(file)
        else:
            status = os.stat(file)  # noqa: PTH116 - a Path takes three times as long
            found = [status.st_size, status.st_mtime_ns]
    # ctime and inode are not compared: a new link changes ctime, and some file systems renumber.
    if found != [size, mtime, *tag]:
        raise DataError(f"{file} was changed after the job began; start the job again")


def check_pictures(files: Sequence[str], versions: Sequence[Version]) -> None:
    """Raise DataError if pictures were changed, or their ZIP file removed, since they were listed.

    Single pictures in an object store are not checked: that would take a request for each.
    """
    for file, version in zip(files, versions, strict=True):
        is_picture = kind_of(file) != "archive" and not storage.is_remote(file)
        if is_picture and storage.is_file(file):
            check_version(file, version[:4])
    is_folder = cache(lambda place: storage.exists(place) and not storage.is_file(place))
    planned: dict[str, Any] = {
        place: version[1]
        for file, version in zip(files, versions, strict=True)
        for place in islice(filterfalse(is_folder, possible_archives(file)), 1)
    }
    for place, mtime in planned.items():
        unit = 10**9 if storage.is_remote(place) else 1  # some stores list milliseconds, too
        found = storage.files_below(place) if storage.is_file(place) else []
        if [time // unit for _, _, time in found] != [mtime // unit]:
            raise DataError(f"{place} was changed after the job began; start the job again")


def entity_tag(stream: Any) -> str | None:
    """Return the entity tag of a file in an object store; None if it has none."""
    tag = (stream.metadata() or {}).get("ETag")
    return None if tag is None else tag.decode(errors="replace")


def as_pictures(
    files: Sequence[InputFile],
    labels: Sequence[int | None],
    partitions: Partitions = Partitions(),  # noqa: B008 - it cannot be changed
) -> dict[str, ScannedFile]:
    """Describe pictures and their labels, by path. A damaged archive has no row."""
    return {
        file.place: ScannedFile(
            file,
            group_rows=() if kind_of(file.place) == "archive" else (1,),
            num_bytes=file.num_bytes,
            more=(label,),
            whole=partitions.extend(_NOTHING, file.place),
        )
        for file, label in zip(files, labels, strict=True)
    }


def scan_files(
    files: Sequence[InputFile],
    all_files: Sequence[InputFile],
    partitions: Partitions,
    options: ReadOptions,
    *,
    some_usable: bool = False,
) -> list[ScannedFile]:
    """Read the footers of Parquet files, and whole CSV files; report ZIP archives as damaged.

    `files` may be some of the tables of the job; `all_files` are all of them. `some_usable` says
    that the job has other input, too.

    Raises:
        UsageError: all tables were read, and none has a column that an option names.
        DataError: all tables were read, none is usable, and the job has no other input.
    """

    def scan(file: InputFile) -> ScannedFile:
        more = list[str]()
        try:
            if kind_of(file.place) == "archive":
                with Archives() as archives:
                    archives.read(file.place, 1)  # raises again what happened when it was listed
            if storage.is_remote(file.place):
                with storage.open_file(file.place) as stream:
                    more = [tag] if (tag := entity_tag(stream)) else []
            if file.place.lower().endswith(CSV):
                table = CsvFile(file.place)
                num_rows, num_bytes = table.scan()
                schema, rows = table.schema, (num_rows,)
            else:
                with open_parquet(file.place) as parquet:
                    schema = parquet.schema_arrow
                    rows = tuple(group.num_rows for group in parquet.groups)
                    num_bytes = sum(group.total_byte_size for group in parquet.groups)
        except DataError as error:
            return ScannedFile(file, rejected=UnreadableError(Reason.BROKEN_FILE, str(error)))
        except UnreadableError as error:
            return ScannedFile(file, rejected=UnreadableError(*error.args))
        except StorageError as error:
            if not isinstance(error.__cause__, PermissionError):
                raise
            return ScannedFile(file, rejected=UnreadableError(Reason.NO_PERMISSION, str(error)))
        whole = partitions.extend(schema, file.place)
        scanned = ScannedFile(file, schema, rows, None, num_bytes, tuple(more), whole)
        try:
            found = choose(scanned.whole, options)
        except DataError as error:
            detail = f"{error} (the whole file, {count(sum(rows), 'row')})"
            return scanned._replace(rejected=UnreadableError(Reason.WRONG_SCHEMA, detail))
        return scanned._replace(columns=found)

    are_remote = any(storage.is_remote(file.place) for file in files)
    # For local files, threads would be slower.
    scanned = storage.map_all(scan, files) if are_remote else list(map(scan, files))
    if len(files) < len(all_files):  # earlier commands have used the other files
        return scanned
    label = None if options.label_column == NO_LABELS else options.label_column
    own = list(dict.fromkeys(name for each in scanned for name in each.schema.names))
    for flag, name, present in (
        ("--image-column", options.image_column, own),
        ("--label-column", label, _names_of(scanned)),
    ):
        if present and name is not None and name not in present:
            listed = list_names(present)
            raise UsageError(f"{flag} {name}: no file has this column; there are {listed}")
    rejected = [(each.file.place, each.rejected.detail) for each in scanned if each.rejected]
    if rejected and len(rejected) == len(scanned) and not some_usable:
        [(place, detail), *others] = rejected
        more = f"; none of {len(others):,} more files can be used" if others else ""
        named_detail = detail if detail.startswith(place) else f"{place}: {detail}"
        raise DataError(f"{named_detail}{more}")
    return scanned


def warn_of_unusable_labels(
    scanned: Sequence[ScannedFile], options: ReadOptions, listener: Listener
) -> None:
    """Emit a warning about each column that is named like labels but cannot hold digits."""
    found = Counter[tuple[str, str]]()
    for each in scanned:
        if options.label_column is None and each.columns and not each.columns.label:
            found.update((field.name, str(field.type)) for field in odd_labels(each.whole))
    for (name, type_), num_files in found.items():
        text = f"column {name!r} holds {type_}, which cannot be digits: {num_files:,} of"
        rest = f"{len(scanned):,} files are predicted without labels; choose a --label-column"
        listener(warning(f"{text} {rest}"))


def describe_columns(scanned: Sequence[ScannedFile], options: ReadOptions) -> dict[str, int]:
    """Count files by a description of their image and label columns, or of the problem."""
    found = Counter[str]()
    for each in scanned:
        if each.columns is None:
            found[each.rejected.detail if each.rejected else ""] += 1
            continue
        (_, (first, *others), choice), label = each.columns.image, each.columns.label
        type_ = str(each.schema.field(first).type).replace("\n", " ")
        about = f" to {others[-1]} ({choice})" if others else f" ({type_}; {choice})"
        reason = "named" if options.label_column else "by its name"
        labels = f"labels in {label} ({each.whole.field(label).type}; {reason})" if label else ""
        found[f"images in {first}{about}, {labels or 'no labels'}"] += 1
    return dict(found.most_common(20))


def kept_columns(
    scanned: Sequence[ScannedFile], keep: Sequence[str], format_: str, taken: Sequence[str]
) -> dict[str, pa.Field]:
    """Return the columns to keep by their names, each with a type for the values of all files.

    "*" in `keep` means all columns except the images. A column whose name is `taken` in the output
    gets another one there.

    Raises:
        UsageError: a column in `keep` is in none of the files, or the format cannot hold it.
        DataError: no type can hold the types of a column in all files.
    """
    usable = [each for each in scanned if not each.rejected]
    names = list(keep)
    if ALL in keep:
        # The images that are predicted, and pixels beside them.
        images = {name for each in usable if each.columns for name in each.columns.image.names}
        images.update(*(flat_columns(each.whole.names) or () for each in usable))
        names = [name for name in _names_of(usable) if name not in images]
        names += [name for name in keep if name != ALL]
    kept = list[pa.Field]()
    for name in dict.fromkeys(names):
        types = {each.whole.field(name).type for each in usable if name in each.whole.names}
        if not types:
            present = list_names(_names_of(usable)) or "no columns"
            why = next((f"; {each.rejected.detail}" for each in scanned if each.rejected), "")
            raise UsageError(f"--keep {name}: no file has this column; there are {present}{why}")
        plain = sorted(set(map(plain_type, types)), key=str)
        try:
            type_ = _common_type(plain)
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise DataError(
                f"--keep {name}: the files hold {' and '.join(map(str, plain))}, and no type holds "
                "the values of all; leave it out or write one type"
            ) from error
        if not fits(type_, format_):
            raise UsageError(
                f"--format {format_} cannot hold column {name!r} of type {type_}; "
                "leave it out of --keep or choose parquet"
            )
        kept.append(pa.field(name, type_))  # `reader.read` checks each value
    renamed = rename_taken([field.name for field in kept], taken)
    return {e.name: e.with_name(name) for e, name in zip(kept, renamed, strict=True)}


def _common_type(types: Sequence[pa.DataType]) -> pa.DataType:
    """Return a type that holds the values of all types; raise ArrowTypeError if there is none.

    Arrow rounds decimals to floats without an error, and joins decimals and whole numbers to a
    decimal with too few digits for the latter.
    """

    def join(types: Sequence[pa.DataType]) -> pa.DataType:
        schemas = [pa.schema([("", type_)]) for type_ in types]
        return pa.unify_schemas(schemas, promote_options="permissive").field(0).type

    types = [each for each in types if not is_any(each, "null")] or types
    if len(set(types)) == 1:
        return types[0]
    joined = join(types)
    if is_any(joined, "struct"):
        inner = {
            name: [each.field(name).type for each in types if name in each.names]
            for name in joined.names
        }
        return pa.struct([(name, _common_type(found)) for name, found in inner.items()])
    if is_list(joined):
        value = _common_type([each.value_type for each in types])
        if is_any(joined, "large_list"):
            return pa.large_list(value)
        return pa.list_(value, getattr(joined, "list_size", -1))
    if not any(is_any(each, "decimal") for each in types):
        return joined
    if is_any(joined, "floating"):
        raise pa.ArrowTypeError
    return join(
        [
            pa.decimal128(len(str(2**each.bit_width))) if is_any(each, "integer") else each
            for each in types
        ]
    )


def _names_of(scanned: Sequence[ScannedFile]) -> list[str]:
    """List the columns of all files that can be opened; columns of folder names come last."""
    own = dict.fromkeys(name for each in scanned for name in each.schema.names)
    return list(own | dict.fromkeys(name for each in scanned for name in each.whole.names))
