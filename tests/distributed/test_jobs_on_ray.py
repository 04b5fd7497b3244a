"""Jobs whose parts Ray Data runs: how many actors, which output, which metrics."""

import gc
import os
import pickle
import re
import signal
import sys
import threading
from dataclasses import replace
from pathlib import Path
from time import monotonic, sleep
from typing import Any
from urllib.request import urlopen

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
import ray.cloudpickle
from ray.data.extensions import ArrowTensorArray

import nanograd
from nanograd import batch, commands
from nanograd.digits.form import to_png
from nanograd.distributed import cluster, part_pool
from nanograd.distributed.cluster import num_actors, session
from nanograd.distributed.part_pool import run_on_ray
from nanograd.distributed.prometheus import RayMetrics
from nanograd.errors import ClusterError, DataError
from nanograd.images.writers import write_pictures
from nanograd.jobs.part import Part
from nanograd.jobs.receipts import Receipt
from nanograd.models import model as model_io
from nanograd.report.trackers import guarded
from nanograd.runtime.events import Event, changed
from nanograd.settings.specs import PredictSpec
from nanograd.settings.train_spec import TrainSpec
from simulators.waiting import wait_for
from tests.conftest import ROOT
from tests.helpers.events import ROWS
from tests.helpers.folders import untimed_contents
from tests.helpers.image_columns import raw, ray_tensors
from tests.helpers.jobs import receipt_of
from tests.helpers.models import some_model

# Actors cannot import this module: it travels with the work.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])

PARTS = [
    Part(id=f"{number:02d}", files=(f"file-{number}",), num_rows=number) for number in range(7)
]


class MeetAnother:
    """Work that is done only while another process is at work; tells its own one as `labelled`."""

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)

    def __call__(self, part: Part) -> Receipt:
        (self._folder / str(os.getpid())).touch()
        deadline = monotonic() + 60
        while len(list(self._folder.iterdir())) < 2:
            if monotonic() > deadline:
                raise DataError("nobody else is at work")
            sleep(0.01)
        return receipt_of(part, labelled=os.getpid())


class FailAtThree:
    """Work that cannot do a part, or dies of it."""

    def __init__(self, dies: bool) -> None:
        self._dies = dies

    def __call__(self, part: Part) -> Receipt:
        if part.id == "03" and self._dies:
            os.kill(os.getpid(), signal.SIGKILL)
        if part.id == "03":
            raise DataError("file-3 is broken; restore it")
        return receipt_of(part)


@pytest.mark.parametrize("parts", [[], PARTS[1:3]], ids=len)
def test_two_actors_are_at_work_at_once_and_do_every_part_exactly_once(ray_cpus, tmp_path, parts):
    receipts = [each.receipt for each in run_on_ray(MeetAnother(str(tmp_path)), 2, parts)]

    assert sorted(receipt.part for receipt in receipts) == [part.id for part in parts]
    assert sum(receipt.counts.rows for receipt in receipts) == sum(p.num_rows for p in parts)
    assert len({receipt.counts.labelled for receipt in receipts} - {os.getpid()}) == len(parts)


def test_many_small_files_and_pictures_are_predicted_as_without_ray(ray_cpus, tmp_path, sample):
    model_io.save(some_model(), str(tmp_path / "model"))
    write_pictures(sample.test.take(slice(0, 31)), str(tmp_path / "lä ufe"))
    for number in range(300):
        images = [sample.test.images[number].tobytes()] * (number % 40)
        table = pa.table({"image": pa.array(images, pa.binary())})
        pq.write_table(table, tmp_path / "lä ufe" / f"{number}.parquet")
    (tmp_path / "lä ufe" / "empty.png").touch()

    for workers in (0, 2):
        output = f"{tmp_path}/{workers}"
        spec = PredictSpec(model=f"{tmp_path}/model", output=output, workers=workers)
        done = batch.predict([str(tmp_path / "lä ufe")], spec=spec)
        assert done.rows == sum(number % 40 for number in range(300)) + 32
    assert untimed_contents(tmp_path / "0") == untimed_contents(tmp_path / "2")


def test_a_failure_of_ours_reaches_the_driver_as_it_was(ray_cpus):
    with pytest.raises(DataError, match="file-3 is broken"):
        list(run_on_ray(FailAtThree(dies=False), 1, PARTS))


def test_a_part_that_kills_its_process_ends_the_job_and_is_named(ray_cpus, capfd, monkeypatch):
    monkeypatch.setattr(part_pool, "MAX_DEATHS", 2)

    with pytest.raises(ClusterError, match=r"process 2 times, probably that of file-3"):
        list(run_on_ray(FailAtThree(dies=True), 1, PARTS[3:]))

    assert "Traceback" not in capfd.readouterr().err
    gc.collect()  # frames of the error hold an actor, which holds a CPU


class WaitForFile:
    """Work that does any one part at once; further parts wait for a file."""

    def __init__(self, file: str) -> None:
        self._file = Path(file)
        self._called = False

    def __call__(self, part: Part) -> Receipt:
        if self._called:
            wait_for(self._file.exists, "the results were not closed")
        self._called = True
        return receipt_of(part)


