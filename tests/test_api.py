"""nanograd from Python: what the commands do, without them."""

import re
import signal
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO, StringIO, TextIOWrapper
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import nanograd
from nanograd import commands
from nanograd.digits.form import to_png
from nanograd.errors import ArgumentError, DataError, Stopped, StorageError
from nanograd.images import writers
from nanograd.pictures import normalise
from nanograd.runtime import process
from nanograd.runtime.events import EpochFinished, Event, Level, TrainingFinished, broadcast, ignore
from nanograd.settings.fields import flag_name
from tests.helpers.drawings import drawings, painted
from tests.helpers.folders import untimed_contents
from tests.helpers.models import some_model
from tests.helpers.processes import run_python

PICTURE = Path(__file__).parents[1] / "docs/pictures/normaliser.png"
SETTINGS: dict[str, Any] = {
    "data": "sample", "hidden": 8, "epochs": 2, "warmup": 2, "batch_size": 512, "elastic": 0.0
}  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> nanograd.Training:
    return nanograd.train(output=tmp_path_factory.mktemp("api") / "run", **SETTINGS)


def printed(code: str, **environment: str) -> str:
    done = run_python(code, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_imports_are_lazy_and_training_in_this_process_needs_neither_ray_nor_jobs(tmp_path):
    code = f"""
import sys, nanograd
print(*sys.modules)
nanograd.train(output={str(tmp_path / "run")!r}, **{SETTINGS!r})
print(*sys.modules)
"""

    loaded, trained = printed(code).splitlines()

    assert {"numpy", "ray", "pyarrow", "PIL", "click", "sklearn"}.isdisjoint(loaded.split())
    assert {"ray", "nanograd.jobs.job", "nanograd.numbers.recognise"}.isdisjoint(trained.split())


def test_every_name_it_offers_is_there_and_others_are_not():
    for name in nanograd.__all__:
        assert name in dir(nanograd)
        assert getattr(nanograd, name).__module__.startswith("nanograd.")
    with pytest.raises(AttributeError, match="module 'nanograd' has no attribute 'trian'"):
        _ = nanograd.trian  # type: ignore[attr-defined]


def untimed(line: dict[str, Any]) -> dict[str, Any]:
    left_out = {"start_s", "rows_per_s", "output", "summary", "report", "review", "evaluate_s"}
    timed = {*left_out, "predict_s", "ingest_s", "event", "command"}
    return {name: value for name, value in line.items() if name not in timed}


def test_functions_and_commands_do_the_same(nanograd_, tmp_path, run, sample):
    digits = sample.test.take(slice(0, 31))
    writers.write_pictures(digits, str(tmp_path / "pictures"))
    pictures, model, rows = tmp_path / "pictures", f"{run.directory}/model", str(tmp_path / "a")
    out, file = tmp_path / "function", tmp_path / "a.onnx"

    ingested = nanograd.ingest(pictures, output=rows)
    predicted = nanograd.predict([rows], model=Path(model), output=out, keep=["label"])
    evaluated = nanograd.evaluate(Path(model), data=pictures)
    exported = nanograd.export(model, file)

    done = nanograd_("ingest", str(pictures), "--output", "b", "--workers", "0")
    assert untimed(ingested.to_json()) == untimed(done.last)
    assert (ingested.rows, ingested.labelled, ingested.quarantined) == (31, 31, 0)
    assert untimed_contents(Path(rows)) == untimed_contents(Path("b"))
    words = ["--model", model, "--output", "command", "--workers", "0", "--keep", "label"]
    done = nanograd_("predict", rows, *words)
    assert untimed(predicted.to_json()) == untimed(done.last)
    assert (predicted.rows, predicted.predicted, predicted.output) == (31, 31, str(out))
    assert untimed_contents(out) == untimed_contents(Path("command"))
    done = nanograd_("evaluate", "--model", model, "--data", str(pictures))
    assert untimed(evaluated.to_json()) == untimed(done.last)
    assert (evaluated.images, evaluated.confusion.sum()) == (31, 31)
    assert evaluated.accuracy == predicted.accuracy
    both = nanograd.evaluate(model, data=[rows, str(pictures)])
    arrays = nanograd.evaluate(run.model, data=(digits.images, digits.labels))
    assert (both.images, both.accuracy, arrays.accuracy) == (62, *[evaluated.accuracy] * 2)
    nanograd_("export", "--model", model, "--output", "b.onnx")
    assert file.read_bytes() == Path("b.onnx").read_bytes()
    assert (exported.bytes, exported.output) == (file.stat().st_size, str(file))


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: nanograd.ingest("pictures"), "output is missing"),
        (lambda: nanograd.predict("rows", quiet=True), "quiet is for the terminal; pass listener="),
        (lambda: nanograd.predict("rows", modle=1), "unknown setting 'modle'"),
        (lambda: nanograd.predict("rows", model=some_model(), output="o"), "such as a path or URI"),
        (lambda: nanograd.export(some_model(), "digits.onnx"), "it must be .* a path or URI"),
        (lambda: nanograd.train(resume_from=some_model()), "it must be .* a path or URI"),
        (lambda: nanograd.export(None), "output is missing"),
        (lambda: nanograd.train(batch_size=7, shards=8), "^batch_size 7 is less than shards 8"),
        (lambda: nanograd.predict("rows", model=""), "model is empty; name a path or URI"),
        (lambda: nanograd.predict("rows", output="gs://"), "output is 'gs://'; name a path"),
        (lambda: nanograd.predict("rows", output="a\0b"), r"output is 'a\\x00b'; name a path"),
        (lambda: nanograd.predict(Path().glob("*")), "several in a list, not <generator"),
        (lambda: nanograd.predict(b"rows"), "b'rows' is no path"),
        (lambda: nanograd.predict("", output="o"), "'' is no path"),
        (lambda: nanograd.predict("rows", spec={}), "spec is {}: it must be a PredictSpec"),
        (lambda: nanograd.ingest("rows", output="o", listener=None), "listener is None"),
        (lambda: nanograd.predict(PICTURE, keep="id"), "there are no columns"),
        (lambda: nanograd.predict([], output="o"), "several in a list"),
        (lambda: nanograd.predict([7], output="o"), "7 is no path"),
        (lambda: nanograd.ingest("nowhere", output=7), ""),
        (lambda: nanograd.evaluate("nowhere", data=([[0.0] * 784], [10])), ""),
        (lambda: nanograd.export("nowhere", "o"), ""),
        (lambda: nanograd.Predictor(7), "7 is no path"),
        (lambda: nanograd.load_model(""), "'' is no path"),
        (lambda: nanograd.load_model(Path(__file__).parent), ""),
        (lambda: nanograd.train(data=["sample", 7]), ""),
        (lambda: nanograd.train(data=[]), "data"),
        (lambda: nanograd.train(data=([], [])), ""),
        (lambda: nanograd.train(data=(np.zeros((1, 784)), ["6"])), "'6'"),
        (lambda: nanograd.train(data=(np.zeros((1, 784)), np.array(["6"], object))), "'6'"),
        (lambda: nanograd.train(data="sample", epochs="3"), ""),
        (lambda: nanograd.read_picture(b""), ""),
        (lambda: nanograd.read_picture("nowhere.png"), ""),
        (lambda: nanograd.read_picture(None), ""),
        (lambda: nanograd.read_picture(np.zeros(7)), ""),
        (lambda: nanograd.read_picture(np.full((28, 28), 7.0)), ""),
        (lambda: nanograd.read_picture(StringIO("text")), ""),
        (lambda: nanograd.read_picture(TextIOWrapper(BytesIO(b"\x89PNG"), "utf-8")), ""),
        (lambda: nanograd.read_picture(b"", polarity="inverted"), ""),
        (lambda: nanograd.Predictor("nowhere", polarty="auto"), ""),
    ],
)
def test_bad_arguments_are_errors_of_its_own_that_name_arguments(call, named):
    with pytest.raises(nanograd.NanogradError, match=named or ".") as caught:
        call()

    assert isinstance(caught.value, ArgumentError) or not named
    assert "--" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_function_and_command_train_to_the_same_bits(nanograd_, run):
    words = [w for name, value in SETTINGS.items() for w in (flag_name(name), str(value))]

    line = nanograd_("train", *words, "--workers", "0", "--output", "run").last

    assert run.model.params_sha256() == run.params_sha256 == line["params_sha256"]
    assert run.test_accuracy == line["test_accuracy"]
    assert len(repr(run)) < 300


