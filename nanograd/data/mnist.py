"""Find MNIST, wherever it is: a folder, an object store, the cache, a mirror, the sample.

References:
    LeCun, Bottou, Bengio, Haffner (1998), "Gradient-based learning applied to document
    recognition", section III.A.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from nanograd.data import download
from nanograd.data.csv import parse_csv
from nanograd.data.dataset import NUM_PIXELS, Dataset
from nanograd.data.download import Say
from nanograd.data.idx import parse_idx
from nanograd.errors import DataError, StorageError
from nanograd.nn.mlp import NUM_CLASSES
from nanograd.runtime import storage

SAMPLE = str(Path(__file__).parent / "sample")

_IDX_NAMES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
_CSV_SUFFIXES = (".csv", ".csv.gz")


@dataclass(frozen=True)
class Mnist:
    """Training and test images.

    Args:
        train: N images; a validation part may be split off.
        test: images that choose nothing, ever.
        name: `mnist`, `sample`, or the place the images came from.
        sha256: which data is this? Checksum of training and test data together.
    """

    train: Dataset
    test: Dataset
    name: str
    sha256: str


def load(source: str, say: Say, mirrors: Sequence[str] = download.MIRRORS) -> Mnist:
    """Training and test images from `auto | mnist | sample | PATH | URI`.

    - `mnist`: from the cache, downloaded first if need be.
    - `sample`: 4,000 + 1,000 images that are part of this package.
    - `auto`: `mnist`, or the sample, with a warning, if MNIST cannot be had.
    - a folder (`./mnist` if it is called as one of these words) with the four IDX files or with
      two CSV files, gzipped or not.

    Args:
        source: what to load.
        say: gets warnings and signs of progress, a sentence each.
        mirrors: base URLs for a download, tried in turn.

    Raises:
        DataError: no such data, or it is broken, or it cannot be downloaded.
        StorageError: it cannot be read, or the cache cannot be written.
    """
    name, (train, test) = _load_parts(source, ("train", "test"), say, mirrors)
    both = f"{train.sha256()} {test.sha256()}".encode()
    return Mnist(train=train, test=test, name=name, sha256=storage.checksum(both))


def load_test(source: str, say: Say, mirrors: Sequence[str] = download.MIRRORS) -> Dataset:
    """Test images alone: as `load`, or a folder without training images, or one CSV file.

    Raises:
        DataError: no such data, or it is broken, or it cannot be downloaded.
        StorageError: it cannot be read, or the cache cannot be written.
    """
    if source.endswith(_CSV_SUFFIXES):
        place = storage.absolute(source)
        return parse_csv(storage.read(place), place)
    _, (test,) = _load_parts(source, ("test",), say, mirrors)
    return test


def _load_parts(
    source: str, parts: Sequence[str], say: Say, mirrors: Sequence[str]
) -> tuple[str, list[Dataset]]:
    """The name of the data and the data set of each part."""
    if source == "auto":
        try:
            return _load_parts("mnist", parts, say, mirrors)
        except (DataError, StorageError) as error:
            say(f"WARNING: {error}")
            say(
                "WARNING: using the built-in sample of 4,000 + 1,000 images INSTEAD OF MNIST; its "
                "accuracy is not MNIST's"
            )
        source = "sample"
    if source == "mnist":
        return source, [_cached_part(part, say, mirrors) for part in parts]
    if source == "sample":
        return source, [_folder_part(SAMPLE, part) for part in parts]
    place = storage.absolute(source)
    return place, [_folder_part(place, part) for part in parts]


def _cached_part(part: str, say: Say, mirrors: Sequence[str]) -> Dataset:
    cache = download.cache_folder()
    images, labels = _IDX_NAMES[part]
    return _from_idx(
        (_obtain(cache, images, say, mirrors), download.cached_place(cache, images)),
        (_obtain(cache, labels, say, mirrors), download.cached_place(cache, labels)),
    )


def _obtain(cache: str, name: str, say: Say, mirrors: Sequence[str]) -> bytes:
    """A verified file from the cache, which is completed first if need be."""
    raw = download.cached(cache, name, download.FILES[name])
    if raw is None:
        download.fetch(cache, mirrors, say)
        raw = download.cached(cache, name, download.FILES[name])
    if raw is None:
        place = download.cached_place(cache, name)
        raise StorageError(f"{place} changed while it was read; run the command again")
    return raw


def _folder_part(place: str, part: str) -> Dataset:
    found = set(storage.names(place))
    images, labels = (_first(found, _idx_variants(name)) for name in _IDX_NAMES[part])
    table = _first(
        found, [f"{stem}{part}{end}" for stem in ("mnist_", "") for end in _CSV_SUFFIXES]
    )
    if images and labels:
        return _from_idx(_read(place, images), _read(place, labels))
    if table:
        return parse_csv(*_read(place, table))
    raise DataError(_what_is_missing(place, part, images or labels))


def _from_idx(images_file: tuple[bytes, str], labels_file: tuple[bytes, str]) -> Dataset:
    """The data set of an image and a label file, each as (bytes, name)."""
    (_, images_name), (_, labels_name) = images_file, labels_file
    images, labels = parse_idx(*images_file), parse_idx(*labels_file)
    if images.shape[1:] != (28, 28):
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
    return Dataset(images.reshape(-1, NUM_PIXELS), labels)


def _read(place: str, name: str) -> tuple[bytes, str]:
    file = storage.join(place, name)
    return storage.read(file), file


def _idx_variants(name: str) -> list[str]:
    """Both common spellings, raw and gzipped."""
    return [stem + end for stem in (name, name.replace("-idx", ".idx")) for end in ("", ".gz")]


def _first(found: set[str], candidates: Sequence[str]) -> str:
    return next((name for name in candidates if name in found), "")


def _what_is_missing(place: str, part: str, half: str) -> str:
    if not storage.exists(place):
        return f"{place}: there is no such folder; --data takes auto, mnist, sample or a folder"
    images, labels = _IDX_NAMES[part]
    if half:
        return f"{place} has {half} but not its partner: {images} and {labels} belong together"
    return (
        f"{place}: no {part} images found; expected a folder with {images} and {labels} (or .gz) "
        f"or mnist_{part}.csv"
    )


def write_pictures(dataset: Dataset, folder: str) -> None:
    """Write each image as `folder/LABEL/NUMBER.png`; files of those names are replaced.

    Args:
        dataset: N images.
        folder: a local folder.

    Raises:
        StorageError: it cannot be written.
    """
    root = Path(folder).expanduser()
    try:
        for label in sorted(set(dataset.labels.tolist())):
            (root / str(label)).mkdir(parents=True, exist_ok=True)
        for number, (image, label) in enumerate(zip(dataset.images, dataset.labels, strict=True)):
            Image.fromarray(image.reshape(28, 28)).save(root / str(label) / f"{number:05d}.png")
    except OSError as error:
        raise StorageError(f"cannot write pictures to {folder}: {error.strerror}") from error
