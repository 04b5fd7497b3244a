"""MNIST from a folder, an object store, the cache, a mirror or the built-in sample.

References:
    LeCun, Bottou, Bengio, Haffner (1998), "Gradient-based learning applied to document
    recognition", section III.A.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from nanograd.data.csv import CSV, UnlabelledError, parse_csv
from nanograd.digits import download
from nanograd.digits.dataset import NUM_CLASSES, NUM_PIXELS, SIDE, Dataset, Mnist, Source
from nanograd.digits.idx import parse_idx
from nanograd.digits.levels import describe, scale_of, to_levels
from nanograd.errors import DataError, StorageError, UsageError
from nanograd.runtime import storage
from nanograd.runtime.events import Listener, ignore, info, warning

SAMPLE = str(Path(__file__).parent / "sample")

_IDX_NAMES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
WORDS = ("auto", "mnist", "sample")

# Share of the images that become test images if there are none.
_TEST_SPLIT = 0.1


class MissingError(DataError):
    """A folder without the files of a data set, or of a part of it."""


def join(found: Sequence[Source], listener: Listener, test_split: float | None) -> Mnist:
    """Join data sets, in their order: training images, and test images.

    Of a data set without test images, the last of each digit are held out, whatever its order.

    Raises:
        DataError: there are no test images, or only one digit to learn.
        UsageError: all have test images, so there is nothing to split.
    """
    name = " + ".join(each.name for each in found)
    if test_split is not None and all(each.test is not None for each in found):
        raise UsageError(f"{name} has test images of its own; leave --test-split out")
    share = None
    pairs = list[tuple[Dataset, Dataset]]()
    for source, train, test in found:
        if test is None:
            share = _TEST_SPLIT if test_split is None else test_split
            parts = _hold_out(train, share)
            text = (
                f"the last {len(parts[1]):,} of its images, counted by digit, are held out as such"
            )
            listener(info(f"{source} has no labelled test images: {text} (--test-split)"))
        pairs.append(parts if test is None else (train, test))
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
    both = f"{train.sha256()} {test.sha256()}".encode()
    return Mnist(
        train=train,
        test=test,
        name=name,
        sha256=storage.checksum(both),
        test_split=share,
        sources=tuple(each.name for each in found),
    )


def concatenate(sets: Sequence[Dataset]) -> Dataset:
    """Join labelled images, in their order."""
    if len(sets) == 1:
        return sets[0]
    images, labels = ([getattr(each, n) for each in sets] for n in ("images", "labels"))
    return Dataset(np.concatenate(images), np.concatenate(labels))


def load_test(
    source: str, listener: Listener = ignore, mirrors: Sequence[str] = download.MIRRORS
) -> Dataset:
    """Load test images: as `load_source`, or from a folder without training images."""
    _, (test,) = _load_parts(source, ("test",), listener, mirrors)
    return test


def load_source(
    source: str, listener: Listener, mirrors: Sequence[str] = download.MIRRORS
) -> Source:
    """Load a data set from `auto | mnist | sample | PATH | URI`.

    - `mnist`: from the cache, downloaded from one of the mirrors if necessary.
    - `sample`: 4,000 + 1,000 images in this package.
    - `auto`: `mnist`, or the sample, with a warning, if MNIST is not available.
    - a folder (`./mnist` if its name is one of these words) with the four IDX files or with two CSV
      files, gzipped or not; test images may be missing, or have no labels (as Kaggle's).

    Raises:
        DataError: the data does not exist, is broken, or cannot be downloaded.
        StorageError: it cannot be read, or the cache cannot be written.
    """
    if source in WORDS:
        name, (train, test) = _load_parts(source, ("train", "test"), listener, mirrors)
        return Source(name, train, test)
    name, (train,) = _load_parts(source, ("train",), listener, mirrors)
    try:
        return Source(name, train, _load_parts(name, ("test",), listener, mirrors)[1][0])
    except (UnlabelledError, MissingError):
        return Source(name, train, None)


def _hold_out(images: Dataset, share: float) -> tuple[Dataset, Dataset]:
    """Split off the last images of each digit, one at least if it has two; all for training at 0.

    Files may be sorted by digit, and the last images of a digit are often of other writers.
    """
    is_test = np.zeros(len(images), np.bool_)
    for digit in np.unique(images.labels) if share else ():
        rows = np.flatnonzero(images.labels == digit)
        number = min(max(round(share * len(rows)), 1), len(rows) - 1)
        is_test[rows[len(rows) - number :]] = True
    return images.take(np.flatnonzero(~is_test)), images.take(np.flatnonzero(is_test))


def _load_parts(
    source: str, parts: Sequence[str], listener: Listener, mirrors: Sequence[str]
) -> tuple[str, list[Dataset]]:
    """Return the name of the data and the data set of each part."""
    if source == "auto":
        try:
            return _load_parts("mnist", parts, listener, mirrors)
        except (DataError, StorageError) as error:
            listener(warning(str(error)))
            sample = "the built-in sample of 4,000 + 1,000 images"
            listener(warning(f"using {sample} INSTEAD OF MNIST; its accuracy is not MNIST's"))
        source = "sample"
    if source == "mnist":
        sha256s = {name: download.FILES[name] for part in parts for name in _IDX_NAMES[part]}
        files = download.fetch(download.cache_folder(), mirrors, listener, sha256s)
        return source, [_from_idx(*((files[n], n) for n in _IDX_NAMES[part])) for part in parts]
    place = SAMPLE if source == "sample" else storage.absolute(source)
    data = [_folder_part(place, part) for part in parts]
    return "sample" if source == "sample" else place, data


def is_data_set(place: str) -> bool:
    """Return whether a folder has files that `load_source` knows by their names."""
    found = storage.names(place)
    return any(any(_part_files(found, part)) for part in _IDX_NAMES)


def _part_files(found: Sequence[str], part: str) -> list[str]:
    """Return the names of the images, the labels and the table of a part; "" for none."""
    known = {name.lower(): name for name in found}
    wanted = [
        # Both common spellings, raw or gzipped.
        [s + end for s in (n, n.replace("-idx", ".idx")) for end in ("", ".gz")]
        for n in _IDX_NAMES[part]
    ]
    wanted.append([f"{stem}{part}{end}" for stem in ("mnist_", "") for end in CSV])
    return [next((known[name] for name in names if name in known), "") for names in wanted]


def _folder_part(place: str, part: str) -> Dataset:
    images, labels, table = _part_files(storage.names(place), part)
    if images and labels:
        return _from_idx(*(_read(storage.join(place, name)) for name in (images, labels)))
    if table:
        return parse_csv(*_read(storage.join(place, table)))
    if not storage.exists(place):
        hint = f"--data takes {', '.join(WORDS)} or a folder"
        raise DataError(f"{place}: there is no such folder; {hint}")
    both = " and ".join(_IDX_NAMES[part])
    if images or labels:
        raise DataError(f"{place} has {images or labels} only; {both} belong together")
    raise MissingError(
        f"{place}: no {part} images found; expected a folder with {both} (or .gz) or "
        f"mnist_{part}.csv"
    )


def _from_idx(images_file: tuple[bytes, str], labels_file: tuple[bytes, str]) -> Dataset:
    """Return the data set of an image and a label file, each as (bytes, name)."""
    (_, images_name), (_, labels_name) = images_file, labels_file
    images, labels = parse_idx(*images_file), parse_idx(*labels_file)
    if images.shape[1:] != (SIDE, SIDE):
        raise DataError(f"{images_name}: expected images of 28 x 28, found shape {images.shape}")
    if labels.ndim != 1:
        raise DataError(f"{labels_name}: expected labels, found images; are the files swapped?")
    if len(images) != len(labels):
        raise DataError(
            f"{images_name} has {len(images)} images but {labels_name} has {len(labels)} labels; "
            "take both from the same data set"
        )
    if labels.max() >= NUM_CLASSES:
        worst = int((labels >= NUM_CLASSES).argmax())
        raise DataError(f"{labels_name}: label {worst} is {labels[worst]}, expected 0 to 9")
    scale = scale_of([images.max(initial=0)])
    rows, problems = to_levels(images.reshape(-1, NUM_PIXELS), scale)
    if (problems >= 0).any():
        first = int((problems >= 0).argmax())
        raise DataError(f"{images_name}: image {first}: {describe(problems[first])}")
    return Dataset(rows, labels)


def _read(place: str) -> tuple[bytes, str]:
    return storage.read(place), place


def write_pictures(dataset: Dataset, folder: str) -> None:
    """Write or replace `LABEL/NUMBER.png` of each image in a local folder.

    Raises:
        StorageError: it cannot be written.
    """
    root = Path(folder).expanduser()
    try:
        for label in sorted(set(dataset.labels.tolist())):
            (root / str(label)).mkdir(parents=True, exist_ok=True)
        for number, (image, label) in enumerate(zip(dataset.images, dataset.labels, strict=True)):
            picture = Image.fromarray(image.reshape(SIDE, SIDE))
            picture.save(root / str(label) / f"{number:05d}.png")
    except OSError as error:
        raise StorageError(f"cannot write pictures to {folder}: {error.strerror}") from error
