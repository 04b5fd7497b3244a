"""Each call of a save, of a batch job and of a model, with each fault of the disk in turn.

After each: what was said to be there is there, nothing is left behind that the next command does
not clean, and the failure is a storage error.
"""

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from nanograd.errors import DataError, StorageError
from nanograd.models import model as model_io
from nanograd.runtime import storage
from nanograd.runtime.events import Event
from nanograd.training.checkpoint import CheckpointSaver, newest, save
from nanograd.training.run_directory import RunDirectory
from tests.helpers.disk_faults import Disk, Killed, failing
from tests.helpers.folders import untimed_contents
from tests.helpers.jobs import PARTS, Scribe, make_job, run
from tests.helpers.models import some_model
from tests.training.test_checkpoint import IDENTITY, some_checkpoint, vector_bits

# A power failure loses all that was not synced, or in a reordered one any part of it.
FAULTS: list[object] = [errno.ENOSPC, None, "power"]
SLOW = [errno.EIO, errno.EACCES, errno.EROFS, errno.EDQUOT, "reordered"]
faults = pytest.mark.parametrize(
    "fault",
    [*FAULTS, *(pytest.param(each, marks=pytest.mark.slow) for each in SLOW)],
    ids=lambda fault: errno.errorcode.get(fault, str(fault)),
)
# Of more changes that were not synced, only the first ones are lost in every combination.
MAX_REORDERED = 4
Check = Callable[[Path, bool], None]


@pytest.fixture(autouse=True)
def no_real_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sync nothing to the real disk: the simulated one says what a power failure loses."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def each_call(folder: Path, fault: object, act: Callable[[Path], bool], check: Check) -> int:
    """Act with the fault at each call in turn, and check what is left; return their number.

    Args:
        folder: the state before, which is copied.
        fault: an error number, None for a kill, "power" or "reordered".
        act: works in a folder; returns whether it said that it succeeded.
        check: checks a folder after the process has ended; gets what `act` returned.
    """
    number, patterns = 0, [-1]
    while True:
        place = folder.with_name(f"{folder.name}-{number}")
        shutil.copytree(folder, place)
        disk = Disk(place, number, fault if isinstance(fault, int) else None)
        said = False
        with failing(disk):
            try:
                said = act(place)
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
        check(place, said)
        shutil.rmtree(place)
        if patterns:
            continue
        patterns = [-1]
        if len(disk.calls) <= number:
            assert said
            return number
        number += 1


@faults
def test_no_fault_in_a_save_loses_a_checkpoint(tmp_path: Path, fault: object) -> None:
    folder = tmp_path / "checkpoints"
    for round_ in (1, 2, 3):
        some = some_checkpoint(round_)
        CheckpointSaver(str(folder), IDENTITY, [].append).save(some.snapshot, some.history)
    new = some_checkpoint(4)

    def act(place: Path) -> bool:
        events: list[Event] = []
        CheckpointSaver(str(place), IDENTITY, events.append).save(new.snapshot, new.history)
        return not any("cannot write" in str(event) for event in events)

    def check(place: Path, said: bool) -> None:
        events: list[Event] = []
        found = vector_bits(newest(str(place), events.append))
        allowed = [new] if said else [some_checkpoint(3), new]
        assert events == []
        assert found in map(vector_bits, allowed)
        storage.remove_leftovers(str(place))
        assert len(list(place.iterdir())) <= 4

    assert each_call(folder, fault, act, check) > 10


@faults
def test_no_fault_in_a_job_loses_or_doubles_a_part(tmp_path: Path, fault: object) -> None:
    job = tmp_path / "job"
    job.mkdir()
    run(make_job(tmp_path / "whole", PARTS[:2]), Scribe())
    expected = untimed_contents(tmp_path / "whole")

    def act(place: Path) -> bool:
        run(make_job(place / "out", PARTS[:2]), Scribe())
        return True

    def check(place: Path, said: bool) -> None:
        succeeded = (place / "out" / "_SUCCESS").exists()
        assert succeeded >= said
        if succeeded:
            assert expected.items() <= untimed_contents(place / "out").items()
        run(make_job(place / "out", PARTS[:2]), Scribe())
        assert untimed_contents(place / "out") == expected

    assert each_call(job, fault, act, check) > 100


@pytest.mark.parametrize(
    "fault",
    ["power", *(pytest.param(each, marks=pytest.mark.slow) for each in (errno.ENOSPC, None))],
)
def test_no_fault_in_a_replacement_mixes_two_outputs(tmp_path: Path, fault: object) -> None:
    job, new = tmp_path / "job", tmp_path / "new"
    run(make_job(job / "out", PARTS[:2], model="n"), Scribe())
    run(make_job(new, PARTS[:1]), Scribe())
    whole = [untimed_contents(job / "out"), untimed_contents(new)]

    def act(place: Path) -> bool:
        run(make_job(place / "out", PARTS[:1], overwrite=True), Scribe())
        return True

    def check(place: Path, said: bool) -> None:
        if (place / "out" / "_SUCCESS").exists():
            found = untimed_contents(place / "out")
            assert any(each.items() <= found.items() for each in whole[said:])
        act(place)
        assert untimed_contents(place / "out") == whole[1]

    assert each_call(job, fault, act, check) > 100


@faults
def test_no_fault_in_saving_a_model_leaves_a_wrong_one(tmp_path: Path, fault: object) -> None:
    (tmp_path / "run").mkdir()
    model = some_model()

    def act(place: Path) -> bool:
        model_io.save(model, str(place / "model"))
        return True

    def check(place: Path, said: bool) -> None:
        try:
            loaded = model_io.load(str(place / "model"))
        except DataError:
            assert not said
        else:
            assert loaded.params_sha256() == model.params_sha256()

    assert each_call(tmp_path / "run", fault, act, check) > 20


def test_disk_that_lies_about_fsync_loses_work_but_never_gives_wrong_bits(tmp_path: Path) -> None:
    saved = [some_checkpoint(round_) for round_ in (1, 2, 3)]
    for pattern in range(2**6):
        place = tmp_path / str(pattern)
        place.mkdir()
        disk = Disk(place, lies=True)
        with failing(disk):
            for each in saved:
                CheckpointSaver(str(place), IDENTITY, [].append).save(each.snapshot, each.history)
        disk.lose_power(pattern)

        found = newest(str(place), [].append)

        assert found is None or vector_bits(found) in map(vector_bits, saved)


@faults
def test_no_fault_in_removing_a_run_leaves_half_a_model(tmp_path: Path, fault: object) -> None:
    model_io.save(some_model(), str(tmp_path / "run" / "model"))
    save(str(tmp_path / "run" / "checkpoints"), some_checkpoint(1))

    def act(place: Path) -> bool:
        RunDirectory(str(place), {}, 1).prepare(overwrite=True)
        return True

    def check(place: Path, said: bool) -> None:
        is_complete = RunDirectory(str(place), {}, 1).is_complete()  # raises if it is damaged
        assert not (said and is_complete)

    assert each_call(tmp_path / "run", fault, act, check) > 10
