"""Loader of training and test images from the data sets that `--data` names.

Parquet files are read as in `predict`, and pictures as in `ingest`: images in MNIST's form are
unchanged, and all others are normalised. Images of IDX and CSV files are unchanged, unless most
are dark on light; then they are read like Parquet rows. Every row of a CSV file must be readable.
In other files, unreadable rows are left out with a warning.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from nanograd.digits import mnist
from nanograd.digits.dataset import NUM_PIXELS, SIDE, Dataset, Mnist, Source, concatenate, hold_out
from nanograd.digits.preparation import labelled_rows
from nanograd.errors import ArgumentError, DataError, NanogradError, Reason, UsageError
from nanograd.images import columns, inputs, reader
from nanograd.images.csv import CSV, CsvFile, check_ending
from nanograd.images.inputs import Origin
from nanograd.images.labels import label_of
from nanograd.images.parquet import open_parquet
from nanograd.images.reader import Batch
from nanograd.images.rows import BAD_LABEL, are_dark_on_light, require_root
from nanograd.pictures.archives import SUFFIX
from nanograd.runtime import storage
from nanograd.runtime.events import Listener, count, ignore, info, warning
from nanograd.runtime.json_files import JsonObject
from nanograd.settings.specs import ReadOptions

ARRAYS = "arrays"  # the name of a data set that was passed as arrays
WORDS = ("auto", "mnist", "sample")
SAMPLE = str(Path(__file__).parent / "sample")

_TEST_SPLIT = 0.1  # share of the images to hold out, if a data set has no test images
# Names of folders and of Parquet or CSV files with test images, as on the Hugging Face hub.
_TEST = re.compile(r"(^|/)(split=|mnist[-_])?(test|testing)(?![a-z])", re.IGNORECASE)
_LABELS_FROM = {
    "rows": "the column that --label-column names, else from label, digit or target",
    "pictures": "folders or names, as 7/img.png or 7_0012.png (7.png: see ingest --label-from)",
}
_IDX = re.compile(r"[-.]idx[13]-ubyte(\.gz)?$", re.IGNORECASE)
_DEFAULTS = ReadOptions()
_NO_TABLES = "there are no tables; leave --image-column, --label-column and --image-root out"


class _UnlabelledError(DataError):
    """Images were read, but none has a label."""


def load(
    sources: Sequence[str],
    listener: Listener = ignore,
    test_split: float | None = None,
    options: ReadOptions = _DEFAULTS,
    arrays: Source | None = None,
    *,
    to_train: bool = True,
) -> Mnist:
    """Load data sets and join them. `arrays`, from `separate_arrays`, replaces all `sources`.

    - `mnist`: MNIST from the cache. If it is missing, it is downloaded from one of the mirrors.
    - `sample`: 4,000 training and 1,000 test images in this package.
    - `auto`: `mnist`, or `sample` with a warning if MNIST is not available.
    - a folder or URI with the four IDX files or with two CSV files, gzipped or not. Test images may
      be missing or, as in Kaggle's data, unlabelled. `./mnist` is a folder of this name.
    - CSV or Parquet files, or pictures. Pictures in a folder `test` are test images, and so are CSV
      and Parquet files in such a folder or with a name that begins with `test`. But if a data set
      has only such files, they are training images.

    If there are several data sets, the name of a data set counts, too: `test.csv` has test images
    if `train.csv` is given as well.

    If a data set has no test images, and no other data set has only test images, the last images of
    each digit are held out as test images.

    Raises:
        DataError: data is missing or damaged, or has no labels. With `to_train`, also if there are
            no training images, too few to hold some out for testing, or all show the same digit.
        StorageError: data cannot be read, or the cache cannot be written.
        UsageError: a setting has no effect on these data sets.
    """
    found = list(_load_each(sources, listener, options, arrays))
    name = " + ".join(each.name for each in found)
    has_tests = any(not len(each.train) for each in found)
    if test_split is not None and (has_tests or all(each.test is not None for each in found)):
        raise UsageError(f"{name} has test images of its own; leave --test-split out")
    share, pairs = None, list[tuple[Dataset, Dataset]]()
    for source, train, test in found:
        if test is not None or has_tests:
            pairs.append((train, train.take(slice(0)) if test is None else test))
            continue
        share = _TEST_SPLIT if test_split is None else test_split
        pairs.append(hold_out(train, share))
        if number := len(pairs[-1][1]):
            held = f"the last {number:,} of its images, counted by digit, are held out"
            listener(info(f"{source} has no labelled test images: {held} as such (--test-split)"))
    train, test = (concatenate(each) for each in zip(*pairs, strict=True))
    data = Mnist(
        train=train,
        test=test,
        name=name,
        sha256=storage.checksum(f"{train.sha256()} {test.sha256()}".encode()),
        test_split=share,
        sources=tuple(each.name for each in found),
    )
    if to_train:
        data.require_trainable()
    return data


def load_test(
    sources: Sequence[str],
    listener: Listener = ignore,
    options: ReadOptions = _DEFAULTS,
    arrays: Source | None = None,
    about: Mapping[str, Any] | None = None,
) -> Dataset:
    """Load and join test images, as `load` does; if a data set has none, load all its images.

    `about` is the manifest of the model to evaluate. Warn if the model was trained on the images.
    """
    parts = list[Dataset]()
    for name, train, test in _load_each(sources, listener, options, arrays, only_test=True):
        if name == "sample" and "mnist" in _names(about or {}):
            text = "the model was trained on MNIST, and so on the test images of sample"
            listener(warning(f"{text}; measure it with --data mnist"))
        if test is None:
            text = "are used, including any that the model was trained on"
            listener(info(f"all {len(train):,} images of {name} {text}"))
        parts.append(train if test is None else test)
    return concatenate(parts)


def reload_test(
    data: Sequence[str], about: Mapping[str, Any], settings: Mapping[str, Any], listener: Listener
) -> Dataset:
    """Load test images for the report of a run, from `data` or, if it is empty, the run's own.

    `about` is the manifest of the run's model, and `settings` the content of its config.toml.

    Raises:
        DataError: the data of the run has changed.
        UsageError: the run was trained on arrays, and `data` is empty.
    """
    if data:
        return load_test(data, listener)
    if about["data"] == ARRAYS:
        raise UsageError("the run was trained on arrays; name its test images with --data")
    names = _names(about)
    found = load(names, listener, about.get("test_split"), ReadOptions.of_data(settings))
    if found.sha256 != about["identity"]["data_sha256"]:
        raise DataError(f"{found.name} has changed since the run; name test images with --data")
    return found.test


def _names(about: Mapping[str, Any]) -> Sequence[str]:
    """Return the names of the training data in the manifest of a model."""
    found = about.get("data", [])
    return [found] if isinstance(found, str) else found


def separate_arrays(settings: dict[str, Any]) -> tuple[dict[str, Any], Source | None]:
    """Return the settings and, if `data` is a pair of arrays, a data set of these, else None."""
    data = settings.get("data")
    names = data if isinstance(data, list | tuple) else [data]
    are_names = [isinstance(each, str | PathLike) for each in names]
    if data is None or all(are_names):
        return settings, None
    if len(names) != 2 or any(are_names):
        raise ArgumentError(
            "data is the name of a data set, several, or one pair (images, labels), not in a list; "
            "save the pair as a Parquet file to join it with others"
        )
    return {**settings, "data": ARRAYS}, Source(ARRAYS, labelled_rows(*names), None)


def _load_each(
    sources: Sequence[str],
    listener: Listener,
    options: ReadOptions,
    arrays: Source | None,
    *,
    only_test: bool = False,
) -> Iterator[Source]:
    """Load data sets; one that has only test images has no images for training.

    With `only_test`, do not load training images if there are test images. See `load` for `arrays`.
    """
    if arrays:
        yield _check_arrays(arrays, listener, options)
        return
    if not sources:
        raise UsageError("--data names no data set")
    if {"sample", "mnist"} <= set(sources):
        raise UsageError("--data sample is a part of --data mnist; name one of them")
    if ARRAYS in sources:
        text = "means arrays that were passed in Python; name a data set (a folder needs ./ before)"
        raise UsageError(f"--data {ARRAYS} {text}")
    by_name = len(sources) > 1 and not only_test
    files = [_find_files(source, listener, by_name=by_name) for source in sources]
    if by_name and all(each["test"] and not each["train"] for each in files):
        by_name = False
        files = [_find_files(source, listener) for source in sources]
    kinds = {_kind(place) for each in files for place in each["train"]}
    if options != _DEFAULTS and kinds.isdisjoint(("rows", "csv")):
        raise UsageError(f"{', '.join(sources)}: {_NO_TABLES}")
    require_root(options)

    def load_one(source: str, places: Mapping[str, Sequence[str]]) -> Source | None:
        name = source if source in WORDS else storage.absolute(source)

        def read(part: str) -> Dataset | None:
            if name != "mnist":
                try:
                    return _read_part(name, places[part], listener, options)
                except _UnlabelledError as error:
                    if part == "train":
                        raise DataError(str(error)) from None
                    listener(warning(f"{error}; left out, as it holds test images"))
                    return None
            found = mnist.fetch(mnist.cache_folder(), mnist.MIRRORS, listener, mnist.FILES[part])
            return mnist.parse_pair(*((data, each) for each, data in found.items()))

        train, test = None if only_test else read("train"), read("test")
        if only_test:
            train = read("train") if test is None else test
        if train is None and test is not None:
            train = test.take(slice(0))
        if train is not None:
            return Source(name, train, test)
        if by_name and places["test"]:
            return None
        raise DataError(f"{name}: no train images found, and no test image has a label")

    for source, places in zip(sources, files, strict=True):
        try:
            found = load_one("mnist" if source == "auto" else source, places)
        except NanogradError as error:
            if source != "auto" or isinstance(error, UsageError):
                raise
            listener(warning(str(error)))
            text = "using the built-in sample of 4,000 + 1,000 images INSTEAD OF MNIST"
            listener(warning(f"{text}; its accuracy is not MNIST's"))
            found = load_one("sample", _find_files("sample", listener))
        if found:
            yield found


def _find_files(source: str, listener: Listener, *, by_name: bool = False) -> dict[str, list[str]]:
    """List the `train` and `test` files of a source; none for `mnist` and `auto`.

    With `by_name`, all files of a source whose own name begins with `test` are `test` files.
    Otherwise, these are `train` files if the source has no others.
    """
    if not source:
        raise UsageError("--data is empty; name a data set")
    if source in ("auto", "mnist"):
        return {"train": [], "test": []}
    place = SAMPLE if source == "sample" else storage.absolute(source)
    files = {part: _named_files(place, part) for part in mnist.FILES}
    if any(files.values()):
        return files
    if not storage.exists(place) and not re.search(r"[*?[]", place):
        raise DataError(
            f"{place}: there is no such file or folder; --data takes {', '.join(WORDS)} or a path"
        )
    if storage.is_file(place) and not inputs.is_table(place):
        check_ending(place)
        if not inputs.kind_of(place):
            text = "this is no Parquet or CSV file and no picture; of IDX files, name the folder"
            raise DataError(f"{place}: {text}; pass arrays in Python, as data=(images, labels)")
    hint = "expected MNIST's IDX files, mnist_train.csv or train.csv, Parquet files or pictures"
    hint += " (for a CSV file of another name, pass its path)"
    suffixes = CSV if place.lower().endswith(CSV) else (*inputs.TABLES, *inputs.PICTURES)
    by_kind = dict[str, list[str]]()
    for file in inputs.expand([place], suffixes, hint, listener, members=False):
        by_kind.setdefault(_kind(file.place), []).append(file.place)
    kind = next((each for each in ("rows", "csv", "pictures") if each in by_kind), "")
    if not kind:
        raise DataError(f"{place}: name the folder of the IDX files")
    if kind == "pictures":
        by_kind[kind] = [file.place for file in inputs.expand([place])]
    elif others := sum(map(len, by_kind.values())) - len(by_kind[kind]):
        what = "parquet" if kind == "rows" else kind
        listener(warning(f"{source}: not used beside {what}: {count(others, 'file')}"))
    [root] = inputs.roots_of([place])
    for each in by_kind[kind]:
        below = each.removeprefix(root)
        below = below.rpartition("/")[0] if kind == "pictures" else below
        files["test" if _TEST.search(below) else "train"].append(each)
    is_picture = kind == "pictures" and storage.is_file(place)
    if by_name and not files["test"] and not is_picture and _TEST.search(place.rpartition("/")[2]):
        return {"train": [], "test": files["train"]}
    return files if files["train"] or by_name else {"train": files["test"], "test": []}


def _named_files(place: str, part: str) -> list[str]:
    """List the two IDX files, or the CSV file, of the `train` or `test` images in a folder."""
    names = [] if storage.is_file(place) else storage.names(place)  # which needs more rights
    images, labels = mnist.find_pair(names, part)
    if images and labels:
        return [storage.join(place, each) for each in (images, labels)]
    tables = [f"{stem}{part}{end}" for stem in ("mnist_", "") for end in CSV]
    known = {name.lower(): storage.join(place, name) for name in names}
    if found := [known[each] for each in tables if each in known]:
        return found[:1]
    if images or labels:
        both = " and ".join(mnist.FILES[part])
        raise DataError(f"{place} has {images or labels} only; {both} belong together")
    return []


def _kind(place: str) -> str:
    """Return what a file holds, by its name; a Parquet file may have any name."""
    kinds = {"csv": "csv", "picture": "pictures", "archive": "pictures"}
    return "idx" if _IDX.search(place) else kinds.get(inputs.kind_of(place), "rows")


def _read_part(
    name: str, places: Sequence[str], listener: Listener, options: ReadOptions
) -> Dataset | None:
    """Read the `train` or `test` images from their files; None without files."""
    if not places:
        return None
    kind = _kind(places[0])
    if kind == "idx":
        data = mnist.parse_pair(*((storage.read(each), each) for each in places))
        return _invert(data, name, listener)
    if kind == "csv":
        tables = list[Dataset]()
        for place in places:
            table, label = CsvFile(place), options.label_column
            if columns.find_label_column(table.schema, label) is None:
                what = f"column {label!r}" if label else "labels"
                raise _UnlabelledError(
                    f"{place} has no {what}: name a column label, digit or target, choose a "
                    "--label-column, or put labels first in a file without a header"
                )
            rows = reader.read([(place, None)], replace(options, normalise="never"))
            data = _collect(rows, place, "rows", listener, table=table)
            tables.append(_invert(data, place, listener))
        return concatenate(tables)
    if kind == "rows":
        partitions = columns.find_partitions(places, inputs.roots_of([name], listener))
        for place in places if options.label_column is None else ():
            with open_parquet(place) as parquet:
                schema = partitions.extend(parquet.schema_arrow, place)
            for field in columns.odd_labels(schema):
                text = f"column {field.name!r} holds {field.type}, which cannot be digits"
                raise DataError(f"{place}: {text}; choose a --label-column")
        rows = reader.read(((place, None) for place in places), options, partitions)
        return _collect(rows, name, kind, listener)
    labels = {place: label_of(place, "auto") for place in places}
    # A damaged archive is in the list, and has no label.
    known = [each for each in places if labels[each] is not None or each.lower().endswith(SUFFIX)]
    pictures = reader.read_files(((place, labels[place]) for place in known), _DEFAULTS)
    return _collect(pictures, name, kind, listener, missing=len(places) - len(known))


def _count_dark(data: Dataset) -> int:
    """Count the images that are dark on light; 0 if most are not."""
    dark = int(are_dark_on_light(data.images.reshape(-1, SIDE, SIDE, 1)).sum())
    return dark if 2 * dark > len(data) else 0


def _check_arrays(arrays: Source, listener: Listener, options: ReadOptions) -> Source:
    """Return arrays; warn if most are dark on light: `Model.predict` uses them unchanged, too."""
    if options != _DEFAULTS:
        raise UsageError(f"{ARRAYS}: {_NO_TABLES}")
    if dark := _count_dark(arrays.train):
        text = f"{dark:,} of {len(arrays.train):,} images have a bright border, but arrays are used"
        listener(warning(f"{text} unchanged; if ink is darker than paper, pass 255 - images"))
    return arrays


def _invert(data: Dataset, name: str, listener: Listener) -> Dataset:
    """Return the images unchanged, or read them like Parquet rows if most are dark on light."""
    if not _count_dark(data):
        return data
    pixels = pa.FixedSizeListArray.from_arrays(pa.array(data.images.ravel()), NUM_PIXELS)
    table = pa.table({"image": pixels, "label": data.labels})
    return _collect(reader.read_table(table, _DEFAULTS), name, "rows", listener)


def _collect(
    found: Iterable[Batch | pa.Table],
    source: str,
    what: str,
    listener: Listener,
    *,
    missing: int = 0,
    table: CsvFile | None = None,
) -> Dataset:
    """Join labelled `rows` or `pictures`, and warn of what is left out.

    `missing` images without a label were not read. Every row of `table`, a CSV file, must be
    readable.
    """

    def place(origin: Origin) -> str:
        if table is not None:
            return f"{origin.source_file}, line {table.line_of(origin.source_row or 0)}"
        return origin.place

    batches, rejected = list[Batch](), list[JsonObject]()
    for each in found:
        if isinstance(each, Batch):
            if len(bad := np.flatnonzero(each.labels == BAD_LABEL)):
                text = "the label is no digit from 0 to 9; correct or remove it"
                [row] = each.columns.slice(int(bad[0]), 1).to_pylist()
                raise DataError(f"{place(Origin.of(row))}: {text}")
            batches.append(each)
        else:
            rejected += each.to_pylist()
        if rejected and table is not None:
            if rejected[0]["reason"] == Reason.BAD_PIXEL:
                table.scan()  # raises a clearer error if the label is in another column
            raise DataError(f"{place(Origin.of(rejected[0]))}: {rejected[0]['detail']}")
    if table is not None:
        table.scan()
    known = np.concatenate([np.zeros(0, np.int8), *(each.labels for each in batches)])
    has_label = known >= 0
    total, about = len(known) + missing + len(rejected), ""
    missing += int((~has_label).sum())
    if rejected:
        reasons = Counter(each["reason"] for each in rejected).most_common(3)
        counts = ", ".join(f"{count:,} {reason}" for reason, count in reasons)
        about = f" ({counts}; first {place(Origin.of(rejected[0]))}: {rejected[0]['detail']})"
    if not has_label.any():
        raise (_UnlabelledError if len(rejected) < total else DataError)(
            f"{source}: none of {total:,} {what} has a label and can be read; labels come from "
            f"{_LABELS_FROM[what]}{about}"
        )
    if dark := sum(each.num_dark for each in batches):
        text = f"{dark:,} of {total:,} {what} have a bright border and count as dark on light"
        listener(warning(f"{source}: {text}"))
    for number, why in ((missing, "without a label"), (len(rejected), f"unreadable{about}")):
        if number:
            listener(warning(f"{source}: {number:,} of {total:,} {what} are left out, {why}"))
    images = np.concatenate([each.images for each in batches])
    return Dataset(images[has_label], known[has_label].astype(np.uint8))