def test_results_that_are_closed_early_leave_no_thread_that_calls_ray(ray_cpus, tmp_path):
    before = set(threading.enumerate())
    results = run_on_ray(WaitForFile(f"{tmp_path}/done"), 1, PARTS)
    next(results)

    results.close()

    # Such a thread would end this process with exit code 1 after `ray.shutdown`.
    left = [thread.name for thread in threading.enumerate() if thread not in before]
    Path(f"{tmp_path}/done").touch()
    assert left == []
    wait_for(lambda: ray.available_resources().get("CPU") == ray_cpus, "an actor is left", 20)


class CannotArrive:
    """Work that a worker cannot load, as where a module is missing there."""

    def __reduce__(self) -> tuple[object, ...]:
        return __import__, ("no_module_of_this_name",)

    def __call__(self, part: Part) -> Receipt:
        raise NotImplementedError


def test_worker_that_cannot_start_is_reported_with_its_cause(ray_cpus):
    with pytest.raises(ClusterError, match=r"cannot start: ModuleNotFoundError.*no_module"):
        list(run_on_ray(CannotArrive(), 1, PARTS))

    gc.collect()


def test_a_session_that_is_open_is_used_and_left_open(ray_cpus):
    with session(None):
        assert num_actors(ray_cpus) == ray_cpus

    assert ray.is_initialized()


def test_there_are_as_many_actors_as_cpus_but_those_of_others(ray_cpus, hold, monkeypatch):
    num_actors(ray_cpus)  # waits until the actors of the test before have given back their CPUs
    monkeypatch.setattr(cluster, "CPU_TIMEOUT_S", 0)
    assert [num_actors(None, most=most) for most in (None, 193, 1)] == [ray_cpus, ray_cpus, 1]
    hold(1)

    assert num_actors(None) == ray_cpus - 1
    for asked in (ray_cpus, 99):
        with pytest.raises(ClusterError, match=f"{ray_cpus - 1} of {ray_cpus} CPUs are free"):
            num_actors(asked)


def test_prediction_has_the_cpu_that_training_held(ray_cpus, hold, tmp_path, sample):
    hold(ray_cpus - 1)
    run, rows, read = (str(tmp_path / name) for name in ("run", "a.parquet", "read"))
    pq.write_table(pa.table({"image": list(sample.test.images)}), rows)
    learning = TrainSpec(data="sample", output=run, epochs=1, hidden=8, workers=1)
    trained = commands.train(spec=learning).to_json()
    reading = PredictSpec(model=trained["model"], output=read, workers=1)
    predicted = batch.predict([rows], spec=reading).to_json()

    assert predicted["predicted"] == 1000


