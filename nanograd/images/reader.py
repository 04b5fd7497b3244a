"""The stream of images: rows of any table, or pictures, as batches of images with their origins.

An origin is a file and the number of a row in it. Small files of one schema are joined to a batch,
because a batch of few rows takes as long as a batch of many.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import compress, groupby, islice
from typing import Any, TypeAlias, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from PIL import Image

from nanograd.errors import DataError, UnreadableError
from nanograd.images.columns import Partitions, choose, is_text, valid_text
from nanograd.images.csv import CSV, CsvFile
from nanograd.images.labels import Label
from nanograd.images.parquet import BATCH_BYTES, MAX_ROWS, Decoder, RowRange, read_parquet
from nanograd.images.rows import Convert, attempt, new_images, read_images, read_labels, to_form
from nanograd.images.tensors import Refused
from nanograd.images.writers import beside, quarantine_table, refuse_rows, source_table
from nanograd.pictures import decode
from nanograd.pictures.archives import Archives
from nanograd.runtime import storage
from nanograd.runtime.arrays import Floats, Ints
from nanograd.settings.specs import PictureOptions, ReadOptions

Found = TypeVar("Found")
# The bytes of a picture, or why there are none; None if its file has not been read.
Content: TypeAlias = bytes | UnreadableError | None
# A column to copy of each table, by its name there, with its name and type in the output.
Keep: TypeAlias = Mapping[str, pa.Field]
_NOTHING: Keep = {}


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Images of some rows, in the order of the rows."""

    # (n, 784) uint8, ink 255 on 0, or n results of the function that converts pictures.
    images: NDArray[Any]
    labels: NDArray[np.int8]  # (n,) int8, -1 for none, `rows.BAD_LABEL` for one that is no digit
    columns: pa.Table  # n rows of the columns to keep and of `SOURCE`, for the output
    num_dark: int  # number of raw images that polarity `auto` takes for dark ink on light paper

    @property
    def rows(self) -> Ints:
        """The row number of each image in its file, (n,) int64."""
        rows: Ints = self.columns["source_row"].to_numpy()
        return rows

    def predicted(self, probabilities: Floats, unfamiliarity: Floats) -> pa.Table:
        """Return the columns of predictions for the (n, 10) probabilities of the images."""
        flat = pa.array(probabilities.ravel())
        return pa.table(
            {
                "prediction": probabilities.argmax(axis=1).astype(np.int8),
                "confidence": probabilities.max(axis=1),
                "unfamiliarity": unfamiliarity,
                "probabilities": pa.FixedSizeListArray.from_arrays(flat, 10),
                "label": pa.array(self.labels, mask=self.labels < 0),
            }
        )

    def take(self, places: Ints) -> "Batch":
        """Return a batch of some rows, which may be repeated."""
        return replace(
            self,
            images=self.images[places],
            labels=self.labels[places],
            columns=self.columns.take(pa.array(places)),
        )

    def without(self, refused: Refused) -> tuple["Batch", pa.Table]:
        """Return the batch without rows that cannot be read, and the quarantine of these rows."""
        rows = np.array(sorted(refused), np.int64)
        left = np.delete(np.arange(len(self.labels)), rows)
        lost = self.columns.take(pa.array(rows))
        quarantine = quarantine_table(lost, [refused[row] for row in rows.tolist()])
        return self.take(left) if refused else self, quarantine


