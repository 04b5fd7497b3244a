"""Data sets of `--data`: the same digits are the same data in every form."""

import gzip
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import nanograd as api
from nanograd import batch, commands
from nanograd.digits import mnist
from nanograd.digits.dataset import Dataset, Mnist
from nanograd.digits.form import to_png
from nanograd.digits.preparation import labelled_rows
from nanograd.errors import ArgumentError, DataError, OutputExistsError, UsageError
from nanograd.images import sources
from nanograd.models import model as model_io
from nanograd.runtime.events import Event, Level
from nanograd.settings.specs import IngestSpec, ReadOptions
from scripts.make_sample import format_idx
from tests.helpers.image_columns import FLAT_NAMES, csv_text, fixed_list, raw
from tests.helpers.models import some_model
from tests.helpers.runs import SETTINGS

NAMES = FLAT_NAMES["pixel0"]
FAINT = np.full((7, 28, 28), 255, np.uint8)
FAINT[4] = 15


@pytest.fixture(scope="module")
def digits(sample: Mnist) -> Dataset:
    """131 digits, of each digit some."""
    return sample.train.take(slice(0, 131))


def lines(data: Dataset, header: Sequence[str] = ()) -> bytes:
    return csv_text(header, data.labels, *data.images.T).encode()


def write_pictures(data: Dataset, folder: Path) -> Path:
    """Write digits as pictures whose names are in the order of the digits."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, (image, label) in enumerate(zip(data.images, data.labels, strict=True)):
        (folder / f"{number:04d}-is-{label}.png").write_bytes(to_png(image))
    return folder


def as_csv(data: Dataset, folder: Path) -> str:
    (folder / "digits.csv").write_bytes(lines(data))
    return str(folder / "digits.csv")


def as_kaggle(data: Dataset, folder: Path) -> str:
    (folder / "train.csv").write_bytes(lines(data, ["label", *NAMES]))
    (folder / "test.csv").write_text(csv_text(NAMES, *[[0]] * 784))
    return f"{folder}/"


def as_parquet(data: Dataset, folder: Path, name: str = "a.parquet") -> str:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"label": data.labels, "img": raw(data.images)}), folder / name)
    return str(folder / name)


def as_ingested(data: Dataset, folder: Path) -> str:
    pictures = write_pictures(data, folder / "in")
    batch.ingest([str(pictures)], spec=IngestSpec(output=str(folder / "rows"), workers=0))
    return str(folder / "rows")


def as_idx(
    data: Dataset,
    folder: Path,
    prefix: str = "train",
    name: Callable[[str], str] = str,
    pack: Callable[[bytes], bytes] = bytes,
) -> str:
    folder.mkdir(exist_ok=True)
    images = format_idx(data.images.reshape(-1, 28, 28))
    (folder / name(f"{prefix}-images-idx3-ubyte")).write_bytes(pack(images))
    (folder / name(f"{prefix}-labels-idx1-ubyte")).write_bytes(pack(format_idx(data.labels)))
    return str(folder)


FORMS: dict[str, Callable[[Dataset, Path], str]] = {
    "csv": as_csv,
    "csv-in-glob": lambda data, folder: as_csv(data, folder).replace("digits.csv", "*"),
    "kaggle": as_kaggle,
    "idx": as_idx,
    "parquet": as_parquet,
    "glob": lambda data, folder: as_parquet(data, folder).replace("a.parquet", "?.parquet"),
    "parquet of any name": lambda data, folder: as_parquet(data, folder, "000000_0"),
    "folder": lambda data, folder: as_parquet(data, folder, "sub/test.data")[:-14],
    "ingested": as_ingested,
    "pictures": lambda data, folder: str(write_pictures(data, folder)),
}


@pytest.mark.parametrize("form", FORMS)
def test_same_digits_are_the_same_data_in_every_form(form, digits, tmp_path):
    _, arrays = sources.separate_arrays({"data": (digits.images, digits.labels)})

    found = sources.load([FORMS[form](digits, tmp_path)], test_split=0.2)

    assert found.sha256 == sources.load([], test_split=0.2, arrays=arrays).sha256


def test_report_of_a_run_on_arrays_needs_data(digits, tmp_path):
    settings: dict[str, Any] = {**SETTINGS, "epochs": 1, "output": tmp_path / "run"}
    api.train(data=(digits.images, digits.labels), **settings)

    with pytest.raises(UsageError, match="--data"):
        commands.report(str(tmp_path / "run"), [])
    with pytest.raises(OutputExistsError, match="data_sha256"):
        api.train(data=(digits.images[::-1], digits.labels[::-1]), **settings)


SPELLINGS: dict[str, Callable[[str], str]] = {
    "dash": str,
    "dot": lambda name: name.replace("-idx", ".idx"),
    "upper": str.upper,
}


@pytest.mark.parametrize(("spelling", "end"), [("dash", ""), ("dot", ".gz"), ("upper", ".gz")])
def test_idx_csv_rows_and_pictures_with_test_images_are_the_same_data(
    digits, tmp_path, spelling, end
):
    pack: Callable[[bytes], bytes] = gzip.compress if end else bytes
    for name, prefix, rows in (("train", "train", slice(100)), ("test", "t10k", slice(100, 131))):
        part = digits.take(rows)
        as_idx(part, tmp_path / "idx", prefix, lambda stem: SPELLINGS[spelling](stem) + end, pack)
        (tmp_path / "csv").mkdir(exist_ok=True)
        stem = "Mnist_" if spelling == "dot" else ""
        (tmp_path / "csv" / f"{stem}{name}.csv{end}").write_bytes(pack(lines(part)))
        table = pa.table({"image": raw(part.images), "label": part.labels})
        (tmp_path / "hub").mkdir(exist_ok=True)
        pq.write_table(table, tmp_path / "hub" / f"{name}-00000-of-00001.parquet")
        write_pictures(part, tmp_path / "pictures" / f"{name}ing")
    events = list[Event]()

    found = [sources.load([folder.as_uri()], events.append) for folder in tmp_path.iterdir()]

    assert len(found) == 4
    assert len({data.sha256 for data in found}) == 1
    assert [len(sources.load_test([each.name])) for each in found] == [31] * 4
    assert events == []
    with pytest.raises(UsageError, match="--test-split"):
        sources.load([found[0].name], test_split=0.1)


def test_globs_of_csv_files_are_joined_by_name_but_test_images(digits, tmp_path):
    for number, name in enumerate(["b", "A", "c", "test"]):
        part = digits.take(slice(30 * number, 30 * number + 30))
        (tmp_path / f"{name}.{'CSV' if name == 'A' else 'csv'}").write_bytes(lines(part))
    events = list[Event]()

    data = sources.load([f"{tmp_path}/*"], events.append)
    some = sources.load_test([f"{tmp_path}/[a-c].csv"], events.append)

    labels = digits.labels.tolist()
    assert data.train.labels.tolist() == labels[30:60] + labels[:30] + labels[60:90]
    assert data.test.labels.tolist() == labels[90:120]
    assert some.labels.tolist() == labels[:30] + labels[60:90]
    [told] = map(str, events)
    assert "all 60 images" in told
    with pytest.raises(DataError, match=r"x\*\.csv"):
        sources.load([f"{tmp_path}/x*.csv"])


@pytest.mark.parametrize("form", [as_csv, as_idx])
@pytest.mark.parametrize("grey", [True, False])
def test_dark_ink_on_light_paper_is_read_as_from_parquet(form, grey, digits, tmp_path):
    images = 255 - digits.images if grey else (digits.images < 128).astype(np.uint8)
    dark = Dataset(images, digits.labels)
    (tmp_path / "rows").mkdir()
    rows = pa.table({"label": dark.labels, "image": fixed_list(dark.images)})
    pq.write_table(rows, tmp_path / "rows" / "a.parquet")
    events = list[Event]()
    expected = sources.load_test([str(tmp_path / "rows")], events.append)

    found = sources.load_test([form(dark, tmp_path)], events.append)

    assert found.sha256() == expected.sha256()
    assert not grey or found.sha256() == digits.sha256()
    warned = [str(each) for each in events if each.level == Level.WARNING]
    assert ["131 of 131 rows have a bright border" in each for each in warned] == [True, True]


def test_every_command_joins_all_data_sets_in_their_order(
    nanograd, sample, digits, tmp_path, monkeypatch
):
    own = as_parquet(digits, tmp_path)
    alone, data = sources.load([own], test_split=0.2), sources.load(["sample", own], test_split=0.2)
    assert np.array_equal(data.train.images[:4000], sample.train.images)
    assert np.array_equal(data.train.images[4000:], alone.train.images)
    assert np.array_equal(data.test.labels[1000:], alone.test.labels)
    assert len(sources.load(["sample", own], pytest.fail, test_split=0.0).test) == 1000
    both = ["--data", "sample", "--data", "a.parquet"]

    found = nanograd("data", "info", *both)
    exported = nanograd("data", "export", *both, "--output", f"file://{tmp_path}/pictures")
    monkeypatch.setenv("NANOGRAD_DATA_INFO_DATA", f"a.parquet\n{tmp_path}/a.parquet")

    assert found.last["data"] == f"sample + {tmp_path}/a.parquet"
    assert found.last["train"]["images"] + found.last["test"]["images"] == 5131
    assert exported.last["images"] == len([*tmp_path.glob("pictures/*/*.png")]) == 1131
    assert nanograd("data", "info").last["data"] == f"{tmp_path}/a.parquet + {tmp_path}/a.parquet"


def test_every_data_set_belongs_to_the_identity_of_a_run(nanograd, digits, tmp_path):
    as_parquet(digits, tmp_path)
    words = ["train", "--epochs", "1", "--hidden", "3", "--warmup", "0", "--variants", "0"]
    words += ["--workers", "0", "--output", "run"]

    first = nanograd(*words, "--data", "sample", "--data", "a.parquet")
    again = nanograd(*words, "--config", "run/config.toml")
    other = nanograd(*words, "--data", "sample")
    report = nanograd("report", "run")
    own = nanograd("report", "run", "--data", "a.parquet")
    evaluated = nanograd("evaluate", "--model", "run/model", "--data", "a.parquet")

    assert (first.code, again.code, other.code, report.code, own.code) == (0, 0, 73, 0, 0)
    assert again.last["params_sha256"] == first.last["params_sha256"]
    assert evaluated.last["images"] == 131
    as_parquet(digits.take(slice(0, 90)), tmp_path)
    assert nanograd("report", "run").code == 65


def test_rows_without_label_or_picture_are_left_out_with_a_warning(digits, tmp_path):
    files = write_pictures(digits, tmp_path / "pictures")
    (files / "unknown.png").write_bytes(to_png(digits.images[0]))
    (files / "0200-is-7.png").write_bytes(b"no picture")
    labels: list[int | None] = [None, *digits.labels[1:-1].tolist(), 7]
    images = [*(image.tobytes() for image in digits.images[:-1]), b"no picture"]
    pq.write_table(pa.table({"image": images, "label": labels}), tmp_path / "a.parquet")

    for place, number, what in ((files, 131, "pictures"), (tmp_path / "a.parquet", 129, "rows")):
        events = list[Event]()
        assert len(sources.load_test([str(place)], events.append)) == number
        said = [str(event) for event in events]
        total = f"1 of {number + 2} {what} are left out"
        assert f"{place}: {total}, without a label" in said
        assert any(f"{total}, unreadable (1 broken_image; first " in each for each in said)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({}, "none of 131 rows has a label.* --label-column names"),
        ({"label": [None] * 131}, "none of 131 rows has a label"),
        ({"label": [10] * 131}, "a.parquet, row 0: the label is no digit"),
        ({"label": [3] * 130 + [1.5]}, "a.parquet, row 130: the label is no digit"),
        ({"label": [3] * 131}, "label 3"),
        ({"scan": [b"7"] * 131}, "a.parquet: the images may be in"),
    ],
)
def test_rows_that_teach_nothing_are_one_sentence(columns, message, digits, tmp_path):
    name = "a" if "scan" in columns else "image"
    pq.write_table(pa.table({name: raw(digits.images), **columns}), tmp_path / "a.parquet")

    with pytest.raises(DataError, match=message) as caught:
        sources.load([str(tmp_path)])

    assert type(caught.value) is DataError  # a name that users may import


def test_columns_and_folders_of_hive_name_images_and_labels(digits, tmp_path):
    some = pa.table({"image": raw(digits.images[:20])})
    for folder in ("label=3", "label=4", "label=5/rows"):
        (tmp_path / folder).mkdir(parents=True)
        pq.write_table(some, tmp_path / folder / "a.parquet")
    rows = pa.table({"a": raw(digits.images), "b": raw(digits.images), "y": digits.labels})
    pq.write_table(rows, tmp_path / "columns.parquet")

    options = ReadOptions(image_column="a", label_column="y")
    named = sources.load_test([str(tmp_path / "columns.parquet")], options=options)
    folders = sources.load_test([f"{tmp_path}/label=[34]"])

    assert named.sha256() == digits.sha256()
    assert folders.labels.tolist() == [3] * 20 + [4] * 20
    with pytest.raises(UsageError, match="--image-column"):
        sources.load(["sample"], options=options)
    with pytest.raises(DataError, match="none of 20 rows has a label"):
        sources.load_test([f"{tmp_path}/label=5/rows"])  # the folder is above the data


def test_label_column_of_a_csv_file_may_be_named(digits, tmp_path):
    columns = [range(131), *digits.images.T, digits.labels]
    file = tmp_path / "own.csv"
    file.write_text(csv_text(["id", *NAMES, "class"], *columns))

    named = sources.load_test([str(file)], options=ReadOptions(label_column="class"))

    assert named.sha256() == digits.sha256()
    for options, missing in ((ReadOptions(), "labels"), (ReadOptions(label_column="y"), "'y'")):
        with pytest.raises(DataError, match=f"has no .*{missing}: .*--label-column"):
            sources.load_test([str(file)], options=options)


OTHERS = ("text", "digits.npz", "t10k-images.bin")


@pytest.mark.parametrize(
    "name", ["empty", "missing", "x.parquet", *OTHERS, "csv", "smaple", "broken.zip", "empty.zip"]
)
def test_source_without_data_is_one_sentence(name, tmp_path):
    (tmp_path / "empty").mkdir()
    for each in OTHERS:
        (tmp_path / each).write_text("seven")
    (tmp_path / "csv").mkdir()
    (tmp_path / "csv/digits.csv").write_text("7")
    (tmp_path / "x.parquet").write_bytes(b"")
    (tmp_path / "broken.zip").write_bytes(b"")
    (tmp_path / "empty.zip").write_bytes(b"PK\5\6" + bytes(18))

    why = "this is no Parquet or CSV file" if name in OTHERS else ""
    with pytest.raises(DataError, match=f"{name}.*{why}"):
        sources.load([name if name == "smaple" else str(tmp_path / name)])
    with pytest.raises(UsageError, match="--data is empty"):  # not the working directory
        sources.load(["sample", ""])


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.zeros((2, 784)), [1], "2 images"),
        (np.zeros((2, 784)), [1, 10], "label 1"),
        (np.zeros((2, 784)), np.array([3, 7]) > 4, "label 0"),
        (np.zeros((2, 784)), ["1", "x"], "label 0"),
        (np.zeros((0, 784)), [], "0 images"),
        (np.full((2, 784), 7.5), [1, 2], "image 0: .* the scale is unclear"),
        ([[1], [1, 2]], [1, 2], r"\(N, 28, 28\)"),
    ],
)
def test_arrays_that_are_no_digits_are_refused(images, labels, message):
    with pytest.raises(ArgumentError, match=message):
        labelled_rows(images, labels)


def test_pair_of_arrays_in_a_list_is_refused(digits):
    pair = (digits.images, digits.labels)

    for data in (["sample", pair], [pair], ("sample", "sample", pair), [digits.images]):
        with pytest.raises(ArgumentError, match="one pair"):
            api.evaluate("model", data=data)


@pytest.mark.parametrize(
    ("name", "encoding"),
    [
        *(("a.csv.zip", "utf-8"), ("a.CSV.bz2", "utf-8"), ("a.csv.zst", "utf-8")),
        *(("a.tsv", "utf-8"), ("a.txt.gz", "utf-16"), ("a.csv.gz", "utf-16")),
        *(("a.csv", "utf-16"), ("a.csv", "utf-16-le"), ("a.csv", "utf-16-be")),
    ],
)
def test_table_of_another_format_or_encoding_is_one_true_sentence(
    nanograd, digits, name, encoding, tmp_path
):
    text = lines(digits.take(slice(0, 3)), ["label", *NAMES]).decode().encode(encoding)
    (tmp_path / name).write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    model_io.save(some_model(), "model")
    predict = ("predict", name, "--output", "read", "--workers", "0")

    for words in (("evaluate", "--data", name), predict):
        outcome = nanograd(*words, "--model", "model")
        assert outcome.code == 65
        assert ".csv and .csv.gz files, in UTF-8, with commas; convert it" in str(outcome.last)


def test_last_images_of_each_digit_are_held_out_whatever_the_order(tmp_path):
    rows = [f"{number // 20},{number}" + ",0" * 782 + ",255" for number in range(200)]
    (tmp_path / "digits.csv").write_text("\n".join(rows))
    (tmp_path / "few.csv").write_text("\n".join(f"{digit}" + ",0" * 784 for digit in range(9)))
    (tmp_path / "one.csv").write_text("\n".join(["3" + ",0" * 784] * 20))

    data = sources.load([str(tmp_path / "digits.csv")])
    half = sources.load([str(tmp_path / "digits.csv")], test_split=0.5)

    assert data.test.images[:, 0].tolist() == [n for n in range(200) if n % 20 >= 18]
    assert half.test.images[:, 0].tolist() == [n for n in range(200) if n % 20 >= 10]
    assert (len(data.train), len(half.train)) == (180, 100)
    with pytest.raises(DataError, match="no digit has two images"):
        sources.load([str(tmp_path / "few.csv")])
    with pytest.raises(DataError, match="label 3"):
        sources.load([str(tmp_path / "one.csv")])


def test_unlabelled_test_images_are_none(digits, tmp_path):
    place, events = as_kaggle(digits, tmp_path), list[Event]()

    assert len(sources.load([place], test_split=0.2).train) < 131
    assert len(sources.load_test([place], events.append)) == 131
    left_out, used = map(str, events)
    assert "test.csv has no labels" in left_out
    assert "all 131 images" in used
    (tmp_path / "train.csv").rename(tmp_path / "digits.csv")
    with pytest.raises(DataError, match="no train images"):
        sources.load_test([place])
    as_idx(digits, tmp_path / "idx", "t10k")
    assert len(sources.load_test([f"{tmp_path}/idx"])) == 131
    with pytest.raises(DataError, match="no train images"):
        sources.load([f"{tmp_path}/idx"])
    with pytest.raises(DataError, match="has no labels"):
        sources.load_test([str(tmp_path / "test.csv")])


@pytest.mark.parametrize(
    ("name", "array", "reason"),
    [
        ("train-labels-idx1-ubyte", np.zeros(6, np.uint8), r"\(6,\)"),
        ("train-labels-idx1-ubyte", np.array([0] * 6 + [10], np.uint8), "label 6 is 10"),
        ("train-labels-idx1-ubyte", np.zeros((7, 28, 28), np.uint8), r"\(7, 28, 28\)"),
        ("train-images-idx3-ubyte", np.zeros((7, 28, 27), np.uint8), r"\(7, 28, 27\)"),
        ("train-images-idx3-ubyte", np.zeros(7, np.uint8), r"\(7,\)"),
        ("train-images-idx3-ubyte", FAINT, "image 4: "),
        ("train-labels-idx1-ubyte", None, "belong together"),
    ],
)
def test_idx_files_that_do_not_match_are_an_error(digits, tmp_path, name, array, reason):
    place = as_idx(digits.take(slice(0, 7)), tmp_path)
    (tmp_path / name).unlink()
    if array is not None:
        (tmp_path / name).write_bytes(format_idx(array))

    with pytest.raises(DataError, match=reason):
        sources.load([place])


def test_sample_has_every_digit_equally_often_and_no_image_twice(sample):
    train, test = sample.train, sample.test

    assert sample.name == "sample"
    assert np.bincount(train.labels).tolist() == [400] * 10
    assert np.bincount(test.labels).tolist() == [100] * 10
    assert len({image.tobytes() for part in (train, test) for image in part.images}) == 5000
    readme = (Path(sources.SAMPLE) / "README.md").read_text()
    files = list(Path(sources.SAMPLE).glob("*.gz"))
    assert len(files) == 4
    assert all(sha256(gzip.decompress(file.read_bytes())).hexdigest() in readme for file in files)


def load(source: str) -> tuple[Mnist, list[Event]]:
    events = list[Event]()
    return sources.load([source], events.append), events


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NANOGRAD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(mnist, "MIRRORS", ["file:///nowhere/at/all"])
    return tmp_path / "cache"


def test_mnist_is_downloaded_once_and_then_cached(cache, mnist_place, sample, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(mnist, "MIRRORS", [f"file://{mnist_place}/"])
        first, _ = load("mnist")
    again, _ = load("mnist")
    auto, events = load("auto")

    names = {file.name for file in Path(mnist_place).iterdir()}
    assert {file.name for file in cache.glob("*.gz")} == names
    assert first.sha256 == again.sha256 == auto.sha256 == load(mnist_place)[0].sha256
    assert {each.name for each in (first, again, auto)} == {"mnist"}
    assert events == []
    assert len(sources.load_test(["auto"])) == 10_000
    assert first.train.images.shape == (60_000, 784)
    assert first.train.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert first.test.labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    tested = {image.tobytes() for image in first.test.images}  # the sample has none of them
    assert tested.isdisjoint(e.tobytes() for e in (*sample.train.images, *sample.test.images))
    (cache / "t10k-labels-idx1-ubyte.gz").unlink()
    assert load("auto")[0].name == "sample"  # also where only test images are missing


@pytest.mark.parametrize(
    ("folder", "reason"), [("cache", "cannot be downloaded"), ("file/cache", "set NANOGRAD_CACHE")]
)
def test_auto_falls_back_to_the_sample_with_a_warning(cache, tmp_path, monkeypatch, folder, reason):
    (tmp_path / "file").touch()
    monkeypatch.setenv("NANOGRAD_CACHE", str(tmp_path / folder))

    data, events = load("auto")

    assert data.name == "sample"
    assert events[-1].level == Level.WARNING
    assert "INSTEAD OF MNIST" in str(events[-1])
    assert reason in str(events[-2])
    assert len(sources.load_test(["auto"])) == 1000


@pytest.mark.parametrize("damaged", [False, True])
def test_mnist_without_a_mirror_is_an_error_with_remedies(cache, digits, damaged):
    if damaged:
        as_idx(digits, cache, name=lambda stem: f"{stem}.gz", pack=gzip.compress)

    with pytest.raises(DataError, match=r"^train-images.*nowhere.*--data PATH.*--data sample"):
        load("mnist")
