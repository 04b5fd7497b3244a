"""Training and test images of every kind of source that `--data` names.

Folders of IDX and CSV files are loaded by `data.mnist`. Parquet files are read as by `predict`, and
so are digits of IDX and CSV files if most are dark on light. Pictures are read as by `ingest`:
those in MNIST's form keep their bits, others are normalised.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from os import PathLike
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from nanograd.data import mnist
from nanograd.data.csv import CSV, UnlabelledError, check_ending, parse_csv
from nanograd.data.mnist import WORDS, MissingError
from nanograd.digits.dataset import NUM_CLASSES, NUM_PIXELS, SIDE, Dataset, Mnist, Source
from nanograd.digits.preparation import as_rows
from nanograd.errors import ArgumentError, DataError, Rejection, UnreadableError, UsageError
from nanograd.images.columns import find_partitions
from nanograd.images.conversion import are_dark_on_light, read, required_columns
from nanograd.images.files import RowRange, open_parquet, read_rows
from nanograd.jobs.inputs import (
    TABLES,
    InputFile,
    expand,
    expand_pictures,
    is_table,
    roots_of,
)
from nanograd.jobs.labels import label_of
from nanograd.pictures import archives, decode, normalise
from nanograd.pictures.archives import Archives
from nanograd.pictures.decode import SUFFIXES
from nanograd.runtime import storage
from nanograd.runtime.events import Listener, ignore, info, warning
from nanograd.settings.specs import PictureFileOptions, ReadOptions

Columns = tuple[str | None, str | None]
ARRAYS = "arrays"  # the name of a data set that no file holds

# Folders, and names of Parquet and CSV files, of test images, as on the Hugging Face hub.
_TEST = re.compile(r"(^|/)(split=|mnist[-_])?(test|testing)(?![a-z])", re.IGNORECASE)
_LABELS_FROM = {
    "rows": "a column label, digit or target",
    "pictures": "folders or names, as 7/img.png",
}
_PICTURES = (*SUFFIXES, archives.SUFFIX)
_ENDINGS = (*TABLES, *_PICTURES)

# The images and labels of some rows, -1 for none, and the rows that cannot be read.
_Batch = tuple[NDArray[np.uint8], NDArray[np.int8], list[tuple[str, Rejection]]]
_NOTHING = np.zeros((0, NUM_PIXELS), np.uint8), np.zeros(0, np.int8)


def load(
    sources: Sequence[str],
    listener: Listener = ignore,
    test_split: float | None = None,
    columns: Columns = (None, None),
    arrays: Source | None = None,
) -> Mnist:
    """Load and join data sets: `auto`, `mnist`, `sample`, or paths or URIs.

    See `mnist.load_source` for folders of IDX and CSV files. Pictures in a folder `test`, and files
    of Parquet or of a glob of CSV in one or of such a name, are test images, if there are others.

    Args:
        sources: one or several.
        listener: receives messages, such as about rows that are left out.
        test_split: share of the images held out of data sets without test images.
        columns: the image and the label column of Parquet files; None to recognise it.
        arrays: of `from_arrays`, in place of the sources.

    Raises:
        DataError: data is missing or damaged, or has no labels.
        UsageError: a setting has no effect on these data sets.
    """
    if arrays is not None:
        return mnist.join([arrays], listener, test_split)
    found = []
    for source, train, test in _find(sources, columns, listener):
        if train:
            parts = [_read(each, source, columns, listener) for each in (train, test) if each]
            found.append(Source(storage.absolute(source), parts[0], parts[1] if test else None))
        else:
            name, each, other = mnist.load_source(source, listener)
            each, other = _invert(each, name, listener), other and _invert(other, name, listener)
            found.append(Source(name, each, other))
    return mnist.join(found, listener, test_split)


def load_test(
    sources: Sequence[str],
    listener: Listener = ignore,
    columns: Columns = (None, None),
    arrays: Source | None = None,
) -> Dataset:
    """Load and join test images, as `load`, or all images of a data set without any."""
    if arrays is not None:
        return arrays.train
    found = []
    for source, train, test in _find(sources, columns, listener):
        uses_all = not test
        if train:
            found.append(_read(test or train, source, columns, listener))
        else:
            try:
                data, uses_all = mnist.load_test(source, listener), False
            except (UnlabelledError, MissingError):
                data = mnist.load_source(source, listener).train
            found.append(_invert(data, source, listener))
        if uses_all:
            text = f"all {len(found[-1]):,} images of {source} are used, even if a net learnt them"
            listener(info(text))
    return mnist.concatenate(found)


def reload_test(
    data: Sequence[str], about: Mapping[str, Any], settings: Mapping[str, Any], listener: Listener
) -> Dataset:
    """Load test images for the report of a run: of `data`, else its own.

    Those of the run are found by its model's manifest, `about`, and its config.toml, `settings`.

    Raises:
        DataError: the data has changed.
        UsageError: the run was trained on arrays.
    """
    if data:
        return load_test(data, listener)
    if about["data"] == ARRAYS:
        raise UsageError("the run was trained on arrays; name its test images with --data")
    names = about["data"] if isinstance(about["data"], list) else [about["data"]]
    columns = (settings.get("image_column"), settings.get("label_column"))
    if (share := about.get("test_split")) is None:
        return load_test(names, listener, columns)
    found = load(names, listener, test_split=share, columns=columns)
    if found.sha256 != about["identity"]["data_sha256"]:
        raise DataError(f"{found.name} has changed since the run; name test images with --data")
    return found.test


def separate_arrays(settings: dict[str, Any]) -> tuple[dict[str, Any], Source | None]:
    """Return settings, and the data set of the arrays in `data`, if it is a pair of these."""
    data = settings.get("data")
    names = data if isinstance(data, list | tuple) else [data]
    if data is None or all(isinstance(each, str | PathLike) for each in names):
        return settings, None
    if len(names) != 2 or any(isinstance(each, str | PathLike) for each in names):
        raise ArgumentError(
            "data is the name of a data set, several, or one pair (images, labels), not in a list "
            "with others; save the pair as a Parquet file to join it"
        )
    return {**settings, "data": ARRAYS}, from_arrays(*names)


def from_arrays(images: ArrayLike, labels: ArrayLike) -> Source:
    """Return a data set of images, as `Model.predict` takes them, and their labels, (N,) 0 to 9.

    Raises:
        ArgumentError: they cannot be that.
    """
    rows, numbers = as_rows(images), np.asarray(labels)
    if numbers.shape != (len(rows),):
        raise ArgumentError(f"{len(rows):,} images need as many labels, not {numbers.shape}")
    if not len(rows):
        raise ArgumentError("there are no images")
    is_digit = np.isin(numbers, range(NUM_CLASSES)) & (numbers.dtype != np.bool_)
    if not is_digit.all():
        first = is_digit.argmin()
        raise ArgumentError(f"label {first} is {numbers[first]}, expected 0 to 9")
    return Source(ARRAYS, Dataset(rows, numbers.astype(np.uint8)), None)


def _find(
    sources: Sequence[str], columns: Columns, listener: Listener
) -> list[tuple[str, list[InputFile], list[InputFile]]]:
    """Return each source with its files of rows or pictures, those of test images apart."""
    found = [(source, *_split_files(_row_files(source, listener), source)) for source in sources]
    has_tables = any(train and _ending(train[0].place) == TABLES for _, train, _ in found)
    if any(columns) and not has_tables:
        flags = "--image-column and --label-column"
        raise UsageError(f"{', '.join(sources)}: there are no Parquet files; leave {flags} out")
    return found


def _row_files(source: str, listener: Listener) -> list[InputFile]:
    """List the CSV or Parquet files of a source, else its pictures; [] if it is of another kind."""
    if not source:
        raise UsageError("--data is empty; name a data set")
    if source in WORDS:
        return []
    place = storage.absolute(source)
    is_csv, is_file = place.lower().endswith(CSV), storage.is_file(place)
    is_rows = is_file and is_table(place)
    if is_file and not is_rows:
        check_ending(place)
    is_known = is_rows or place.lower().endswith(_PICTURES)
    is_other = mnist.is_data_set(place) or (is_file and not is_known)
    exists = storage.exists(place) or re.search(r"[*?[]", place)
    if not is_csv and (is_other or not exists):
        return []
    hint = "expected MNIST's IDX files, mnist_train.csv or train.csv, Parquet files or pictures"
    hint += " (a CSV file of another name is named itself)"
    files = expand([place], CSV if is_csv else _ENDINGS, hint, listener)
    for ending in (TABLES, CSV):
        tables = [file for file in files if _ending(file.place) == ending]
        if tables and (number := len(files) - len(tables)):
            text = f"{number:,} other files beside {ending[0][1:]} files are not used"
            listener(warning(f"{source}: {text}"))
        if tables:
            return tables
    return expand_pictures([place])


def _ending(place: str) -> tuple[str, ...]:
    """Return TABLES or CSV of a file of rows; () for pictures."""
    is_csv = place.lower().endswith(CSV)
    return CSV if is_csv else () if place.lower().endswith(_PICTURES) else TABLES


def _split_files(
    files: Sequence[InputFile], source: str
) -> tuple[list[InputFile], list[InputFile]]:
    """Separate files of test images; none if all or none are."""
    root = re.split(r"[*?[]", storage.absolute(source))[0]
    parts: tuple[list[InputFile], list[InputFile]] = [], []
    for file in files:
        below = file.place.removeprefix(root)
        below = below if _ending(file.place) else below.rpartition("/")[0]
        parts[bool(_TEST.search(below))].append(file)
    return parts if parts[0] else (parts[1], [])


def _read(files: Sequence[InputFile], source: str, columns: Columns, listener: Listener) -> Dataset:
    """Read labelled images; rows without a label or a picture are left out, with a warning."""
    ending = _ending(files[0].place)
    if ending == CSV:
        parts = [(parse_csv(storage.read(place), place), place) for place, *_ in files]
        return mnist.concatenate([_invert(*part, listener) for part in parts])
    if ending == TABLES:
        return _collect(_read_tables(files, source, columns, listener), source, "rows", listener)
    return _collect(_read_pictures(files), source, "pictures", listener)


def _invert(data: Dataset, name: str, listener: Listener) -> Dataset:
    """Return digits of a CSV or IDX file; if most are dark on light, as Parquet rows are read."""
    dark = int(are_dark_on_light(data.images.reshape(-1, SIDE, SIDE, 1)).sum())
    if 2 * dark <= len(data):
        return data
    text = f"{dark:,} of {len(data):,} images have a bright border and are taken for dark ink on"
    listener(warning(f"{name}: {text} light paper"))
    pixels = pa.FixedSizeListArray.from_arrays(pa.array(data.images.ravel()), NUM_PIXELS)
    found, bad = read(pa.table({"image": pixels, "label": data.labels}), ReadOptions())
    batch = found.images, found.labels, [(name, each) for each in bad]
    return _collect([batch], name, "rows", listener)


def _collect(batches: Iterable[_Batch], source: str, what: str, listener: Listener) -> Dataset:
    images, labels, rejected = [_NOTHING[0]], [_NOTHING[1]], list[tuple[str, Rejection]]()
    for some, of_them, bad in batches:
        images.append(some)
        labels.append(of_them)
        rejected += bad
    known = np.concatenate(labels)
    has_label = known >= 0
    if not has_label.any():
        raise DataError(
            f"{source}: none of {len(known) + len(rejected):,} {what} has a label and can be read; "
            f"labels come from {_LABELS_FROM[what]}{_describe(rejected)}"
        )
    total = f"of {len(known) + len(rejected):,} {what}"
    if missing := int((~has_label).sum()):
        listener(warning(f"{source}: {missing:,} {total} are left out, without a label"))
    if rejected:
        text = f"{len(rejected):,} {total} are left out, unreadable{_describe(rejected)}"
        listener(warning(f"{source}: {text}"))
    return Dataset(np.concatenate(images)[has_label], known[has_label].astype(np.uint8))


def _describe(rejected: Sequence[tuple[str, Rejection]]) -> str:
    if not rejected:
        return ""
    file, first = rejected[0]
    reasons = Counter(str(each.reason) for _, each in rejected).most_common(3)
    counts = ", ".join(f"{count:,} {reason}" for reason, count in reasons)
    row = "" if first.row is None else f"row {first.row:,} of "
    return f" ({counts}; first {row}{file}: {first.detail})"


def _read_tables(
    files: Sequence[InputFile], source: str, columns: Columns, listener: Listener
) -> Iterator[_Batch]:
    options = ReadOptions(image_column=columns[0], label_column=columns[1])
    partitions = find_partitions((file.place for file in files), roots_of([source], listener))
    for file, *_ in files:
        with open_parquet(file) as parquet:
            footer, schema = parquet.metadata, parquet.schema_arrow
        try:
            names = required_columns(schema, file, partitions, options)
        except DataError as error:
            raise DataError(f"{file}: {error}") from error
        wanted = [name for name in schema.names if name in names]
        done, whole = 0, RowRange((0, footer.num_row_groups), 0, 0, footer.num_rows)
        for batch in read_rows(file, whole, lambda _, wanted=wanted: wanted):  # type: ignore[misc]
            if isinstance(batch, list):
                found, rejections = None, batch
            else:
                table = partitions.add(pa.Table.from_batches([batch]), file)
                found, rejections = read(table, options)
            bad = [(file, Rejection(done + (r.row or 0), r.reason, r.detail)) for r in rejections]
            done += len(batch)
            if found and found.num_bad_labels:
                raise DataError(
                    f"{file}: {found.num_bad_labels:,} of the first {done:,} rows have a label "
                    "that is no digit from 0 to 9; correct them, or set them to null"
                )
            yield (found.images, found.labels, bad) if found else (*_NOTHING, bad)


def _read_pictures(files: Sequence[InputFile]) -> Iterator[_Batch]:
    options = PictureFileOptions()
    with Archives() as pack:
        for file, *_ in files:
            found = label_of(file, "auto")
            label = -1 if found is None else found
            if found is None and not file.lower().endswith(archives.SUFFIX):  # a damaged archive
                yield np.zeros((1, NUM_PIXELS), np.uint8), np.full(1, -1, np.int8), []
                continue
            try:
                image = normalise.normalise(
                    decode.decode(decode.read(file, options, pack.read), options)
                )
                yield image.reshape(1, NUM_PIXELS), np.full(1, label, np.int8), []
            except UnreadableError as error:
                bad = Rejection(None, error.reason, error.detail)
                yield *_NOTHING, [(file, bad)]