def read(
    files: Iterable[tuple[str, RowRange | None]],
    options: ReadOptions,
    partitions: Partitions = Partitions(),  # noqa: B008 - it cannot be changed
    keep: Keep = _NOTHING,
    again: Mapping[str, pa.Table] | None = None,
    *,
    convert: Convert | None = None,
    unfinished: dict[str, Decoder] | None = None,
) -> Iterator[Batch | pa.Table]:
    """Read the images and labels of tables. Each row is in exactly one batch or quarantine table.

    `files` are paths or URIs of Parquet and CSV files with the range of rows to read (None: all).
    The columns `keep` are copied, and are null in rows of files without them. Damaged rows have
    only the columns of folder names. `convert` turns pictures into images, by default into
    images in MNIST's form (`rows.to_form`).

    If `again` is given, only the rows that it lists are read. It has the quarantined rows of each
    file, in the order of the file. If the columns of a file do not fit the options, its rows are
    quarantined as before.

    If a later call will read more rows of a file, `unfinished` keeps its decoder.

    Raises:
        DataError: the columns of a file do not fit the options, a file was changed after the job
            was planned, or a value does not fit the type in `keep`.
        StorageError: the storage fails; the file may be intact.
    """
    unfit = set[str]()

    def names_of(schema: pa.Schema, file: str) -> list[str]:
        names = set(keep)
        try:
            names.update(choose(partitions.extend(schema, file), options).names)
        except DataError as error:
            if again is None:
                raise DataError(f"{file}: {error}") from error
            unfit.add(file)
        return [name for name in schema.names if name in names] or schema.names[:1]

    held, num_rows, num_bytes = list[tuple[str, Ints, pa.Table]](), 0, 0
    for file, rows in files:
        first = rows.first_row if rows else 0
        before = None if again is None else again[file]
        for part in read_rows(file, rows, partial(names_of, file=file), unfinished):
            numbers = np.arange(first, first + len(part))
            first += len(part)
            if before is not None:
                wanted = np.isin(numbers, before["source_row"])
                numbers = numbers[wanted]
                if isinstance(part, list):
                    part = list(compress(part, wanted))  # noqa: PLW2901
                else:
                    part = part.filter(pa.array(wanted))  # noqa: PLW2901
            if isinstance(part, list) and file not in unfit:
                yield refuse(file, numbers, part, partitions, keep)
                continue
            table = (
                partitions.add(pa.Table.from_batches([part]), file)
                if isinstance(part, pa.RecordBatch)
                else pa.table({"": pa.nulls(len(part))})
            )
            if before is not None and file in unfit:
                rows_before = before.filter(pc.is_in(before["source_row"], pa.array(numbers)))
                yield beside(pa.table(_keep(table, keep)), rows_before)
                continue
            if held and not _are_alike(held[-1][-1], table):
                yield from _decode(held, options, keep, convert)
                held, num_rows, num_bytes = [], 0, 0
            held.append((file, numbers, table))
            num_rows += table.num_rows
            num_bytes += table.get_total_buffer_size()  # at least nbytes, which takes 7 us
            is_full = num_rows >= MAX_ROWS
            if num_bytes >= BATCH_BYTES:  # tables may share a buffer
                is_full |= sum(each.nbytes for _, _, each in held) >= BATCH_BYTES
            if is_full:
                yield from _decode(held, options, keep, convert)
                held, num_rows, num_bytes = [], 0, 0
    if held:
        yield from _decode(held, options, keep, convert)


def refuse(
    file: str,
    rows: Sequence[int | None] | Ints,
    errors: Sequence[UnreadableError],
    partitions: Partitions,
    keep: Keep,
) -> pa.Table:
    """Make the quarantine table of rows of a file of which only the folder names are known."""
    known = partitions.add(pa.table({"": pa.nulls(len(rows))}), file)
    fitting = [e.name for e in known.schema if e.name not in keep or e.type == keep[e.name].type]
    table = known.select(fitting)  # a column of other files may have the name and another type
    return beside(pa.table(_keep(table, keep)), refuse_rows(file, rows, errors))


def read_table(table: pa.Table, options: ReadOptions) -> tuple[Batch, pa.Table]:
    """Read the images and labels of a table, as `read` does."""
    return _decode([("", np.arange(len(table)), table)], options, _NOTHING)


def read_rows(
    file: str,
    rows: RowRange | None,
    choose: Callable[[pa.Schema], Sequence[str]],
    unfinished: dict[str, Decoder] | None = None,
) -> Iterator[pa.RecordBatch | list[UnreadableError]]:
    """Read some columns, which `choose` returns, of some rows of a table (None: of all rows).

    Yield batches of consecutive rows, and lists with the errors of consecutive rows. See `read` for
    `unfinished`.
    """
    if not file.lower().endswith(CSV):
        return read_parquet(file, rows, choose, {} if unfinished is None else unfinished)
    table = CsvFile(file)
    skip, num_rows = (rows.skip, rows.num_rows) if rows else (0, None)
    return table.read(skip, num_rows, choose(table.schema))


def read_pictures(
    files: Iterable[tuple[str, Content]],
    convert: Callable[[Image.Image], Found],
    options: PictureOptions,
    *,
    whole: bool = False,
) -> Iterator[tuple[bytes | None, Found | UnreadableError]]:
    """Read pictures one by one, given by path or URI, possibly in a ZIP file.

    A file is not read if its bytes are given beside its path. Yield the bytes, or None if they
    cannot be read, and the result of `convert` for the decoded picture, or the reason why it was
    refused. No error is raised. See `decode` for `whole`.
    """
    with Archives() as archives:
        for file, given in files:
            data = given
            if data is None:
                data = attempt(partial(decode.read, file, options, archives.read))
            if isinstance(data, UnreadableError):
                yield None, data
            else:
                read = partial(decode.decode, data, options, whole=whole)
                yield data, attempt(lambda read=read: convert(read()))  # type: ignore[misc]