def test_listener_receives_events_and_text_log_renders_them(tmp_path):
    events: list[Event] = []
    lines: list[str] = []

    listener = broadcast([events.append, nanograd.TextLog(lines.append)])
    run = nanograd.train(output=tmp_path / "run", listener=listener, **SETTINGS)
    again = nanograd.train(output=run.directory, listener=events.append, **SETTINGS)

    epochs = [event.metrics for event in events if isinstance(event, EpochFinished)]
    assert [epoch.loss for epoch in epochs] == [row["loss"] for row in run.metrics]
    assert [row["epoch"] for row in run.metrics] == [1, 2]
    assert run.metrics[0]["loss"] > run.metrics[1]["loss"]
    assert any(line.startswith("train  epoch 2/2") for line in lines)
    assert again.metrics == run.metrics
    found = [event.result for event in events if isinstance(event, TrainingFinished)]
    assert found == [run.to_json(), again.to_json()]
    assert run.report
    assert any("is complete; --overwrite" in str(event) for event in events)
    loaded = nanograd.load_model(Path(run.directory) / "model")
    assert loaded.params_sha256() == run.model.params_sha256()


def test_warnings_are_logged_unless_a_listener_receives_them(tmp_path, caplog):
    events: list[Event] = []
    settings = {**SETTINGS, "warmup": 999}

    nanograd.train(output=tmp_path / "a", **settings)
    logged = [(each.name, each.levelname, each.getMessage()) for each in caplog.records]
    nanograd.train(output=tmp_path / "b", listener=events.append, **settings)

    [warning] = [str(event) for event in events if event.level is Level.WARNING]
    assert logged == [("nanograd", "WARNING", warning)]
    assert warning.startswith("the warm-up takes the whole run of 16 rounds: ")
    assert len(caplog.records) == 1


