"""Each request to an object store of a save, a batch job and a model, with each fault in turn.

After each: what was said to be there is there, the failure is a storage error of one sentence, and
the same work afterwards ends with the bytes of undisturbed work. The cases run side by side, each
in a bucket of its own: most of their time is the client's wait before it repeats a request.
"""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nanograd.digits.dataset import Mnist
from nanograd.errors import DataError, StorageError
from nanograd.models import model as model_io
from nanograd.runtime import machine, storage
from nanograd.runtime.events import Event
from nanograd.runtime.signals import Terminated, sigterm_raises
from nanograd.training.checkpoint import CheckpointSaver, newest
from tests.conftest import Nanograd
from tests.e2e.conftest import make_bucket
from tests.helpers import store_faults
from tests.helpers.disk_faults import DEAD_OWNER
from tests.helpers.folders import untimed_contents
from tests.helpers.jobs import PARTS, Scribe, make_job, run
from tests.helpers.models import some_model
from tests.helpers.store_faults import CUT, DENIED, EXPIRED, INTERNAL, SLOW_DOWN, UNANSWERED, Fault
from tests.helpers.stores import Store
from tests.training.test_checkpoint import IDENTITY, some_checkpoint, vector_bits

# Kind and number of failures; the client repeats a request every 0.2 s for 6 s.
BRIEF = [(SLOW_DOWN, 3), (INTERNAL, 3), (CUT, 1), (UNANSWERED, 1)]
REFUSED = [(EXPIRED, 10**9), (DENIED, 10**9)]
LASTING = [(kind, 10**9) for kind in (SLOW_DOWN, CUT, UNANSWERED)]
# A sample has every 29th request, without the faults that the client waits for; all take minutes.
SAMPLE, ALL = 29, 1
grid = pytest.mark.parametrize(
    "step", [SAMPLE, pytest.param(ALL, marks=pytest.mark.soak)], ids=["sample", "all"]
)
Check = Callable[[str, bool], None]


