"""Each call of the disk and each request to an object store of several works, with each fault.

After each: what was said to be there is there, the failure is a storage error of one sentence, and
the same work afterwards ends with the bytes of undisturbed work.
"""

import errno
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Timer

import pytest

from nanograd.errors import DataError, StorageError
from nanograd.images.inputs import TABLES, expand
from nanograd.models import model as model_io
from nanograd.runtime import machine, storage
from nanograd.runtime.events import Event, ignore
from nanograd.runtime.signals import Terminated, signals_raise
from nanograd.training.run_directory import CheckpointSaver, RunDirectory, newest, save
from tests.e2e.conftest import make_bucket, only_swift
from tests.helpers.disk_faults import DEAD_OWNER, Disk, Killed, failing
from tests.helpers.folders import untimed_contents
from tests.helpers.jobs import PARTS, TOTAL, Scribe, make_job, run
from tests.helpers.models import some_model
from tests.helpers.store_faults import (
    CUT,
    DENIED,
    EXPIRED,
    INTERNAL,
    SLOW_DOWN,
    UNANSWERED,
    Fault,
    Proxy,
)
from tests.helpers.stores import Store
from tests.training.test_checkpoint import some_checkpoint, vector_bits


@dataclass(frozen=True)
class Work:
    """What a command does in a place, a path or a URI."""

    begin: Callable[[str], object]  # makes the state before
    act: Callable[[str], bool]  # does the work; returns whether it said that it succeeded
    check: Callable[[str, bool], None]  # what is left at the end; gets what `act` returned


def save_rounds(place: str, *rounds: int) -> bool:
    """Save checkpoints, each by a command of its own; return whether no save failed."""
    events: list[Event] = []
    for round_ in rounds:
        some = some_checkpoint(round_)
        CheckpointSaver(place, some_checkpoint(0), events.append).save(some.snapshot, some.history)
    return not any("cannot write" in str(event) for event in events)


def saving(folder: Path) -> Work:
    def check(place: str, said: bool) -> None:
        events: list[Event] = []
        found = vector_bits(newest(place, events.append))
        assert events == []
        assert found in [vector_bits(some_checkpoint(each)) for each in ((4,) if said else (3, 4))]
        storage.remove_leftovers(place)
        assert len(storage.files_below(place)) <= 4

    return Work(lambda at: save_rounds(at, 1, 2, 3), lambda at: save_rounds(at, 4), check)


def do_job(place: str, num_parts: int = 2, model: str = "m", *, overwrite: bool = False) -> bool:
    job = make_job(f"{place}/out", PARTS[:num_parts], model=model, overwrite=overwrite)
    run(job, Scribe())
    return True


def job(folder: Path) -> Work:
    do_job(f"{folder}/whole")
    expected = untimed_contents(f"{folder}/whole/out")

    def check(place: str, said: bool) -> None:
        succeeded = "_SUCCESS" in storage.names(f"{place}/out")
        assert succeeded >= said
        if succeeded:
            assert expected.items() <= untimed_contents(f"{place}/out").items()
        do_job(place)
        assert untimed_contents(f"{place}/out") == expected
        assert storage.leases(f"{place}/out") == []

    return Work(lambda place: None, do_job, check)


def replacement(folder: Path) -> Work:
    """A job whose output takes the place of another one."""
    do_job(f"{folder}/old", model="n")
    do_job(f"{folder}/new", 1)
    whole = [untimed_contents(f"{folder}/{name}/out") for name in ("old", "new")]

    def act(place: str) -> bool:
        return do_job(place, 1, overwrite=True)

    def check(place: str, said: bool) -> None:
        if "_SUCCESS" in storage.names(f"{place}/out"):
            found = untimed_contents(f"{place}/out")
            assert any(each.items() <= found.items() for each in whole[said:])
        act(place)
        assert untimed_contents(f"{place}/out") == whole[1]

    return Work(lambda place: do_job(place, model="n"), act, check)


def saving_a_model(folder: Path) -> Work:
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

    return Work(lambda place: None, act, check)


