"""MNIST from a folder, an object store, the cache, a mirror or the built-in sample.

References:
    LeCun, Bottou, Bengio, Haffner (1998), "Gradient-based learning applied to document
    recognition", section III.A.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from nanograd.data import download
from nanograd.data.csv import parse_csv
from nanograd.data.dataset import NUM_CLASSES, NUM_PIXELS, SIDE, Dataset
from nanograd.data.idx import parse_idx
from nanograd.errors import DataError, StorageError
from nanograd.runtime import storage
from nanograd.runtime.events import Listener, ignore, warning

SAMPLE = str(Path(__file__).parent / "sample")

_IDX_NAMES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
_CSV_SUFFIXES = (".csv", ".csv.gz")


@dataclass(frozen=True)
class Mnist:
    """Training and test images."""

    train: Dataset  # N images; a validation set may be split off
    test: Dataset  # images that never influence training or any choice
    name: str  # `mnist`, `sample`, or the place of the files
    sha256: str  # checksum of training and test data together


def load(
    source: str, listener: Listener = ignore, mirrors: Sequence[str] = download.MIRRORS
) -> Mnist:
    """Load training and test images from `auto | mnist | sample | PATH | URI`.

    - `mnist`: from the cache, downloaded if necessary.
    - `sample`: 4,000 + 1,000 images in this package.
    - `auto`: `mnist`, or the sample, with a warning, if MNIST is not available.
    - a folder (`./mnist` if its name is one of these words) with the four IDX files or with two CSV
      files, gzipped or not.

    Args:
        source: the data.
        listener: receives warnings and progress messages.
        mirrors: base URLs for a download, tried in turn.

    Raises:
        DataError: the data does not exist, is broken, or cannot be downloaded.
        StorageError: it cannot be read, or the cache cannot be written.
    """
    name, (train, test) = _load_parts(source, ("train", "test"), listener, mirrors)
    both = f"{train.sha256()} {test.sha256()}".encode()
    return Mnist(train=train, test=test, name=name, sha256=storage.checksum(both))


def load_test(
    source: str, listener: Listener = ignore, mirrors: Sequence[str] = download.MIRRORS
) -> Dataset:
    """Load test images: as `load`, or from a folder without training images or one CSV file."""
    if source.endswith(_CSV_SUFFIXES):
        return parse_csv(*_read(storage.absolute(source)))
    _, (test,) = _load_parts(source, ("test",), listener, mirrors)
    return test


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


def _folder_part(place: str, part: str) -> Dataset:
    found = storage.names(place)
    images, labels = (
        # Both common spellings, raw or gzipped.
        _first(found, [s + end for s in (n, n.replace("-idx", ".idx")) for end in ("", ".gz")])
        for n in _IDX_NAMES[part]
    )
    table = _first(
        found, [f"{stem}{part}{end}" for stem in ("mnist_", "") for end in _CSV_SUFFIXES]
    )
    if images and labels:
        return _from_idx(*(_read(storage.join(place, name)) for name in (images, labels)))
    if table:
        return parse_csv(*_read(storage.join(place, table)))
    if not storage.exists(place):
        hint = "--data takes auto, mnist, sample or a folder"
        raise DataError(f"{place}: there is no such folder; {hint}")
    both = " and ".join(_IDX_NAMES[part])
    if images or labels:
        raise DataError(f"{place} has {images or labels} only; {both} belong together")
    raise DataError(
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
    return Dataset(images.reshape(-1, NUM_PIXELS), labels)


def _read(place: str) -> tuple[bytes, str]:
    return storage.read(place), place


def _first(found: Iterable[str], candidates: Sequence[str]) -> str:
    return next((name for name in candidates if name in found), "")


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