@pytest.mark.parametrize("output", ["run", None])
def test_run_in_a_removed_working_directory_is_refused_before_data_is_read(
    output, tmp_path, monkeypatch
):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()

    with pytest.raises(StorageError, match="the working directory is gone"):
        nanograd.train(data="/nowhere", output=output)


def test_runs_without_an_output_have_directories_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    few = np.zeros((20, 784), np.uint8), np.arange(20) % 10

    def train(rate: float) -> str:
        spec = {"data": few, "hidden": 1, "epochs": 1, "learning_rate": rate}
        return nanograd.train(**spec, listener=ignore).directory

    with ThreadPoolExecutor(1) as pool:  # a thread of another program may train
        found = list(pool.map(train, (0.1, 0.2, 0.3)))

    assert sorted(found) == [str(each) for each in sorted(Path("runs").iterdir())]
    assert len(found) == 3


@pytest.mark.parametrize("own", [False, True])
def test_progress_is_shown_on_stderr_beside_the_own_listener(tmp_path, capsys, own):
    events: list[Event] = []
    more: Any = {"listener": events.append} if own else {}

    nanograd.train(output=tmp_path / "run", progress=True, **more, **SETTINGS)

    out, err = capsys.readouterr()
    assert "\ntrain  epoch 2/2" in err
    assert (out, bool(events)) == ("", own)


def test_runs_are_compared_by_the_settings_that_differ_and_their_results(tmp_path, run, nanograd_):
    other = nanograd.train(
        output=tmp_path / "other", **{**SETTINGS, "hidden": 9, "epochs": 3, "validation_split": 0.0}
    )
    places = [run.directory, other.directory]

    found = nanograd.compare(places)
    done = nanograd_("compare", *places)

    assert found.settings == {"epochs": [2, 3], "hidden": [8, 9], "validation_split": [0.1, 0.0]}
    assert found.results["test_accuracy"] == [run.test_accuracy, other.test_accuracy]
    assert found.results["val_loss"] == [run.metrics[-1]["val_loss"], None]
    assert found.curves["loss"] == [[row["loss"] for row in each.metrics] for each in (run, other)]
    assert done.last == {"event": "result", "command": "compare", **found.to_json()}
    rows = [re.split(" {2,}", line) for line in str(found).splitlines()]
    table = {name: cells for name, *cells in rows}
    assert table[""] == places
    assert table["hidden"] == ["8", "9"]
    assert table["val_loss"][1] == "-"
    assert [len(curve) for curve in table["loss by epoch"]] == [2, 3]
    assert str(found) in done.stderr
    alone = nanograd.compare(run.directory)
    assert (alone.settings, alone.runs) == ({}, [run.directory])
    Path(other.directory, "metrics.jsonl").unlink()
    assert nanograd.compare(places).results["loss"] == [run.metrics[-1]["loss"], None]
    with pytest.raises(nanograd.NanogradError, match="nowhere: there is no such folder"):
        nanograd.compare([run.directory, "nowhere"])