def removal(folder: Path) -> Work:
    def begin(place: str) -> None:
        model_io.save(some_model(), f"{place}/model")
        save(f"{place}/checkpoints", some_checkpoint(1))

    def act(place: str) -> bool:
        RunDirectory(place, {}, 1, ignore).prepare(overwrite=True)
        return True

    def check(place: str, said: bool) -> None:
        is_complete = RunDirectory(place, {}, 1, ignore).is_complete()  # raises if it is damaged
        assert not (said and is_complete)

    return Work(begin, act, check)


# The disk: a power failure loses all that was not synced, or in a reordered one any part of it.

DISK_FAULTS = [
    *((make, fault) for make in (saving, job, saving_a_model, removal)
      for fault in (errno.ENOSPC, "power")),
    (replacement, "power"),
    *(pytest.param(make, fault, marks=pytest.mark.slow)
      for make in (saving, job, saving_a_model, removal, replacement)
      for fault in (errno.EACCES, None, "reordered")),
]  # fmt: skip
# The works make more calls of the disk, and requests to a store, than these. Fewer would mean that
# faults are missing.
LEAST_CALLS = {saving: 10, job: 100, replacement: 100, saving_a_model: 20, removal: 10}
LEAST_REQUESTS = {saving: 3, job: 40, saving_a_model: 3}
# Of more changes that were not synced, only the first ones are lost in every combination.
MAX_REORDERED = 4


@pytest.mark.parametrize(
    ("make", "fault"),
    DISK_FAULTS,
    ids=lambda each: getattr(each, "__name__", errno.errorcode.get(each, str(each))),
)
def test_no_fault_of_a_disk_loses_doubles_or_mixes_anything(tmp_path, make, fault):
    work, before, number, patterns = make(tmp_path), tmp_path / "before", 0, [-1]
    before.mkdir()
    work.begin(str(before))
    while True:
        place, said = tmp_path / f"after-{number}", False
        shutil.copytree(before, place)
        disk = Disk(place, number, fault if isinstance(fault, int) else None)
        with failing(disk):
            try:
                said = work.act(str(place))
            except StorageError:
                assert isinstance(fault, int), "a kill was handled"
            except Killed:
                assert not isinstance(fault, int)
        pattern = patterns.pop()
        if fault in ("power", "reordered"):
            num_changes = disk.lose_power(pattern)
            if fault == "reordered" and pattern == -1:
                patterns = list(range(1, 2 ** min(num_changes, MAX_REORDERED)))
        disk.end_process()
        work.check(str(place), said)
        shutil.rmtree(place)
        if not patterns:
            patterns = [-1]
            if len(disk.calls) <= number:
                break
            number += 1
    assert said
    assert number > LEAST_CALLS[make]


def test_disk_that_lies_about_fsync_loses_work_but_never_gives_wrong_bits(tmp_path):
    saved = [some_checkpoint(round_) for round_ in (1, 2, 3)]
    for pattern in range(2**6):
        place = tmp_path / str(pattern)
        place.mkdir()
        disk = Disk(place, lies=True)
        with failing(disk):
            save_rounds(str(place), 1, 2, 3)
        disk.lose_power(pattern)

        found = newest(str(place), [].append)

        assert found is None or vector_bits(found) in map(vector_bits, saved)


# The store. The cases run side by side, each in a bucket of its own: most of their time is the
# client's wait before it repeats a request, every 0.2 s for 6 s.

BRIEF = [(SLOW_DOWN, 3), (INTERNAL, 3), (CUT, 1), (UNANSWERED, 1)]
REFUSED = [(EXPIRED, 10**9), (DENIED, 10**9)]
LASTING = [(kind, 10**9) for kind in (SLOW_DOWN, CUT, UNANSWERED)]
# A sample has every 43rd request, without the faults that the client waits for; all take minutes.
SAMPLE, ALL = 43, 1
grid = pytest.mark.parametrize(
    "step", [SAMPLE, pytest.param(ALL, marks=pytest.mark.soak)], ids=["sample", "all"]
)


