import gzip
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from nanograd import sources
from nanograd.data.mnist import SAMPLE, join, load_source, load_test
from nanograd.digits.dataset import Mnist
from nanograd.digits.download import MIRRORS
from nanograd.errors import DataError, UsageError
from nanograd.runtime.events import Event, Level, Listener, ignore
from scripts.make_sample import format_idx

FAINT = np.full((7, 28, 28), 255, np.uint8)
FAINT[4] = 15
NOWHERE = ["file:///nowhere/at/all"]


def load(
    source: str,
    listener: Listener = ignore,
    mirrors: Sequence[str] = MIRRORS,
    test_split: float | None = None,
) -> Mnist:
    return join([load_source(source, listener, mirrors)], listener, test_split)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NANOGRAD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def fill(
    folder: Path,
    num_train: int = 7,
    num_test: int = 3,
    *,
    dotted: bool = False,
    pack: Callable[[bytes], bytes] = bytes,
) -> Path:
    """A folder with four small IDX files."""
    folder.mkdir(exist_ok=True)
    for prefix, num_images in (("train", num_train), ("t10k", num_test)):
        images = np.full((num_images, 28, 28), 20 + num_images, np.uint8)
        labels = (np.arange(num_images) % 3).astype(np.uint8)
        for name, array in (("images-idx3-ubyte", images), ("labels-idx1-ubyte", labels)):
            spelling = name.replace("-idx", ".idx") if dotted else name
            ending = "" if pack is bytes else ".gz"
            (folder / f"{prefix}-{spelling}{ending}").write_bytes(pack(format_idx(array)))
    return folder


def fill_csv(
    folder: Path, stem: str = "mnist_", ending: str = ".csv", pack: Callable[[bytes], bytes] = bytes
) -> Path:
    for part, num_images in (("train", 7), ("test", 3)):
        lines = [f"{number % 3}" + f",{20 + num_images}" * 784 for number in range(num_images)]
        (folder / f"{stem}{part}{ending}").write_bytes(pack("\n".join(lines).encode()))
    return folder


@pytest.mark.parametrize("dotted", [False, True])
@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["raw", "gzip"])
@pytest.mark.parametrize("prefix", ["", "file://"])
def test_folder_of_idx_files_is_loaded(
    tmp_path: Path, dotted: bool, pack: Callable[[bytes], bytes], prefix: str
) -> None:
    fill(tmp_path, dotted=dotted, pack=pack)
    events = list[Event]()

    data = load(f"{prefix}{tmp_path}", events.append)

    assert (len(data.train), len(data.test)) == (7, 3)
    assert (data.train.images == 27).all()
    assert (data.test.images == 23).all()
    assert data.test.labels.tolist() == [0, 1, 2]
    assert data.name == str(tmp_path)
    assert events == []


@pytest.mark.parametrize(
    ("stem", "ending", "pack"),
    [
        *(("mnist_", ".csv", bytes), ("", ".csv", bytes), ("mnist_", ".csv.gz", gzip.compress)),
        ("Mnist_", ".CSV", bytes),
    ],
)
def test_folder_of_csv_files_is_the_same_data(
    tmp_path: Path, stem: str, ending: str, pack: Callable[[bytes], bytes]
) -> None:
    from_idx = load(str(fill(tmp_path / "idx")))
    (tmp_path / "csv").mkdir()

    from_csv = load(str(fill_csv(tmp_path / "csv", stem, ending, pack)))

    assert from_csv.sha256 == from_idx.sha256
    for file in (tmp_path / "idx").iterdir():
        file.rename(file.with_name(file.name.upper()))
    assert sources.load([str(tmp_path / "idx")]).sha256 == from_idx.sha256


def test_sha256_changes_with_training_and_with_test_data(tmp_path: Path) -> None:
    sizes = [(7, 3), (6, 3), (7, 2), (3, 7)]

    checksums = [
        load(str(fill(tmp_path / f"{train}-{test}", train, test))).sha256 for train, test in sizes
    ]

    assert len(set(checksums)) == len(sizes)


