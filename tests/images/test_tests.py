"""Which images of `--data` are test images."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nanograd import commands
from nanograd.digits.dataset import Dataset, Mnist
from nanograd.digits.form import to_png
from nanograd.errors import DataError, UsageError
from nanograd.images import sources
from nanograd.runtime.events import Event, Level, ignore
from nanograd.settings.specs import DataSpec
from tests.helpers.image_columns import FLAT_NAMES, csv_text


def take(sample: Mnist, first: int, number: int) -> Dataset:
    return sample.train.take(slice(first, first + number))


def write(data: Dataset, file: Path, labels: pa.Array | None = None) -> str:
    """Write images as CSV or Parquet, or as pictures in a folder, with other labels if given."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".parquet":
        images = [image.tobytes() for image in data.images]
        pq.write_table(pa.table({"image": images, "label": _or(labels, data)}), file)
    elif file.suffix == ".csv":
        found = ["" if label is None else label for label in _or(labels, data).to_pylist()]
        file.write_text(csv_text(["label", *FLAT_NAMES["pixel0"]], found, *data.images.T))
    else:
        for number, (image, label) in enumerate(zip(data.images, data.labels, strict=True)):
            name = f"{label}/{number}.png" if labels is None else f"img{number}.png"
            (file / name).parent.mkdir(parents=True, exist_ok=True)
            (file / name).write_bytes(to_png(image))
    return str(file)


def _or(labels: pa.Array | None, data: Dataset) -> pa.Array:
    return pa.array(data.labels) if labels is None else labels


@pytest.fixture
def parts(sample: Mnist) -> tuple[Dataset, Dataset]:
    return take(sample, 0, 60), take(sample, 60, 20)


def has(data: Mnist, train: Dataset, test: Dataset) -> bool:
    """Whether the images are those expected, in any order."""
    return all(
        sorted(map(bytes, found.images)) == sorted(map(bytes, expected.images))
        for found, expected in ((data.train, train), (data.test, test))
    )


@pytest.mark.parametrize(
    "names",
    [
        ("train.parquet", "test.parquet"),
        ("train.csv", "test.csv"),
        ("digits.csv", "test-0.parquet"),
        ("train", "test"),
        ("letters", "Testing"),
        ("train.parquet", "own/test"),
    ],
)
def test_data_set_named_test_is_not_trained_on_beside_others(parts, tmp_path, names):
    places = [write(each, tmp_path / name) for each, name in zip(parts, names, strict=True)]

    data = sources.load(places)

    assert has(data, *parts)
    assert len(sources.load_test(places)) == 80  # all images, whatever the names
    about = {"data": data.sources, "identity": {"data_sha256": data.sha256}}
    again = sources.reload_test([], {**about, "data": list(data.sources)}, {}, ignore)
    assert again.sha256() == data.test.sha256()
    with pytest.raises(UsageError, match="--test-split"):
        sources.load(places, test_split=0.1)


@pytest.mark.parametrize(
    "pattern", ["*/*.parquet", "t*/*.parquet", "t[er]*", "t*/t*", "**/*.parquet"]
)
def test_globs_find_test_images_as_folders_do(parts, tmp_path, pattern):
    for name, part in zip(("train", "test"), parts, strict=True):
        write(part, tmp_path / name / f"{name}.parquet")

    assert has(sources.load([f"{tmp_path}/{pattern}"]), *parts)


def test_data_sets_with_names_of_tests_alone_are_split(parts, tmp_path):
    places = [write(each, tmp_path / f"test-{n}.parquet") for n, each in enumerate(parts)]

    alone, both = sources.load(places[:1]), sources.load(places)

    assert len(alone.train) + len(alone.test) == 60
    assert len(both.train) + len(both.test) == 80
    assert min(len(alone.train), len(both.train)) > len(both.test) > 0


def test_model_that_has_seen_the_sample_is_not_measured_on_it_without_a_warning():
    warnings = list[Event]()

    for trained_on in (["mnist", "own"], "sample", "/data/mnist", []):
        sources.load_test(["sample"], warnings.append, about={"data": trained_on})

    [warning] = warnings
    assert warning.level is Level.WARNING
    assert "trained on MNIST" in str(warning)
    with pytest.raises(UsageError, match="is a part of"):
        sources.load(["mnist", "sample"])
    with pytest.raises(UsageError, match="passed in Python"):
        sources.load(["arrays"])


