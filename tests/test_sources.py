"""Data sets of `--data`: the same digits are the same data in every form."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import nanograd as api
from nanograd import commands, sources
from nanograd.digits.dataset import Dataset, Mnist
from nanograd.digits.form import to_png
from nanograd.errors import ArgumentError, DataError, OutputExistsError, UsageError
from nanograd.models import model as model_io
from nanograd.runtime.events import Event, Level
from nanograd.settings.specs import IngestSpec
from scripts.make_sample import format_idx
from tests.conftest import Nanograd
from tests.helpers.image_columns import fixed_list, raw
from tests.helpers.models import some_model
from tests.helpers.runs import SETTINGS

NAMES = ",".join(f"pixel{number}" for number in range(784))


@pytest.fixture(scope="module")
def digits(sample: Mnist) -> Dataset:
    """131 digits, of each digit some."""
    return sample.train.take(slice(0, 131))


def lines(data: Dataset, header: str = "") -> bytes:
    rows = np.column_stack([data.labels, data.images])
    return "\n".join([header] * bool(header) + [",".join(map(str, row)) for row in rows]).encode()


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
    (folder / "train.csv").write_bytes(lines(data, f"label,{NAMES}"))
    (folder / "test.csv").write_text(f"{NAMES}\n{','.join(['0'] * 784)}\n")
    return f"{folder}/"


def as_parquet(data: Dataset, folder: Path) -> str:
    pq.write_table(pa.table({"label": data.labels, "img": raw(data.images)}), folder / "a.parquet")
    return str(folder / "a.parquet")


def as_ingested(data: Dataset, folder: Path) -> str:
    pictures = write_pictures(data, folder / "in")
    commands.ingest([str(pictures)], spec=IngestSpec(output=str(folder / "rows"), workers=0))
    return str(folder / "rows")


def with_line_ends(ends: bytes, place: str) -> str:
    file = Path(place)
    file.write_bytes(file.read_bytes().replace(b"\n", ends) + ends)
    return place


FORMS: dict[str, Callable[[Dataset, Path], str]] = {
    "csv": as_csv,
    "kaggle": as_kaggle,
    "parquet": as_parquet,
    "glob": lambda data, folder: as_parquet(data, folder).replace("a.parquet", "?.parquet"),
    "csv-glob": lambda data, folder: as_csv(data, folder).replace("digits.csv", "*.csv"),
    "csv-in-glob": lambda data, folder: as_csv(data, folder).replace("digits.csv", "*"),
    "ingested": as_ingested,
    "cr": lambda data, folder: with_line_ends(b"\r", as_csv(data, folder)),
    "crlf": lambda data, folder: with_line_ends(b"\r\n", as_csv(data, folder)),
    "pictures": lambda data, folder: str(write_pictures(data, folder)),
}


@pytest.mark.parametrize("form", FORMS)
def test_same_digits_train_to_the_same_parameters_in_every_form(
    form: str, digits: Dataset, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {**SETTINGS, "epochs": 1, "test_split": 0.2}
    arrays = api.train(data=(digits.images, digits.labels), output=tmp_path / "arrays", **settings)
    (tmp_path / "data").mkdir()
    place = FORMS[form](digits, tmp_path / "data")

    run = api.train(data=place, output=tmp_path / "run", **settings)

    assert run.params_sha256 == arrays.params_sha256
    assert run.test_accuracy == arrays.test_accuracy
    assert commands.report(str(tmp_path / "run"), []).to_json()["report"]
    with pytest.raises(UsageError, match="trained on arrays; name its test images with --data"):
        commands.report(str(tmp_path / "arrays"), [])


def test_idx_csv_and_rows_with_test_images_are_the_same_data(
    digits: Dataset, tmp_path: Path
) -> None:
    parts = {"train": digits.take(slice(0, 100)), "test": digits.take(slice(100, 131))}
    for each in ("idx", "csv", "hub", "pictures"):
        (tmp_path / each).mkdir()
    for name, part in parts.items():
        prefix = {"train": "train", "test": "t10k"}[name]
        images = format_idx(part.images.reshape(-1, 28, 28))
        (tmp_path / "idx" / f"{prefix}-images-idx3-ubyte").write_bytes(images)
        (tmp_path / "idx" / f"{prefix}-labels-idx1-ubyte").write_bytes(format_idx(part.labels))
        (tmp_path / "csv" / f"{name}.csv.gz").write_bytes(gzip.compress(lines(part)))
        table = pa.table({"image": raw(part.images), "label": part.labels})
        pq.write_table(table, tmp_path / "hub" / f"{name}-00000-of-00001.parquet")
        write_pictures(part, tmp_path / "pictures" / f"{name}ing".replace("train", "train"))

    found = [sources.load([str(folder)]) for folder in (tmp_path / "idx").parent.iterdir()]

    assert len(found) == 4
    assert len({data.sha256 for data in found}) == 1
    assert [len(sources.load_test([each.name])) for each in found] == [31] * 4
    with pytest.raises(UsageError, match="has test images of its own"):
        sources.load([found[0].name], test_split=0.1)


def test_globs_of_csv_files_are_joined_by_name_but_test_images(
    digits: Dataset, tmp_path: Path
) -> None:
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
    assert [str(each) for each in events] == [
        f"all 60 images of {tmp_path}/[a-c].csv are used, even if a net learnt them"
    ]
    with pytest.raises(DataError, match=r"x\*\.csv: there is no such file or folder"):
        sources.load([f"{tmp_path}/x*.csv"])


def as_idx(data: Dataset, folder: Path) -> str:
    (folder / "train-images-idx3-ubyte").write_bytes(format_idx(data.images.reshape(-1, 28, 28)))
    (folder / "train-labels-idx1-ubyte").write_bytes(format_idx(data.labels))
    return str(folder)


@pytest.mark.parametrize("form", [as_csv, as_kaggle, as_idx])
@pytest.mark.parametrize("grey", [True, False])
def test_dark_ink_on_light_paper_is_read_as_from_parquet(
    form: Callable[[Dataset, Path], str], grey: bool, digits: Dataset, tmp_path: Path
) -> None:
    images = 255 - digits.images if grey else (digits.images < 128).astype(np.uint8)
    dark = Dataset(images, digits.labels)
    (tmp_path / "rows").mkdir()
    rows = pa.table({"label": dark.labels, "image": fixed_list(dark.images)})
    pq.write_table(rows, tmp_path / "rows" / "a.parquet")
    expected = sources.load_test([str(tmp_path / "rows")])
    events = list[Event]()

    found = sources.load_test([form(dark, tmp_path)], events.append)

    assert found.sha256() == expected.sha256()
    assert not grey or found.sha256() == digits.sha256()
    [warned] = [str(each) for each in events if each.level == Level.WARNING]
    assert "131 of 131 images have a bright border and are taken for dark ink on light" in warned
    assert sources.load([form(dark, tmp_path)]).train.images[:, 0].max() == 0


def test_several_data_sets_are_joined_in_their_order(
    digits: Dataset, sample: Mnist, tmp_path: Path
) -> None:
    own = as_parquet(digits, tmp_path)

    data = sources.load(["sample", own], test_split=0.2)
    other = sources.load([own, "sample"], test_split=0.2)

    alone = sources.load([own], test_split=0.2)
    assert np.array_equal(data.train.images[:4000], sample.train.images)
    assert np.array_equal(data.train.images[4000:], alone.train.images)
    assert np.array_equal(data.test.labels[1000:], alone.test.labels)
    assert (data.name, data.test_split) == (f"sample + {own}", 0.2)
    assert data.sha256 != other.sha256
    assert len(sources.load(["sample", own], test_split=0.0).test) == 1000
    assert len(sources.load_test(["sample", own])) == 1131


def test_every_command_joins_all_data_sets(
    nanograd: Nanograd, digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_parquet(digits, tmp_path)
    both = ["--data", "sample", "--data", "a.parquet"]
    words = ["train", "--epochs", "1", "--hidden", "3", "--warmup", "0", "--variants", "0"]
    nanograd(*words, "--workers", "0", "--data", "sample", "--output", "run")
    asked = list[int]()
    build = commands.training_report.build
    monkeypatch.setattr(
        "nanograd.report.training_report.build",
        lambda run, test: (asked.append(len(test)), build(run, test))[1],
    )

    found = nanograd("data", "info", *both)
    exported = nanograd("data", "export", *both, "--output", "pictures")
    report = nanograd("report", "run", *both)
    monkeypatch.setenv("NANOGRAD_DATA_INFO_SOURCE", f"a.parquet\n{tmp_path}/a.parquet")

    assert found.last["data"] == f"sample + {tmp_path}/a.parquet"
    assert found.last["train"]["images"] + found.last["test"]["images"] == 5131
    assert exported.last["images"] == len([*tmp_path.glob("pictures/*/*.png")]) == 1131
    assert (report.code, asked) == (0, [1131])
    assert nanograd("data", "info").last["data"] == f"{tmp_path}/a.parquet + {tmp_path}/a.parquet"


def test_every_data_set_belongs_to_the_identity_of_a_run(
    nanograd: Nanograd, digits: Dataset, tmp_path: Path
) -> None:
    as_parquet(digits, tmp_path)
    words = ["train", "--epochs", "1", "--hidden", "3", "--warmup", "0", "--variants", "0"]
    words += ["--workers", "0", "--output", "run"]

    first = nanograd(*words, "--data", "sample", "--data", "a.parquet")
    again = nanograd(*words, "--config", "run/config.toml")
    other = nanograd(*words, "--data", "sample")
    report = nanograd("report", "run")
    evaluated = nanograd("evaluate", "--model", "run/model", "--data", "a.parquet")

    assert first.code == 0, first.stderr
    assert 'data = ["sample", "a.parquet"]' in Path("run/config.toml").read_text()
    assert again.last["params_sha256"] == first.last["params_sha256"]
    assert "is complete; --overwrite" in again.stderr
    assert (other.code, report.code) == (73, 0)
    assert evaluated.last["images"] == 131
    as_parquet(digits.take(slice(0, 90)), tmp_path)
    changed = nanograd("report", "run")
    assert (changed.code, "has changed since the run" in changed.last["reason"]) == (65, True)


def test_pictures_by_class_are_normalised_as_by_ingest(
    nanograd: Nanograd, sample: Mnist, tmp_path: Path
) -> None:
    nanograd("data", "export", "--data", "sample", "--output", "pictures")
    nanograd("ingest", "pictures", "--output", "rows", "--workers", "0")
    model_io.save(some_model(), "model")

    found = [nanograd("evaluate", "--model", "model", "--data", d) for d in ("pictures", "rows")]

    assert [each.last["images"] for each in found] == [1000, 1000]
    assert found[0].last["confusion"] == found[1].last["confusion"]
    expected = some_model().predict(sample.test.images) == sample.test.labels
    assert found[0].last["accuracy"] == expected.mean()


def test_rows_without_label_or_picture_are_left_out_with_a_warning(
    digits: Dataset, tmp_path: Path
) -> None:
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


def table(digits: Dataset, **columns: Any) -> pa.Table:
    return pa.table({"image": raw(digits.images), **columns})


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({}, "none of 131 rows has a label and can be read; labels come from a column label"),
        ({"label": [None] * 131}, "none of 131 rows has a label"),
        ({"label": [10] * 131}, "131 of the first 131 rows have a label that is no digit"),
        ({"label": [1.5] * 131}, "rows have a label that is no digit from 0 to 9; correct them"),
        ({"label": [b"7"] * 131}, "the images may be in"),
        ({"label": [3] * 131}, "all 118 training images have the label 3"),
    ],
)
def test_rows_that_teach_nothing_are_one_sentence(
    columns: dict[str, Any], message: str, digits: Dataset, tmp_path: Path
) -> None:
    rows = table(digits, **columns)
    if "may be" in message:
        rows = rows.rename_columns(["a", "b"])
    pq.write_table(rows, tmp_path / "a.parquet")

    with pytest.raises(DataError, match=message):
        sources.load([str(tmp_path)])


def test_columns_and_folders_of_hive_name_images_and_labels(
    digits: Dataset, tmp_path: Path
) -> None:
    for label in (3, 4):
        folder = tmp_path / f"label={label}"
        folder.mkdir()
        pq.write_table(table(digits.take(slice(0, 20))), folder / "a.parquet")
    rows = pa.table({"a": raw(digits.images), "b": raw(digits.images), "y": digits.labels})
    pq.write_table(rows, tmp_path / "columns.parquet")

    columns = ("a", "y")
    named = sources.load_test([str(tmp_path / "columns.parquet")], columns=columns)
    folders = sources.load_test([f"{tmp_path}/label=*"])

    assert named.sha256() == digits.sha256()
    assert folders.labels.tolist() == [3] * 20 + [4] * 20
    with pytest.raises(UsageError, match="sample: there are no Parquet files; leave --image"):
        sources.load(["sample"], columns=columns)


@pytest.mark.parametrize("name", ["000000_0", "b.parq", "sub/test.data"])
@pytest.mark.parametrize("as_folder", [False, True])
def test_parquet_of_any_name_is_a_data_set(
    digits: Dataset, tmp_path: Path, name: str, *, as_folder: bool
) -> None:
    place = tmp_path / "in" / name
    place.parent.mkdir(parents=True)
    pq.write_table(pa.table({"label": digits.labels, "img": raw(digits.images)}), place)

    source = str(tmp_path / "in" if as_folder else place)

    assert sources.load_test([source], columns=("img", None)).sha256() == digits.sha256()


def test_folder_above_the_data_is_no_label(digits: Dataset, tmp_path: Path) -> None:
    folder = tmp_path / "label=3" / "rows"
    folder.mkdir(parents=True)
    pq.write_table(pa.table({"image": raw(digits.images)}), folder / "a.parquet")

    with pytest.raises(DataError, match="none of 131 rows has a label"):
        sources.load_test([str(folder)])


def test_names_of_classes_are_the_labels(digits: Dataset, tmp_path: Path) -> None:
    feature = {"_type": "ClassLabel", "names": [str(label) for label in range(9, -1, -1)]}
    metadata = {"huggingface": json.dumps({"info": {"features": {"label": feature}}})}
    rows = pa.table({"image": raw(digits.images), "label": 9 - digits.labels})
    pq.write_table(rows.replace_schema_metadata(metadata), tmp_path / "a.parquet")

    assert sources.load_test([str(tmp_path)]).sha256() == digits.sha256()


@pytest.mark.parametrize("name", ["empty", "missing", "x.parquet", "text", "csv"])
def test_source_without_data_is_one_sentence(name: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").write_text("seven")
    (tmp_path / "csv").mkdir()
    (tmp_path / "csv/digits.csv").write_text("7")
    (tmp_path / "x.parquet").write_bytes(b"")
    messages = {
        "empty": "no .parquet or .pq files in .*empty; expected MNIST's IDX files",
        "missing": "there is no such folder; --data takes auto, mnist, sample or a folder",
        "x.parquet": "x.parquet is not a complete Parquet file",
        "text": "text: no train images found; expected a folder with",
        "csv": r"expected MNIST.s .* \(a CSV file of another name is named itself\)",
    }

    with pytest.raises(DataError, match=messages[name]):
        sources.load([str(tmp_path / name)])


def test_empty_name_is_not_the_working_directory() -> None:
    with pytest.raises(UsageError, match="--data is empty; name a data set"):
        sources.load(["sample", ""])


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.zeros((2, 784)), [1], r"2 images need as many labels, not \(1,\)"),
        (np.zeros((2, 784)), [1, 10], "label 1 is .*10.*, expected 0 to 9"),
        (np.zeros((2, 784)), np.array([3, 7]) > 4, "label 0 is False, expected 0 to 9"),
        (np.zeros((2, 784)), ["1", "x"], "label 0 is .*, expected 0 to 9"),
        (np.zeros((0, 784)), [], "there are no images"),
        (np.full((2, 784), 7.5), [1, 2], "image 0: .* the scale is unclear"),
        ([[1], [1, 2]], [1, 2], r"images must be \(N, 28, 28\) or \(N, 784\)"),
    ],
)
def test_arrays_that_are_no_digits_are_refused(images: Any, labels: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        sources.from_arrays(images, labels)


def test_pair_of_arrays_in_a_list_is_refused(digits: Dataset) -> None:
    pair = (digits.images, digits.labels)

    for data in (["sample", pair], [pair, "sample"], ("sample", "sample", pair), [digits.images]):
        with pytest.raises(ArgumentError, match=r"one pair .* not in a list with others; save"):
            api.evaluate("model", data=data)


@pytest.mark.parametrize("name", ["a.csv.zip", "a.CSV.bz2", "a.csv.zst", "a.tsv", "a.txt.gz"])
def test_table_of_another_format_is_one_true_sentence(
    nanograd: Nanograd, name: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(b"x")
    model_io.save(some_model(), "model")
    predict = ("predict", name, "--output", "read", "--workers", "0")

    for words in (("evaluate", "--data", name), predict):
        outcome = nanograd(*words, "--model", "model")
        assert (outcome.code, outcome.last["reason"]) == (
            65,
            f"{tmp_path}/{name}: tables of text are read from .csv and .csv.gz files, in UTF-8, "
            "with commas; convert it",
        )


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_text_in_utf_16_is_one_true_sentence(
    nanograd: Nanograd, digits: Dataset, encoding: str, tmp_path: Path
) -> None:
    text = lines(digits, f"label,{NAMES}").decode().encode(encoding)
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(text))
    model_io.save(some_model(), "model")
    predict = ("predict", "a.csv.gz", "--output", "read", "--workers", "0")

    for words in (("evaluate", "--data", "a.csv.gz"), predict):
        reason = json.dumps(nanograd(*words, "--model", "model").last)
        assert "no text in UTF-8 (UTF-16, as of Excel?); tables of text are read from" in reason


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", r"1 broken_archive; first .*a\.zip: the file is not a complete ZIP archive"),
        (b"PK\5\6" + bytes(18), r"^no \.png or \.jpg files in .*a\.zip; check the path"),
    ],
)
def test_zip_without_files_is_not_called_a_picture(
    content: bytes, reason: str, tmp_path: Path
) -> None:
    (tmp_path / "a.zip").write_bytes(content)

    with pytest.raises(DataError, match=reason):
        sources.load([str(tmp_path / "a.zip")])


def test_run_of_one_form_is_not_that_of_other_digits(digits: Dataset, tmp_path: Path) -> None:
    settings: dict[str, Any] = {**SETTINGS, "epochs": 1, "output": tmp_path / "run"}
    api.train(data=(digits.images, digits.labels), **settings)

    with pytest.raises(OutputExistsError, match="contains a run with data_sha256"):
        api.train(data=(digits.images[::-1], digits.labels[::-1]), **settings)