@pytest.fixture
def proxy(store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """The way of this process and its children to the store."""
    made = Proxy(store.url)
    monkeypatch.setenv("AWS_ENDPOINT_URL", made.url)
    yield made
    made.close()


def end_process(place: str) -> None:
    """Give the claims that were left behind to a process that has ended."""
    for name in storage.leases(place):
        dead = name.replace(machine.owner(), DEAD_OWNER)
        storage.move(storage.join(place, name), storage.join(place, dead))


@grid
@pytest.mark.parametrize("make", [saving, job, saving_a_model], ids=lambda make: make.__name__)
def test_no_fault_of_a_store_loses_or_doubles_anything(proxy, tmp_path, make, step):
    work = make(tmp_path)

    def case(number: int, kind: str, times: int) -> int:
        name = f"{make.__name__}-{step}-{number}-{kind}-{min(times, 9)}"
        bucket, said = name.lower().replace(" ", "").replace("_", "-"), False
        place = make_bucket(bucket)
        work.begin(place)
        proxy.fail(bucket, Fault(kind, number, times))
        try:
            said = work.act(place)
        except StorageError as error:
            assert times > 3, error
            assert place in str(error)
            assert "\n" not in str(error)
        num_requests = proxy.num_requests[bucket]
        del proxy.faults[bucket]
        for folder in (place, f"{place}/out"):
            end_process(folder)
        work.check(place, said)
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
    assert num_requests > LEAST_REQUESTS[make]


@contextmanager
def terminated_after(proxy: Proxy, bucket: str, number: int) -> Iterator[None]:
    proxy.fail(bucket, Fault(lambda: os.kill(os.getpid(), signal.SIGTERM), number, 1))
    with suppress(Terminated), signals_raise():
        yield
    del proxy.faults[bucket]


def test_sigterm_in_an_upload_leaves_the_old_file_or_the_new_one(proxy, bucket):
    for number in range(3):
        place, name = f"{bucket}/{number}", bucket.removeprefix("s3://")
        storage.commit(place, b"old" * 193)

        with terminated_after(proxy, name, number):
            storage.commit(place, b"new" * 193)

        assert storage.read(place) in (b"old" * 193, b"new" * 193)


@grid
def test_sigterm_at_a_request_of_a_job_leaves_what_the_next_command_completes(
    proxy, tmp_path, step
):
    work, is_done, number = job(tmp_path), False, 1

    while not is_done:
        place = make_bucket(name := f"terminated-{step}-{number}")
        with terminated_after(proxy, name, number):
            is_done = work.act(place)
        end_process(f"{place}/out")

        work.check(place, is_done)
        number += step


@pytest.mark.parametrize("num_files", [0, 7])
def test_replacement_that_fails_between_two_files_is_finished_by_the_next_command(
    proxy, bucket, undisturbed_job, num_files
):
    out, name = f"{bucket}/out", bucket.removeprefix("s3://")
    do_job(bucket, model="n")
    proxy.fail(name, Fault(DENIED, num_files, matching=f"DELETE /{name}/out/_next/"))
    with pytest.raises(StorageError):
        run(make_job(out, overwrite=True), Scribe())
    del proxy.faults[name]
    end_process(out)
    complete = "_SUCCESS" in storage.names(out)

    again = Scribe()
    total, _ = run(make_job(out), again)

    assert not complete
    assert (again.done, total) == ([], TOTAL)
    assert untimed_contents(out) == undisturbed_job


# Longer than a request may take (3 s), so that requests are repeated.
HANG_S = 4.0
# What happens at half of the requests for a bucket.
FAILURES: dict[str, Callable[[Proxy, Store, str], object]] = {
    "expired": lambda proxy, store, name: proxy.fail(name, Fault(EXPIRED, 0)),
    "throttled": lambda proxy, store, name: proxy.fail(name, Fault(SLOW_DOWN, 0)),
    "lost connection": lambda proxy, store, name: proxy.close(),
    "killed store": lambda proxy, store, name: store.kill(),
    "short hang": lambda proxy, store, name: (store.hang(), Timer(HANG_S, store.resume).start()),
    "endless hang": lambda proxy, store, name: store.hang(),
}


@pytest.mark.parametrize(
    ("command", "failure"),
    [
        ("train", "expired"),
        ("predict", "lost connection"),
        ("predict", "short hang"),
        pytest.param("predict", "expired", marks=pytest.mark.slow),
        pytest.param("predict", "throttled", marks=pytest.mark.slow),
        pytest.param("predict", "killed store", marks=pytest.mark.slow),
        pytest.param("predict", "endless hang", marks=pytest.mark.soak),
    ],
)
def test_store_that_fails_in_mid_run_is_74_and_the_next_command_does_the_rest(
    nanograd, store, proxy, bucket, rows, trained, monkeypatch, command, failure
):
    words = {
        "train": ("train", "--data", "sample", "--epochs", "2", "--hidden", "7"),
        "predict": ("predict", *map(str, sorted(rows.iterdir())[:4]), "--model", trained),
    }[command]
    words, name = (*words, "--workers", "0", "--output"), bucket.removeprefix("s3://")
    assert nanograd(*words, f"{bucket}/undisturbed").code == 0
    half = proxy.num_requests[name] // 2

    proxy.fail(name, Fault(lambda: FAILURES[failure](proxy, store, name), half, 1))
    failed = nanograd(*words, f"{bucket}/out")
    store.resume()
    monkeypatch.setenv("AWS_ENDPOINT_URL", store.url)
    is_lost = failure == "killed store" and not store.is_durable
    if is_lost:
        make_bucket(name)
    end_process(f"{bucket}/out")
    names = storage.names(f"{bucket}/out")
    done = nanograd(*words, f"{bucket}/out")

    assert done.code == 0, done.stderr
    if failure == "short hang":
        assert failed.code == 0, failed.stderr
    else:
        assert failed.code == 74, failed.stderr
        assert f"{bucket}/out" in failed.last["reason"]
        assert "\n" not in failed.last["reason"]
        assert "Traceback" not in failed.stderr
        assert "_SUCCESS" not in names
    if command == "predict" and not is_lost:
        assert any(word in done.stderr for word in ("of 4 parts are done", "nothing to do"))
        expected = untimed_contents(f"{bucket}/undisturbed")
        assert untimed_contents(f"{bucket}/out") == expected


@pytest.mark.parametrize("kind", [INTERNAL, DENIED])
def test_named_file_is_read_only_if_it_is_known_to_be_in_no_table_or_lists_are_denied(
    proxy, bucket, rows, kind
):
    name, file = bucket.removeprefix("s3://"), f"{bucket}/table/a.parquet"
    storage.commit(file, sorted(rows.iterdir())[0].read_bytes())
    storage.commit(f"{bucket}/table/_delta_log/00000000000000000000.json", b"{}")
    proxy.fail(name, Fault(kind, 0, matching="_delta_log"))

    if kind == DENIED:
        assert [each.place for each in expand([file], TABLES)] == [file]
    else:
        with pytest.raises(StorageError, match="_delta_log"):
            expand([file], TABLES)


@only_swift
def test_store_whose_lists_lack_the_lease_is_refused(nanograd, store, bucket, monkeypatch):
    storage.commit(f"{bucket}/file", b"")  # Swift knows the bucket
    commit = storage.commit

    def commit_lease(place: str, data: bytes) -> None:
        with store.without_lists():
            commit(place, data)
        monkeypatch.setattr(storage, "commit", commit)

    monkeypatch.setattr(storage, "commit", commit_lease)
    done = nanograd("train", "--data", "sample", "--workers", "0", "--output", f"{bucket}/run")

    assert done.code == 74, done.stderr
    assert "does not list a file that was written" in done.last["reason"]
    assert storage.names(f"{bucket}/run") == storage.leases(f"{bucket}/run") == []
