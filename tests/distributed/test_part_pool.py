import gc
import os
import signal
import sys
import threading
from pathlib import Path
from time import monotonic, sleep

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
import ray.cloudpickle

from nanograd import batch
from nanograd.distributed import part_pool
from nanograd.distributed.cluster import num_actors, session
from nanograd.distributed.part_pool import run_on_ray
from nanograd.errors import ClusterError, DataError
from nanograd.images.writers import write_pictures
from nanograd.jobs.part import Part
from nanograd.jobs.receipts import Receipt
from nanograd.models import model as model_io
from nanograd.settings.specs import PredictSpec
from simulators.waiting import wait_for
from tests.helpers.folders import untimed_contents
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