@pytest.fixture
def proxy(store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[store_faults.Proxy]:
    made = store_faults.Proxy(store.url)
    monkeypatch.setenv("AWS_ENDPOINT_URL", made.url)
    yield made
    made.close()


def each_request(
    proxy: store_faults.Proxy,
    name: str,
    step: int,
    begin: Callable[[str], object],
    act: Callable[[str], bool],
    check: Check,
) -> int:
    """Act with each fault at each request in turn, and check what is left; return the number.

    Args:
        proxy: before the store.
        name: begins the names of the buckets.
        step: of the numbers of requests.
        begin: makes the state before in a bucket.
        act: works in a bucket; returns whether it said that it succeeded.
        check: checks a bucket after the process has ended; gets what `act` returned.
    """

    def case(number: int, kind: str, times: int) -> int:
        bucket = f"{name}-{step}-{number}-{kind.lower().replace(' ', '')}-{min(times, 9)}"
        place, said = make_bucket(bucket), False
        begin(place)
        proxy.fail(bucket, Fault(kind, number, times))
        try:
            said = act(place)
        except StorageError as error:
            assert times > 3, error
            assert place in str(error)
            assert "\n" not in str(error)
        num_requests = proxy.num_requests[bucket]
        del proxy.faults[bucket]
        end_process(place)
        check(place, said)
        return num_requests

    num_requests = case(10**9, CUT, 1)
    cases = [
        (number, kind, times)
        for index, (kind, times) in enumerate([*BRIEF, *REFUSED, *(LASTING if step == ALL else ())])
        for number in range(index % step, num_requests, step)
    ]
    with ThreadPoolExecutor(64) as pool:
        list(pool.map(lambda each: case(*each), cases))
    sys.stderr.write(f"{len(cases)} faults at {num_requests} requests\n")
    return num_requests


def end_process(place: str) -> None:
    """Give the claims that were left behind to a process that has ended."""
    for name in storage.leases(place):
        dead = name.replace(machine.owner(), DEAD_OWNER)
        storage.move(storage.join(place, name), storage.join(place, dead))


@grid
def test_no_fault_in_a_save_loses_a_checkpoint(
    proxy: store_faults.Proxy, tmp_path: Path, step: int
) -> None:
    new = some_checkpoint(4)

    def begin(place: str) -> None:
        for round_ in (1, 2, 3):
            some = some_checkpoint(round_)
            CheckpointSaver(place, IDENTITY, [].append).save(some.snapshot, some.history)

    def act(place: str) -> bool:
        events: list[Event] = []
        CheckpointSaver(place, IDENTITY, events.append).save(new.snapshot, new.history)
        return not any("cannot write" in str(event) for event in events)

    def check(place: str, said: bool) -> None:
        events: list[Event] = []
        found = vector_bits(newest(place, events.append))
        assert events == []
        assert found in map(vector_bits, [new] if said else [some_checkpoint(3), new])
        assert len(storage.names(place)) <= 4

    assert each_request(proxy, "save", step, begin, act, check) > 3


@grid
def test_no_fault_in_a_job_loses_or_doubles_a_part(
    proxy: store_faults.Proxy, tmp_path: Path, step: int
) -> None:
    run(make_job(tmp_path / "whole", PARTS[:1]), Scribe())
    expected = untimed_contents(tmp_path / "whole")

    def act(place: str) -> bool:
        run(make_job(f"{place}/out", PARTS[:1]), Scribe())
        return True

    def check(place: str, said: bool) -> None:
        succeeded = "_SUCCESS" in storage.names(f"{place}/out")
        assert succeeded >= said
        if succeeded:
            assert expected.items() <= untimed_contents(f"{place}/out").items()
        end_process(f"{place}/out")
        act(place)
        assert untimed_contents(f"{place}/out") == expected
        assert storage.leases(f"{place}/out") == []

    assert each_request(proxy, "job", step, lambda place: None, act, check) > 40


@grid
def test_no_fault_in_saving_a_model_leaves_a_wrong_one(
    proxy: store_faults.Proxy, tmp_path: Path, step: int
) -> None:
    model = some_model()

    def act(place: str) -> bool:
        model_io.save(model, f"{place}/model")
        return True

    def check(place: str, said: bool) -> None:
        try:
            loaded = model_io.load(f"{place}/model")
        except DataError:
            assert not said
        else:
            assert loaded.params_sha256() == model.params_sha256()

    assert each_request(proxy, "model", step, lambda place: None, act, check) > 3


@contextmanager
def terminated_after(proxy: store_faults.Proxy, bucket: str, number: int) -> Iterator[None]:
    """Let SIGTERM arrive after so many requests for a bucket inside a with block, and end it."""
    proxy.after(bucket, number, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with suppress(Terminated), sigterm_raises():
        yield
    proxy.after("", 0, lambda: None)


@pytest.mark.parametrize("number", range(3))
def test_sigterm_in_an_upload_leaves_the_old_file_or_the_new_one(
    proxy: store_faults.Proxy, bucket: str, number: int
) -> None:
    place, name = f"{bucket}/file", bucket.removeprefix("s3://")
    storage.commit(place, b"old" * 193)

    with terminated_after(proxy, name, number):
        storage.commit(place, b"new" * 193)

    assert storage.read(place) in (b"old" * 193, b"new" * 193)


@grid
def test_sigterm_at_a_request_of_a_job_leaves_what_the_next_command_completes(
    proxy: store_faults.Proxy, tmp_path: Path, step: int
) -> None:
    run(make_job(tmp_path / "whole", PARTS[:1]), Scribe())
    expected, is_done, number = untimed_contents(tmp_path / "whole"), False, 1

    while not is_done:
        name = f"terminated-{step}-{number}"
        place = f"{make_bucket(name)}/out"
        with terminated_after(proxy, name, number):
            run(make_job(place, PARTS[:1]), Scribe())
            is_done = True
        end_process(place)
        run(make_job(place, PARTS[:1]), Scribe())

        assert untimed_contents(place) == expected
        number += step


@pytest.mark.parametrize("kind", [EXPIRED, pytest.param(SLOW_DOWN, marks=pytest.mark.slow)])
@pytest.mark.parametrize("command", ["train", "predict"])
def test_store_that_refuses_in_mid_run_ends_it_with_74_and_one_sentence(
    nanograd: Nanograd,
    proxy: store_faults.Proxy,
    bucket: str,
    sample: Mnist,
    trained: str,
    kind: str,
    command: str,
) -> None:
    images = [image.tobytes() for image in sample.test.images[:193]]
    pq.write_table(pa.table({"image": images}), "rows.parquet")
    words = {
        "train": ("train", "--data", "sample", "--epochs", "12", "--hidden", "7"),
        "predict": ("predict", "rows.parquet", "--model", trained),
    }[command]
    name = bucket.removeprefix("s3://")
    place = ("--output", f"{bucket}/out", "--workers", "0")

    proxy.fail(name, Fault(kind, first=20))
    failed = nanograd(*words, *place)
    del proxy.faults[name]
    end_process(f"{bucket}/out")
    done = nanograd(*words, *place)

    assert failed.code == 74, failed.stderr
    assert f"{bucket}/out" in failed.last["reason"]
    assert "\n" not in failed.last["reason"]
    assert "Traceback" not in failed.stderr
    assert done.code == 0, done.stderr