@pytest.mark.parametrize("labels", [-1, None, np.nan, ""])
@pytest.mark.parametrize("names", [("train.parquet", "test.parquet"), ("train.csv", "test.csv")])
def test_test_images_without_labels_are_none(parts, tmp_path, names, labels):
    write(parts[0], tmp_path / names[0])
    write(parts[1], tmp_path / names[1], pa.array([labels] * 20))

    data = sources.load([str(tmp_path)])

    assert len(data.train) + len(data.test) == 60
    assert len(data.test) > 0
    with pytest.raises(DataError, match="none of 20 rows has a label"):
        sources.load([str(tmp_path / names[1])])


def test_pictures_of_tests_without_labels_are_none(parts, tmp_path):
    places = [write(parts[0], tmp_path / "train"), write(parts[1], tmp_path / "test", pa.array([]))]

    assert len(sources.load_test([str(tmp_path)])) == 60
    for names in ([str(tmp_path)], places):
        data = sources.load(names)
        assert len(data.train) + len(data.test) == 60


def test_file_whose_labels_cannot_be_digits_is_refused(parts, tmp_path):
    train, test = parts
    write(train, tmp_path / "a.parquet")
    odd = pa.array([bytes([48 + label]) for label in test.labels])
    write(test, tmp_path / "b.parquet", odd)

    for load in (sources.load, sources.load_test):
        with pytest.raises(DataError, match=r"b\.parquet: column 'label' holds binary"):
            load([str(tmp_path)])


def test_report_of_a_run_is_refused_if_its_test_images_have_changed(parts, tmp_path):
    files = [tmp_path / "own" / name for name in ("train.csv", "test.csv")]
    for part, file in zip(parts, files, strict=True):
        write(part, file)
    data = sources.load([f"{tmp_path}/own"])
    about = {"data": list(data.sources), "identity": {"data_sha256": data.sha256}}

    assert sources.reload_test([], about, {}, ignore).sha256() == data.test.sha256()
    write(parts[1].take(slice(10)), files[1])
    with pytest.raises(DataError, match="own has changed since the run; name test images"):
        sources.reload_test([], about, {}, ignore)
    assert len(sources.reload_test([str(files[1])], about, {}, ignore)) == 10


def test_arrays_of_dark_ink_are_used_unchanged_with_a_warning(parts):
    found, events = parts[0], list[Event]()
    _, arrays = sources.separate_arrays({"data": (255 - found.images, found.labels)})

    data = sources.load([], events.append, test_split=0.2, arrays=arrays)
    test = sources.load_test([], events.append, arrays=arrays)

    assert np.array_equal(test.images, 255 - found.images)
    assert len(data.train) + len(data.test) == len(found)
    texts = [str(event) for event in events if event.level is Level.WARNING]
    assert len([text for text in texts if "pass 255 - images" in text]) == 2
    _, light = sources.separate_arrays({"data": (found.images, found.labels)})
    sources.load_test([], events.append, arrays=light)
    assert len([event for event in events if event.level is Level.WARNING]) == 2


@pytest.mark.parametrize(
    ("share", "why"), [(0.0, "--test-split 0 holds out none"), (0.9, "no digit has two images")]
)
def test_images_without_any_to_test_are_refused_with_the_cause(sample, share, why):
    rows = [int(np.flatnonzero(sample.train.labels == digit)[0]) for digit in range(10)]
    one = sample.train.take(np.array(rows))
    _, arrays = sources.separate_arrays({"data": (one.images, one.labels)})

    with pytest.raises(DataError, match=why):
        sources.load([], test_split=share, arrays=arrays)


def test_images_that_cannot_be_trained_on_are_described(parts, tmp_path):
    write(parts[1], tmp_path / "tests" / "mnist_test.csv")
    write(parts[0].take(slice(1)), tmp_path / "one.parquet")

    tests = commands.describe_data(DataSpec(data=f"{tmp_path}/tests")).to_json()
    one = commands.describe_data(DataSpec(data=f"{tmp_path}/one.parquet")).to_json()

    assert (tests["train"]["images"], tests["test"]["images"]) == (0, 20)
    assert len(tests["train"]["per_class"]) == len(tests["test"]["per_class"]) == 10
    assert (one["train"]["images"], one["test"]["images"]) == (1, 0)
    with pytest.raises(DataError, match="no train images found, only test images"):
        sources.load([f"{tmp_path}/tests"])