PAGE = (ROOT / "docs/ray-data.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


# A user with so few rows sees this warning of Ray Data, too.
@pytest.mark.filterwarnings("ignore:The minimum number of concurrent actors")
def test_documented_pipeline_has_the_predictions_of_the_command(
    sample, tmp_path, hold, ray_cpus, capsys
):
    hold(ray_cpus - 2)  # so that Ray starts fewer processes
    model_io.save(some_model(), str(tmp_path / "runs/1/model"))
    images = sample.test.images[:193]
    rows = [b"no picture", *raw(images).to_pylist()]
    (tmp_path / "rows").mkdir()
    table = pa.table({"id": range(194), "image": rows, "label": [7] * 194})
    pq.write_table(table, tmp_path / "rows/a.parquet")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/7.png").write_bytes(to_png(images[0]))
    # The processes of this Ray run in another folder.
    code = re.sub('"(rows|read|photos|runs/1/model)"', rf'"{tmp_path}/\1"', "".join(BLOCKS))

    exec(code, {})  # noqa: S102 - our own documentation

    assert "7.png" in capsys.readouterr().out
    settings = {"model": str(tmp_path / "runs/1/model"), "workers": 0, "keep": ("id",)}
    config = PredictSpec(**settings, output=str(tmp_path / "out"))
    batch.predict([str(tmp_path / "rows")], spec=config)
    expected = pq.read_table(tmp_path / "out/predictions").sort_by("id")
    found = pq.read_table(tmp_path / "read").sort_by("id")
    assert found["reason"].to_pylist() == ["broken_image", *[None] * 193]
    assert found["prediction"].to_pylist() == [None, *expected["prediction"].to_pylist()]
    assert found["label"].to_pylist() == [None, *expected["label"].to_pylist()]
    np.testing.assert_allclose(
        found["confidence"].to_numpy()[1:], expected["confidence"].to_numpy(), rtol=1e-5
    )


NUM_IMAGES = 29
V2, VARIABLE = "tensor_v2", "variable_shaped_tensor"


def test_tensors_of_ray_are_predicted_alike_by_any_process(
    sample, tmp_path, nanograd_process, joining
):
    model_io.save(some_model(), str(tmp_path / "model"))
    images = sample.test.images[:NUM_IMAGES].reshape(NUM_IMAGES, 28, 28)
    wide = np.pad(images, ((0, 0), (2, 2), (2, 2)))
    tables = {
        "v1": ray_tensors(images, "tensor"),
        "v2": ray_tensors(images),
        "variable": ray_tensors(images, VARIABLE, b"2"),
        # Those of Ray 2.49 to 2.54 are never unpickled.
        "pickled v2": ray_tensors(images, V2, pickle.dumps((28, 28))),
        "pickled variable": ray_tensors(images, VARIABLE, pickle.dumps(2)),
        "v2 of 32 x 32": ray_tensors(wide),
        "pickled v2 of 32 x 32": ray_tensors(wide, V2, pickle.dumps((32, 32))),
    }
    (tmp_path / "in").mkdir()
    for name, table in tables.items():
        pq.write_table(table, tmp_path / "in" / f"{name}.parquet")
    by_ray = pa.table(dict.fromkeys(("image", "other"), ArrowTensorArray.from_numpy(images)))
    pq.write_table(by_ray, tmp_path / "in/by ray.parquet")

    for workers, variables in (("0", {}), ("1", joining)):
        words = ("predict", "in", "--model", "model", "--output", f"out{workers}")
        done = nanograd_process(*words, "--keep", "other", "--workers", workers, **variables)
        assert done.code == 0, done.stderr
    # This process has imported Ray's types.
    places = {"model": tmp_path / "model", "output": tmp_path / "here"}
    nanograd.predict(tmp_path / "in", keep=["other"], **places)

    read = pq.read_table(tmp_path / "out1/predictions").to_pandas()
    by_file = {Path(file).stem: rows for file, rows in read.groupby("source_file")}
    for other in ("out1", "here"):
        assert untimed_contents(tmp_path / "out0") == untimed_contents(tmp_path / other)
    assert set(by_file) == {*tables, "by ray"} - {"pickled v2 of 32 x 32"}
    for name in set(by_file) - {"v2 of 32 x 32"}:
        assert by_file[name]["prediction"].tolist() == by_file["v1"]["prediction"].tolist()
    [reason] = pq.read_table(tmp_path / "out1/quarantine")["reason"].unique().to_pylist()
    assert reason == "wrong_shape"


def metrics_of(output: str, *others: str, **expected: object) -> dict[str, float]:
    """All metrics of a job by name, once some have the expected values and there are others.

    Ray sends its metrics every 10 s, and a message may lack some metrics of an event.
    """
    [node] = [each for each in ray.nodes() if each["Alive"]]
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    found: dict[str, float] = {}

    def has_arrived() -> bool:
        with urlopen(url, timeout=10) as answer:
            lines = re.findall(r"(?m)^ray_nanograd_(\w+)\{(.*)\} (\S+)$", answer.read().decode())
        for name, labels, value in lines:
            if f'output="{output}"' in labels:
                found[name] = float(value)
        return found.keys() >= set(others) and found.items() >= expected.items()

    try:
        wait_for(has_arrived, f"no {expected} and {others}", every_s=0.5)
    except AssertionError as error:
        raise AssertionError(f"{error}, but {found}") from None
    return found


def test_training_counts_rounds_images_and_workers(ray_cpus, tmp_path):
    place = str(tmp_path / "läufe 1" / "run")
    config = TrainSpec(data="sample", workers=1, epochs=3, hidden=8, variants=0.0, output=place)

    figures = commands.train(spec=config, listener=[].append).to_json()

    found = metrics_of(
        place.replace("ä", "%C3%A4"),
        "loss",
        "round_seconds_count",
        "round_seconds_sum",
        rounds_total=figures["rounds"],
        images_total=3 * 3600,
        workers=1,
        validation_accuracy=pytest.approx(figures["val_accuracy"]),
    )
    assert found["loss"] > 0
    assert found["round_seconds_sum"] > 0
    assert found["round_seconds_count"] >= 3


def test_failed_worker_is_counted(ray_cpus):
    RayMetrics("train", "place")(changed("lost"))

    metrics_of("place", lost_workers_total=1)


def test_prediction_counts_rows_and_quarantine(ray_cpus, tmp_path, sample):
    model_io.save(some_model(), str(tmp_path / "model"))
    digits: list[Any] = [image.tobytes() for image in sample.test.images[:193]]
    rows, out = str(tmp_path / "rows.parquet"), str(tmp_path / os.fsdecode(b"l\xe4ufe"))
    pq.write_table(pa.table({"image": [*digits, b"no picture"]}), rows)

    spec = PredictSpec(model=str(tmp_path / "model"), output=out, workers=1)
    batch.predict([rows], spec=spec, listener=[].append)

    metrics_of(str(tmp_path / "l%E4ufe"), rows_total=194, quarantined_total=1)


def test_metric_that_fails_is_a_warning_and_ends_no_job(ray_cpus):
    events: list[Event] = []
    update = guarded(RayMetrics("predict", "o"), events.append)

    for row in (7, "no number", 9):
        update(replace(ROWS, row=row))

    assert ["no longer tracked" in str(event) for event in events] == [True]