def test_test_images_come_from_a_folder_without_training_images(tmp_path: Path) -> None:
    for file in fill(tmp_path).glob("train-*"):
        file.unlink()

    assert len(load_test(str(tmp_path))) == 3
    with pytest.raises(DataError, match="no train images found; expected a folder with train-im"):
        load(str(tmp_path))


def test_last_images_of_each_digit_of_one_csv_file_are_held_out(tmp_path: Path) -> None:
    file = str(fill_csv(tmp_path) / "mnist_train.csv")
    events = list[Event]()

    data, half = sources.load([file], events.append), sources.load([file], test_split=0.5)

    assert data.train.labels.tolist() == [0, 1, 2, 0]
    assert data.test.labels.tolist() == [1, 2, 0]
    assert half.test.labels.tolist() == [0, 1, 2, 0]
    assert "the last 3 of its images, counted by digit, are held out as such" in str(events[0])
    assert len(sources.load_test([file])) == 7


def test_unlabelled_test_images_are_none(tmp_path: Path) -> None:
    fill_csv(tmp_path, stem="")
    pixels = ",".join(f"pixel{number}" for number in range(784))
    (tmp_path / "test.csv").write_text(f"{pixels}\n{','.join(['0'] * 784)}\n")
    events = list[Event]()

    data = load(str(tmp_path))

    assert (len(data.train), len(data.test)) == (4, 3)
    assert len(sources.load_test([str(tmp_path)], events.append)) == 7
    assert "all 7 images of" in str(events[0])
    (tmp_path / "train.csv").rename(tmp_path / "digits.csv")
    with pytest.raises(DataError, match="no train images found; expected a folder with"):
        sources.load_test([str(tmp_path)])
    with pytest.raises(DataError, match=r"test\.csv has no labels: no column is called label"):
        sources.load_test([str(tmp_path / "test.csv")])


def test_split_of_data_with_test_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has test images of its own; leave --test-split out"):
        load(str(fill(tmp_path)), test_split=0.1)


def test_one_class_is_nothing_to_learn(tmp_path: Path) -> None:
    row = "3" + ",0" * 784
    (tmp_path / "digits.csv").write_text("\n".join([row] * 20))

    with pytest.raises(DataError, match="all 18 training images have the label 3"):
        sources.load([str(tmp_path / "digits.csv")])


def test_misspelt_source_is_an_error_that_lists_the_choices() -> None:
    with pytest.raises(DataError, match="/smaple: there is no such folder; --data takes auto, mni"):
        load("smaple")


@pytest.mark.parametrize(
    ("name", "array", "reason"),
    [
        ("train-labels-idx1-ubyte", np.zeros(6, np.uint8), "has 7 images but .* has 6 labels"),
        ("train-labels-idx1-ubyte", np.array([0] * 6 + [10], np.uint8), "label 6 is 10, expected"),
        ("train-labels-idx1-ubyte", np.zeros((7, 28, 28), np.uint8), "expected labels, found imag"),
        ("train-images-idx3-ubyte", np.zeros((7, 28, 27), np.uint8), r"found shape \(7, 28, 27\)"),
        ("train-images-idx3-ubyte", np.zeros(7, np.uint8), r"found shape \(7,\)"),
        ("train-images-idx3-ubyte", FAINT, "image 4: the largest pixel is above 1 but at most 16"),
    ],
)
def test_files_that_do_not_match_are_an_error_that_names_one(
    tmp_path: Path, name: str, array: NDArray[np.uint8], reason: str
) -> None:
    (fill(tmp_path) / name).write_bytes(format_idx(array))

    with pytest.raises(DataError, match=rf"{name}.*{reason}|{reason}"):
        load(str(tmp_path))


def test_auto_is_the_sample_where_the_cache_lacks_test_images(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch(*arguments: object) -> dict[str, bytes]:
        if any(name.startswith("t10k") for name in arguments[-1]):  # type: ignore[attr-defined]
            raise DataError("no mirror replies")
        return {}

    monkeypatch.setattr("nanograd.digits.download.fetch", fetch)

    assert load("auto").name == "sample"


def test_file_sorted_by_label_is_split_by_label(tmp_path: Path) -> None:
    lines = [f"{number // 20},{number}" + ",0" * 782 + ",255" for number in range(200)]
    (tmp_path / "digits.csv").write_text("\n".join(lines))

    data = sources.load([str(tmp_path / "digits.csv")])

    expected = [number for number in range(200) if number % 20 >= 18]
    assert data.test.images[:, 0].tolist() == expected
    assert (len(data.train), len(data.test)) == (180, 20)


def test_too_few_images_to_hold_any_out_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "digits.csv").write_text("\n".join(f"{digit}" + ",0" * 784 for digit in range(9)))

    with pytest.raises(DataError, match="9 images are too few to hold out a share of"):
        sources.load([str(tmp_path / "digits.csv")])