def test_ctrl_c_stops_a_run_that_the_same_call_finishes(tmp_path, run):
    def interrupt(event: Event) -> None:
        if isinstance(event, EpochFinished) and event.metrics.epoch == 1:
            signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(Stopped, match="repeat the command with output"):
        nanograd.train(output=tmp_path / "run", listener=interrupt, **SETTINGS)
    finished = nanograd.train(output=tmp_path / "run", **SETTINGS)

    assert finished.model.params_sha256() == run.model.params_sha256()
    assert signal.getsignal(signal.SIGINT) == before


FORMS: list[Any] = [
    lambda images: images.reshape(-1, 28, 28),
    lambda images: images.astype(np.int64),
    lambda images: (images / 255).astype(np.float32).reshape(-1, 28, 28),
    lambda images: images.tolist(),
    np.asfortranarray,
]
DTYPES: list[Any] = [bool, np.int8, np.int64, np.float16, np.float64]


def test_every_form_of_the_same_images_is_read_alike(sample, run):
    images = sample.test.images[:193]
    bits = images > 127  # zeros and ones are no and full ink

    scores = [run.model.predict_proba(form(images)) for form in FORMS]
    of_bits = [run.model.predict_proba(bits.astype(dtype)) for dtype in DTYPES]

    with process.one_thread():
        expected = run.model.probabilities(images)
        expected_of_bits = run.model.probabilities(bits * np.uint8(255))
    assert all(np.array_equal(each, expected) for each in scores)
    assert all(np.array_equal(each, expected_of_bits) for each in of_bits)
    assert np.array_equal(run.model.predict(images), expected.argmax(axis=1))
    assert run.model.predict(np.zeros((0, 28, 28), np.uint8)).shape == (0,)


def test_threads_that_predict_at_once_get_the_same_bits(run):
    code = f"""
import numpy as np, nanograd
from concurrent.futures import ThreadPoolExecutor
model = nanograd.load_model({run.directory!r} + "/model")
images = np.random.default_rng(0).integers(0, 256, (193, 784))
model.predict(images)  # threadpoolctl then lets the main thread alone set limits
with ThreadPoolExecutor(8) as pool:
    found = list(pool.map(lambda _: model.predict_proba(images).tobytes(), range(64)))
print(len(set(found)))
"""

    # As many BLAS threads as a machine may have: a limit that ended early would show.
    assert printed(code, OMP_NUM_THREADS="2", OPENBLAS_NUM_THREADS="2") == "1\n"


@pytest.mark.parametrize(
    ("images", "why"),
    [
        (np.zeros((28, 28), np.uint8), r"not \(28, 28\)"),
        (np.full((1, 784), 16.0), r"image 0: .* the scale is unclear; scale pixels to 0 to 1"),
        (np.repeat([[0.5], [-0.42], [2.0]], 784, axis=1), "image 1: a pixel is below 0"),
        (np.full((1, 784), "7"), "not <U1"),
    ],
)
def test_images_of_another_kind_are_refused(run, images, why):
    with pytest.raises(ArgumentError, match=why) as caught:
        run.model.predict(images)
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, TypeError)


def test_pictures_are_read_from_every_kind_of_source(tmp_path):
    picture = painted(next(iter(drawings(1, seed=2))))
    stream = BytesIO()
    picture.save(stream, "PNG")
    (tmp_path / "0.png").write_bytes(stream.getvalue())
    with ZipFile(tmp_path / "in.zip", "w") as archive:
        archive.writestr("0/x.png", stream.getvalue())
    pixels, exif = np.asarray(picture), Image.Exif()
    exif[0x0112] = 6  # turned
    picture.rotate(90, expand=True).save(turned := BytesIO(), "PNG", exif=exif)
    sources: list[Any] = [
        *(Image.open(turned), tmp_path / "0.png", f"{tmp_path}/in.zip/0/x.png", stream.getvalue()),
        *(BytesIO(stream.getvalue()), picture, picture.convert("RGBA"), Image.open(stream)),
        *(pixels, pixels / 255, np.stack([pixels] * 3, axis=-1), pixels.tolist()),
    ]
    for source in sources:
        assert np.array_equal(nanograd.read_picture(source), normalise.normalise(picture))
    for source in (tmp_path / "in.zip", (tmp_path / "in.zip").read_bytes()):
        with pytest.raises(nanograd.UnreadableError, match="this is a ZIP file"):
            nanograd.read_picture(source)
    with pytest.raises(nanograd.UnreadableError) as caught:
        nanograd.read_picture(Image.new("L", (100, 100), 255))
    assert caught.value.reason == "blank"
    with pytest.raises(nanograd.UnreadableError, match="has no pixels"):
        nanograd.read_picture(Image.new("L", (0, 0)))


