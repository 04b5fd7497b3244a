"""Loader of training and test images from the data sets that `--data` names.

Parquet files are read as by `predict`, pictures as by `ingest`: those in MNIST's form keep their
bits, others are normalised. Digits of IDX and CSV files keep theirs, unless most are dark on light:
then they are read as Parquet rows are. Every row of a CSV file must be readable; in other files,
rows that are not are left out with a warning.

References:
    LeCun et al. (1998), "Gradient-based learning applied to document recognition", III.A.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from nanograd.digits import download
from nanograd.digits.dataset import NUM_PIXELS, SIDE, Dataset, Mnist, Source, concatenate, hold_out
from nanograd.digits.idx import IDX_NAMES, find_pair, parse_pair
from nanograd.digits.preparation import labelled_rows
from nanograd.errors import ArgumentError, DataError, Reason, Rejected, StorageError, UsageError
from nanograd.images import columns, reader
from nanograd.images.columns import find_partitions
from nanograd.images.csv import CSV, CsvFile, check_ending
from nanograd.images.inputs import TABLES, InputFile, expand, expand_pictures, is_table, roots_of
from nanograd.images.labels import label_of
from nanograd.images.reader import Batch
from nanograd.images.rows import are_dark_on_light
from nanograd.pictures import archives
from nanograd.pictures.decode import SUFFIXES
from nanograd.runtime import storage
from nanograd.runtime.events import Listener, ignore, info, warning
from nanograd.settings.specs import ReadOptions

Columns = tuple[str | None, str | None]
ARRAYS = "arrays"  # the name of a data set that no file holds
WORDS = ("auto", "mnist", "sample")
SAMPLE = str(Path(__file__).parent / "sample")

# Share of the images that become test images if there are none.
_TEST_SPLIT = 0.1
# Folders, and names of Parquet and CSV files, of test images, as on the Hugging Face hub.
_TEST = re.compile(r"(^|/)(split=|mnist[-_])?(test|testing)(?![a-z])", re.IGNORECASE)
_LABELS_FROM = {
    "rows": "a column label, digit or target",
    "pictures": "folders or names, as 7/img.png",
}
_PICTURES = (*SUFFIXES, archives.SUFFIX)


class UnlabelledError(DataError):
    """A file of images without labels."""


def load(
    sources: Sequence[str],
    listener: Listener = ignore,
    test_split: float | None = None,
    columns: Columns = (None, None),
    arrays: Source | None = None,
    *,
    mirrors: Sequence[str] = download.MIRRORS,
) -> Mnist:
    """Load and join data sets.

    - `mnist`: from the cache, downloaded from one of the mirrors if necessary.
    - `sample`: 4,000 + 1,000 images in this package.
    - `auto`: `mnist`, or the sample, with a warning, if MNIST is not available.
    - a folder or URI (`./mnist` if its name is one of these words) with the four IDX files or with
      two CSV files, gzipped or not; test images may be missing, or have no labels (as Kaggle's).
    - CSV or Parquet files, or pictures. Those in a folder `test`, and files of rows of such a name,
      are test images, if there are others.

    Of a data set without test images, the last of each digit are held out, whatever its order.

    Args:
        sources: one or several.
        listener: receives messages, such as about rows that are left out.
        test_split: share of the images held out of data sets without test images.
        columns: the image and the label column of Parquet files; None to recognise it.
        arrays: of `separate_arrays`, in place of the sources.
        mirrors: base URLs of MNIST.

    Raises:
        DataError: data is missing or damaged, or has no labels; there are no test images, or only
            one digit to learn.
        StorageError: data cannot be read, or the cache cannot be written.
        UsageError: a setting has no effect on these data sets.
    """
    found = [arrays] if arrays else []
    for data_set in [] if arrays else _find(sources, columns, listener, mirrors):
        known, train = _load_first(data_set, "train")
        found.append(Source(known.name, known.require(train), known.load("test")))
    name = " + ".join(each.name for each in found)
    if test_split is not None and all(each.test is not None for each in found):
        raise UsageError(f"{name} has test images of its own; leave --test-split out")
    share = None
    pairs = list[tuple[Dataset, Dataset]]()
    for source, train, test in found:
        if test is not None:
            pairs.append((train, test))
            continue
        share = _TEST_SPLIT if test_split is None else test_split
        pairs.append(hold_out(train, share))
        held = f"the last {len(pairs[-1][1]):,} of its images, counted by digit, are held out"
        listener(info(f"{source} has no labelled test images: {held} as such (--test-split)"))
    train, test = (concatenate(each) for each in zip(*pairs, strict=True))
    if not len(test):
        raise DataError(
            f"{name}: {len(train):,} images are too few to hold out a share of {share} for testing"
        )
    if len(np.unique(train.labels)) == 1:
        raise DataError(
            f"{name}: all {len(train):,} training images have the label {train.labels[0]}; there "
            "is nothing to learn (in a CSV file without a header, the label comes first)"
        )
    return Mnist(
        train=train,
        test=test,
        name=name,
        sha256=storage.checksum(f"{train.sha256()} {test.sha256()}".encode()),
        test_split=share,
        sources=tuple(each.name for each in found),
    )


def load_test(
    sources: Sequence[str],
    listener: Listener = ignore,
    columns: Columns = (None, None),
    arrays: Source | None = None,
    *,
    mirrors: Sequence[str] = download.MIRRORS,
) -> Dataset:
    """Load and join test images, as `load`, or all images of a data set without any."""
    if arrays is not None:
        return arrays.train
    parts = []
    for data_set in _find(sources, columns, listener, mirrors):
        known, found = _load_first(data_set, "test")
        if found is None:
            found = known.require(known.load("train"))
            text = "are used, even if a net learnt them"
            listener(info(f"all {len(found):,} images of {known.source} {text}"))
        parts.append(found)
    return concatenate(parts)


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
    return {**settings, "data": ARRAYS}, Source(ARRAYS, labelled_rows(*names), None)


@dataclass(frozen=True, kw_only=True)
class _DataSet:
    """A data set whose images are not read yet."""

    source: str  # as `--data` names it
    files: dict[str, list[InputFile]]  # of rows or pictures by part; [] for the names of MNIST
    columns: Columns
    listener: Listener
    mirrors: Sequence[str]

    @property
    def name(self) -> str:
        return self.source if self.source in WORDS else storage.absolute(self.source)

    def load(self, part: str) -> Dataset | None:
        """Load the training or the test images; None without labelled ones.

        With MNIST's training images its test images are downloaded.
        """
        if self.source == "mnist":
            wanted = IDX_NAMES.values() if part == "train" else [IDX_NAMES[part]]
            sha256s = {name: download.FILES[name] for names in wanted for name in names}
            idx = download.fetch(download.cache_folder(), self.mirrors, self.listener, sha256s)
            images, labels = ((idx[name], name) for name in IDX_NAMES[part])
            return parse_pair(images, labels)
        return self._load_files(part) if self.files["train"] else self._load_folder(part)

    def require(self, found: Dataset | None) -> Dataset:
        """Return training images; raise DataError for none."""
        if found is None:
            both = " and ".join(IDX_NAMES["train"])
            expected = f"expected a folder with {both} (or .gz) or mnist_train.csv"
            raise DataError(f"{self.name}: no train images found; {expected}")
        return found

    def _load_files(self, part: str) -> Dataset | None:
        places = [file.place for file in self.files[part]]
        if not places:
            return None
        if _ending(places[0]) == CSV:
            return concatenate([_read_csv(place, self.listener) for place in places])
        if _ending(places[0]) == TABLES:
            batches = _read_tables(places, self.source, self.columns, self.listener)
            return _collect(batches, self.source, "rows", self.listener)
        labels = {place: label_of(place, "auto") for place in places}
        # A damaged archive is listed itself, and has no label.
        wanted = {
            place: label
            for place, label in labels.items()
            if label is not None or place.lower().endswith(archives.SUFFIX)
        }
        pictures, missing = reader.read_labelled_pictures(wanted), len(places) - len(wanted)
        return _collect(pictures, self.source, "pictures", self.listener, missing)

    def _load_folder(self, part: str) -> Dataset | None:
        place = SAMPLE if self.source == "sample" else self.name
        images, labels, table = _named_files(storage.names(place), part)
        if images and labels:
            pair = [storage.join(place, each) for each in (images, labels)]
            data = parse_pair(*((storage.read(each), each) for each in pair))
            return _invert(data, self.name, self.listener)
        if table:
            try:
                return _read_csv(storage.join(place, table), self.listener)
            except UnlabelledError:
                if part == "train":
                    raise
                return None
        if not storage.exists(place):
            raise DataError(
                f"{place}: there is no such folder; --data takes {', '.join(WORDS)} or a folder"
            )
        if images or labels:
            both = " and ".join(IDX_NAMES[part])
            raise DataError(f"{place} has {images or labels} only; {both} belong together")
        return None


def _load_first(data_set: _DataSet, part: str) -> tuple[_DataSet, Dataset | None]:
    """Load a part, and return the data set that `auto` stands for."""
    if data_set.source != "auto":
        return data_set, data_set.load(part)
    mnist, sample = (replace(data_set, source=word) for word in ("mnist", "sample"))
    try:
        return mnist, mnist.load(part)
    except (DataError, StorageError) as error:
        data_set.listener(warning(str(error)))
        text = "using the built-in sample of 4,000 + 1,000 images INSTEAD OF MNIST"
        data_set.listener(warning(f"{text}; its accuracy is not MNIST's"))
        return sample, sample.load(part)


def _find(
    sources: Sequence[str], columns: Columns, listener: Listener, mirrors: Sequence[str]
) -> list[_DataSet]:
    """Find the files of each source."""
    found = [
        _DataSet(
            source=source,
            files=_split_files(_files_of(source, listener), source),
            columns=columns,
            listener=listener,
            mirrors=mirrors,
        )
        for source in sources
    ]
    first = [file for each in found for file in each.files["train"][:1]]
    if any(columns) and not any(_ending(file.place) == TABLES for file in first):
        flags = "--image-column and --label-column"
        raise UsageError(f"{', '.join(sources)}: there are no Parquet files; leave {flags} out")
    return found


def _files_of(source: str, listener: Listener) -> list[InputFile]:
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
    names = storage.names(place)
    is_data_set = any(any(_named_files(names, part)) for part in IDX_NAMES)
    exists = storage.exists(place) or re.search(r"[*?[]", place)
    if not is_csv and (is_data_set or (is_file and not is_known) or not exists):
        return []
    hint = "expected MNIST's IDX files, mnist_train.csv or train.csv, Parquet files or pictures"
    hint += " (a CSV file of another name is named itself)"
    files = expand([place], CSV if is_csv else (*TABLES, *_PICTURES), hint, listener)
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


def _split_files(files: Sequence[InputFile], source: str) -> dict[str, list[InputFile]]:
    """Separate files of test images; none if all or none are."""
    root = re.split(r"[*?[]", storage.absolute(source))[0]
    parts: tuple[list[InputFile], list[InputFile]] = [], []
    for file in files:
        below = file.place.removeprefix(root)
        below = below if _ending(file.place) else below.rpartition("/")[0]
        parts[bool(_TEST.search(below))].append(file)
    train, test = parts if parts[0] else (parts[1], [])
    return {"train": train, "test": test}


def _named_files(found: Sequence[str], part: str) -> list[str]:
    """Return the names of the images, the labels and the table of a part; "" for none."""
    tables = [f"{stem}{part}{end}" for stem in ("mnist_", "") for end in CSV]
    known = {name.lower(): name for name in found}
    return [*find_pair(found, part), next((known[each] for each in tables if each in known), "")]


def _read_csv(file: str, listener: Listener) -> Dataset:
    """Read labelled digits; every row must be readable."""
    table = CsvFile(file)
    if columns.find_label_column(table.schema) is None:
        raise UnlabelledError(
            f"{file} has no labels: name a column label, digit or target, or put labels first"
        )
    batches = list[Batch | list[Rejected]]()
    for each in reader.read([(file, None)], ReadOptions(normalise="never")):
        for (_, row), reason, detail in each if isinstance(each, list) else ():
            if reason is Reason.BAD_PIXEL:
                table.scan()  # a label taken for a pixel may be what is wrong
            raise DataError(f"{file}, line {table.line_of(row or 0)}: {detail}")
        if isinstance(each, Batch) and len(each.bad_labels):
            line = table.line_of(int(each.rows[each.bad_labels[0]]))
            raise DataError(f"{file}, line {line}: the label is no digit from 0 to 9; correct it")
        batches.append(each)
    table.scan()
    return _invert(_collect(batches, file, "rows", listener), file, listener)


def _invert(data: Dataset, name: str, listener: Listener) -> Dataset:
    """Return digits of a CSV or IDX file; if most are dark on light, as Parquet rows are read."""
    dark = int(are_dark_on_light(data.images.reshape(-1, SIDE, SIDE, 1)).sum())
    if 2 * dark <= len(data):
        return data
    text = f"{dark:,} of {len(data):,} images have a bright border and are taken for dark ink on"
    listener(warning(f"{name}: {text} light paper"))
    pixels = pa.FixedSizeListArray.from_arrays(pa.array(data.images.ravel()), NUM_PIXELS)
    found = reader.read_table(pa.table({"image": pixels, "label": data.labels}), ReadOptions())
    return _collect(found, name, "rows", listener)


def _read_tables(
    files: Sequence[str], source: str, names: Columns, listener: Listener
) -> Iterator[Batch | list[Rejected]]:
    options = ReadOptions(image_column=names[0], label_column=names[1])
    partitions = find_partitions(files, roots_of([source], listener))
    for file in files:
        done = 0
        for each in reader.read([(file, None)], options, partitions):
            done += len(each) if isinstance(each, list) else len(each.rows)
            if isinstance(each, Batch) and (number := len(each.bad_labels)):
                raise DataError(
                    f"{file}: {number:,} of the first {done:,} rows have a label that is no digit "
                    "from 0 to 9; correct them, or set them to null"
                )
            yield each


def _collect(
    batches: Iterable[Batch | list[Rejected]],
    source: str,
    what: str,
    listener: Listener,
    missing: int = 0,
) -> Dataset:
    """Join the labelled images of batches; `missing` images without a label were not read."""
    images, labels = [np.zeros((0, NUM_PIXELS), np.uint8)], [np.zeros(0, np.int8)]
    rejected = list[Rejected]()
    for each in batches:
        if isinstance(each, list):
            rejected += each
        else:
            images.append(each.images)
            labels.append(each.labels)
    known = np.concatenate(labels)
    has_label = known >= 0
    missing += int((~has_label).sum())
    total = int(has_label.sum()) + missing + len(rejected)
    about = ""
    if rejected:
        (file, row), _, detail = rejected[0]
        reasons = Counter(str(each.reason) for each in rejected).most_common(3)
        counts = ", ".join(f"{count:,} {reason}" for reason, count in reasons)
        place = file if row is None else f"row {row:,} of {file}"
        about = f" ({counts}; first {place}: {detail})"
    if not has_label.any():
        raise DataError(
            f"{source}: none of {total:,} {what} has a label and can be read; labels come from "
            f"{_LABELS_FROM[what]}{about}"
        )
    if missing:
        text = f"{missing:,} of {total:,} {what} are left out, without a label"
        listener(warning(f"{source}: {text}"))
    if rejected:
        text = f"{len(rejected):,} of {total:,} {what} are left out, unreadable{about}"
        listener(warning(f"{source}: {text}"))
    return Dataset(np.concatenate(images)[has_label], known[has_label].astype(np.uint8))