def read_files(
    files: Iterable[tuple[str, Label]],
    options: ReadOptions,
    partitions: Partitions = Partitions(),  # noqa: B008 - it cannot be changed
    keep: Keep = _NOTHING,
    contents: dict[str, str | None] | None = None,
    *,
    convert: Convert | None = None,
) -> Iterator[Batch | pa.Table]:
    """Read pictures and their labels as `read` reads tables. A picture is row 0 of its file.

    `contents` receives the `checksum_of_picture` of each picture.
    """
    to_image = convert or partial(to_form, options=options)
    waiting = iter(files)
    while some := list(islice(waiting, MAX_ROWS)):
        num_rows = len(some)
        images, refused = new_images(num_rows, convert), Refused()
        pictures = read_pictures(
            ((file, None) for file, _ in some), to_image, options, whole=convert is not None
        )
        for row, (data, image) in enumerate(pictures):
            if contents is not None and data is not None:
                contents[some[row][0]] = storage.checksum(data)
            if isinstance(image, UnreadableError):
                refused[row] = image
            else:
                images[row] = image
        folders = groupby(file.rpartition("/")[0] for file, _ in some)
        tables = [
            partitions.add(pa.table({"": pa.nulls(len([*same]))}), f"{folder}/")
            for folder, same in folders
        ]
        table = pa.concat_tables(tables, promote_options="default")
        origins = source_table([file for file, _ in some], np.zeros(num_rows, np.int64))
        yield from Batch(
            images=images,
            labels=np.array([-1 if label is None else label for _, label in some], np.int8),
            columns=beside(pa.table(_keep(table, keep)), origins),
            num_dark=0,
        ).without(refused)


def checksum_of_picture(file: str, options: PictureOptions, archives: Archives) -> str | None:
    """Return the SHA-256 of a picture's bytes, possibly in a ZIP file; None if it is unreadable."""
    with suppress(UnreadableError):  # an archive, or a file that was removed meanwhile
        return storage.checksum(decode.read(file, options, archives.read))
    return None


def _are_alike(one: pa.Table, other: pa.Table) -> bool:
    """Return whether two tables may be read as one. Metadata of pandas is ignored."""
    if one.schema.equals(other.schema, check_metadata=True):
        return True
    features = ((each.schema.metadata or {}).get(b"huggingface", b"") for each in (one, other))
    named = [{b"huggingface": each} for each in features]
    schemas = map(pa.Schema.with_metadata, (one.schema, other.schema), named)
    return bool(pa.Schema.equals(*schemas, check_metadata=True))


def _decode(
    held: Sequence[tuple[str, Ints, pa.Table]],
    options: ReadOptions,
    keep: Keep,
    convert: Convert | None = None,
) -> tuple[Batch, pa.Table]:
    """Decode tables with equal columns. Each item is a file, its row numbers and its rows."""
    table = pa.concat_tables(table for _, _, table in held)
    columns = choose(table.schema, options)
    images, paths, refused, num_dark = read_images(table, columns.image, options, convert)
    files = np.repeat(np.arange(len(held)), [each.num_rows for _, _, each in held])
    names = pa.array([storage.as_text(file) for file, _, _ in held], pa.string())
    origins = source_table(
        names.take(pa.array(files)), np.concatenate([each for _, each, _ in held]), paths
    )
    return Batch(
        images=images,
        labels=read_labels(table, columns.label),
        columns=beside(pa.table(_keep(table, keep)), origins),
        num_dark=num_dark,
    ).without(refused)


def _keep(table: pa.Table, keep: Keep) -> dict[str, pa.Array | pa.ChunkedArray]:
    """Return columns of a table, text in UTF-8; a column that the table lacks is null."""
    columns = dict[str, pa.Array | pa.ChunkedArray]()
    for name, field in keep.items():
        column = pa.chunked_array([pa.nulls(table.num_rows, field.type)])
        if name in table.column_names:
            column = table.column(name)
        try:
            column = column if column.type == field.type else column.cast(field.type)
            columns[field.name] = valid_text(column) if is_text(field.type) else column
        except pa.ArrowInvalid as error:
            raise DataError(
                f"--keep {name}: a value does not fit {field.type}, the type of other files "
                f"({error}); leave it out"
            ) from error
    return columns