def test_training_reads_the_pictures_whose_paths_are_in_a_table(tmp_path, run, sample, monkeypatch):
    data, images = sample.test.take(slice(0, 193)), tmp_path / "images"
    writers.write_pictures(data, str(images))
    files = sorted(images.rglob("*.png"))
    rows = [{"path": str(file.relative_to(images))} for file in files]
    labels = [int(file.parent.name) for file in files]
    pq.write_table(pa.table({"image": rows, "label": labels}), tmp_path / "rows.parquet")
    settings = {"data": tmp_path / "rows.parquet", "image_root": "images", "batch_size": 32}
    monkeypatch.chdir(tmp_path)

    trained = nanograd.train(output=tmp_path / "run", **{**SETTINGS, **settings})
    measured = nanograd.evaluate(run.model, data=settings["data"], image_root=images)

    assert measured.accuracy == nanograd.evaluate(run.model, data=images).accuracy
    (tmp_path / "run" / "report.html").unlink()
    monkeypatch.chdir("/")
    commands.report(trained.directory)  # reads the test images again
    assert (tmp_path / "run" / "report.html").exists()
    with pytest.raises(DataError, match=r"path instead of bytes, .*png; predict, train, "):
        nanograd.evaluate(data=settings["data"])
    for given in ("sample", (data.images, data.labels)):
        with pytest.raises(ArgumentError, match="label_column and image_root out"):
            nanograd.evaluate(data=given, image_root=images)


@pytest.mark.parametrize("kind", ["missing", "file"])
def test_image_root_that_is_no_folder_is_refused_before_it_costs(kind, tmp_path, sample):
    image = {"bytes": to_png(sample.test.images[0]), "path": "7.png"}
    pq.write_table(pa.table({"image": [image] * 9, "label": [7] * 9}), tmp_path / "rows.parquet")
    data, root, output = tmp_path / "rows.parquet", tmp_path / kind, tmp_path / "out"
    (tmp_path / "file").touch()

    for call in (
        lambda: nanograd.train(data=data, image_root=f"{root}/", output=output, workers=0),
        lambda: nanograd.evaluate(data=data, image_root=root),
        lambda: nanograd.predict(data, image_root=root, output=output),
        lambda: nanograd.Predictor(image_root=root),
    ):
        with pytest.raises(DataError, match=f"^image_root .*{kind}/?: there is no such folder"):
            call()

    assert not output.exists()
    root.unlink(missing_ok=True)
    root.mkdir()
    read = nanograd.predict(data, image_root=f"{root}/", output=output)
    root.rmdir()
    assert read.predicted == nanograd.predict(data, image_root=root, output=output).predicted == 9


def test_commands_for_data_take_the_columns_of_evaluate(nanograd_, tmp_path, sample):
    data, root = sample.test.take(slice(0, 20)), tmp_path / "bilder ü"
    writers.write_pictures(data, str(root))
    files = sorted(str(file.relative_to(root)) for file in root.rglob("*.png"))
    table = pa.table({"file": files, "is": [int(file[0]) for file in files]})
    pq.write_table(table, tmp_path / "rows.parquet")
    (tmp_path / "c.toml").write_text('image_column = "file"\nlabel_column = "is"\n')
    words = ["--config", "c.toml", "--data", "rows.parquet"]

    info = nanograd_("data", "info", *words, "--image-root", str(root))
    copied = nanograd_(
        "data", "export", *words, "--output", "copy", NANOGRAD_DATA_EXPORT_IMAGE_ROOT=f"{root}/"
    )

    assert info.last["train"]["images"] + info.last["test"]["images"] == 20
    assert copied.last["images"] == len([*tmp_path.glob("copy/*/*.png")]) == 20
    alone = nanograd_("data", "info", *words[2:])
    assert alone.last["code"] == 65
    assert "--image-column" in alone.last["reason"]