def test_images_without_their_labels_are_an_error(tmp_path: Path) -> None:
    (fill(tmp_path) / "t10k-labels-idx1-ubyte").unlink()

    with pytest.raises(DataError, match=r"has t10k-images-idx3-ubyte only; .* belong together"):
        load(str(tmp_path))


def test_sample_has_every_digit_equally_often_and_no_image_twice(sample: Mnist) -> None:
    train, test = sample.train, sample.test

    assert sample.name == "sample"
    assert np.bincount(train.labels).tolist() == [400] * 10
    assert np.bincount(test.labels).tolist() == [100] * 10
    assert len({image.tobytes() for part in (train, test) for image in part.images}) == 5000


def test_sample_has_the_checksums_of_its_readme() -> None:
    checksums = {
        sha256(gzip.decompress(file.read_bytes())).hexdigest() for file in Path(SAMPLE).glob("*.gz")
    }

    readme = (Path(SAMPLE) / "README.md").read_text()

    assert len(checksums) == 4
    assert all(checksum in readme for checksum in checksums)


def test_sample_has_no_image_of_the_test_set(sample: Mnist, mnist_place: str) -> None:
    full = load_test(mnist_place)

    test = {image.tobytes() for image in full.images}

    assert not any(
        image.tobytes() in test for part in (sample.train, sample.test) for image in part.images
    )


def test_mnist_has_its_known_size_and_first_labels(mnist_place: str) -> None:
    data = load(mnist_place)

    assert data.train.images.shape == (60_000, 784)
    assert data.test.images.shape == (10_000, 784)
    assert data.train.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert data.test.labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]


def test_mnist_is_downloaded_once_and_then_cached(cache: Path, mnist_place: str) -> None:
    first = load("mnist", mirrors=[f"file://{mnist_place}/"])
    again = load("mnist", mirrors=NOWHERE)

    assert {file.name for file in cache.glob("*.gz")} == {
        file.name for file in Path(mnist_place).iterdir()
    }
    assert first.sha256 == again.sha256 == load(mnist_place).sha256
    assert first.name == again.name == "mnist"


def test_auto_is_mnist_if_it_is_available(cache: Path, mnist_place: str) -> None:
    events = list[Event]()

    data = load("auto", events.append, mirrors=[f"file://{mnist_place}"])

    assert data.name == "mnist"
    assert len(load_test("auto", mirrors=NOWHERE)) == 10_000
    assert {event.level for event in events} == {Level.INFO}


@pytest.mark.parametrize(
    ("folder", "reason"), [("cache", "cannot be downloaded"), ("file/cache", "set NANOGRAD_CACHE")]
)
def test_auto_falls_back_to_the_sample_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str, reason: str
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("NANOGRAD_CACHE", str(tmp_path / folder))
    events = list[Event]()

    data = load("auto", events.append, mirrors=NOWHERE)

    assert data.name == "sample"
    assert events[-1].level == Level.WARNING
    assert "INSTEAD OF MNIST" in str(events[-1])
    assert reason in str(events[-2])
    assert len(load_test("auto", mirrors=NOWHERE)) == 1000


@pytest.mark.parametrize("damaged", [False, True])
def test_mnist_without_a_mirror_is_an_error_with_remedies(cache: Path, damaged: bool) -> None:
    if damaged:
        fill(cache, pack=gzip.compress)
    subject = rf"^{cache}/train-images-idx3-ubyte\.gz is damaged" if damaged else "^MNIST's file"

    with pytest.raises(
        DataError, match=f"{subject} .*cannot be downloaded .*nowhere.*--data PATH.*--data sample"
    ):
        load("mnist", mirrors=NOWHERE)
