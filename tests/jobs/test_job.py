"""The engine of jobs: every part once, an account that adds up, an output that is whole or not."""

from collections.abc import Iterator
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from nanograd.errors import DataError, InternalError, OutputExistsError, StorageError, UsageError
from nanograd.jobs.job import ProgressMeter, describe_job, run_job
from nanograd.jobs.part import Part, run_part
from nanograd.jobs.receipts import Counts, Receipt
from nanograd.runtime import storage
from nanograd.runtime.events import Event, JobProgress
from tests.helpers.folders import untimed_contents
from tests.helpers.jobs import PARTS, TOTAL, Scribe, forget_completion, make_job, receipt_of, run
from tests.helpers.leases import take_over


class Miscount(Scribe):
    def counts(self, part: Part) -> Counts:
        return super().counts(part) + Counts(rows=int(part.num_rows == 193))


def test_complete_job_has_the_total_and_is_not_done_again(out, undisturbed_job):
    work, again = Scribe(), Scribe()
    run_job(make_job(out), lambda parts: (run_part(work, part) for part in reversed(parts)))

    total, [said] = run(make_job(out), again)

    assert (total, again.done) == (TOTAL, [])
    assert "nothing to do" in said
    assert untimed_contents(out) == undisturbed_job


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("finished", [0, 1, 4, 5])
def test_finished_parts_are_kept_and_the_rest_is_done(out, undisturbed_job, finished, overwrite):
    job = make_job(out, overwrite=overwrite)
    with suppress(StorageError):
        run(job, Scribe(fails_at=finished))
    if finished == 5:
        forget_completion(out)
    was_complete, plan = (out / "_SUCCESS").exists(), describe_job(job)
    again = Scribe()

    total, said = run(job, again)

    assert not was_complete
    assert (plan["parts_to_do"], plan["parts"]) == (5 - finished, 5)
    assert again.done == [part.id for part in PARTS[finished:]]
    assert total == TOTAL
    assert (f"{finished} of 5 parts are done already" in said) == bool(finished)
    assert untimed_contents(out) == undisturbed_job


def test_miscounted_rows_are_an_internal_error_without_success(out):
    with pytest.raises(InternalError, match="file-2: 194 rows accounted for of 193"):
        run(make_job(out), Miscount())

    assert not (out / "_SUCCESS").exists()


@pytest.mark.parametrize("done", [PARTS[1:], [*PARTS, PARTS[0]]], ids=["lost", "twice"])
def test_lost_or_repeated_part_is_an_internal_error(out, done):
    work, done = Scribe(), [replace(part, output=str(out)) for part in done]

    with pytest.raises(InternalError, match=f"{len(done)} parts done of 5 planned"):
        run_job(make_job(out), lambda _: (run_part(work, part) for part in done))

    assert not (out / "_SUCCESS").exists()


def test_job_that_another_machine_took_over_is_not_completed(out, monkeypatch):
    class Last(Scribe):
        def counts(self, part: Part) -> Counts:
            if len(self.done) == len(PARTS):
                take_over(str(out), monkeypatch)
            return super().counts(part)

    with pytest.raises(OutputExistsError, match="no longer held by this process"):
        run(make_job(out), Last())

    assert not {"_SUCCESS", "_summary.json"} & set(storage.names(str(out)))
    assert storage.leases(str(out)) == [f".zz-7-7.k3{storage.LEASE}"]


def test_old_output_stays_whole_until_the_new_one_is_complete(out, undisturbed_job):
    run(make_job(out, model="n"), Scribe())
    old = untimed_contents(out)

    with pytest.raises(StorageError):
        run(make_job(out, overwrite=True), Scribe(fails_at=3))
    now = untimed_contents(out)
    again = Scribe()
    run(make_job(out, overwrite=True), again)

    beside = {name for name in now if name.startswith("_next/")}
    assert {name: data for name, data in now.items() if name not in beside} == old
    assert len(beside) == 3 * 3 + 1
    assert again.done == [part.id for part in PARTS[3:]]
    assert untimed_contents(out) == undisturbed_job


@pytest.mark.parametrize(
    ("write", "name", "error"),
    [
        (True, "rows/part-of-another", OutputExistsError),
        (False, f"rows/part-{PARTS[0].id}", StorageError),
        (True, "rows/.nfs000193", None),
        (True, "rows/.part-0.1.nanograd-tmp", None),
    ],
)
def test_files_that_another_program_writes_or_removes_meanwhile_are_found(out, write, name, error):
    class Disturbed(Scribe):
        def __call__(self, part: Part) -> Receipt:
            receipt = super().__call__(part)
            if write:
                storage.commit(str(out / name), b"")
            else:
                storage.remove(str(out / name))
            return receipt

    with pytest.raises(error, match=name) if error else nullcontext():
        assert run(make_job(out), Disturbed())[0] == TOTAL

    assert (out / "_SUCCESS").exists() == (error is None)


@pytest.mark.parametrize("overwrite", [False, True])
def test_folder_of_a_stranger_is_refused_and_left_alone(out, overwrite):
    storage.commit(str(out / "thesis.tex"), b"dear")

    with pytest.raises(OutputExistsError, match=r"thesis\.tex"):
        run(make_job(out, overwrite=overwrite), Scribe())

    assert untimed_contents(out) == {"thesis.tex": b"dear"}


def test_overwrite_refuses_an_output_that_holds_the_input(out):
    run(make_job(out), Scribe())
    before = untimed_contents(out)
    parts = [Part(id="0", files=(str(out / "rows" / f"part-{PARTS[0].id}"),), num_rows=1)]

    with pytest.raises(UsageError, match=r"--output .*part-"):
        run(make_job(out, parts, overwrite=True), Scribe())

    assert untimed_contents(out) == before


@pytest.mark.parametrize("data", [b"", b"{}", b'{"part": "x", "manifest_sha256": "0"}'])
def test_damaged_receipt_is_named_and_a_stranger_beside_it_left_alone(out, data):
    with pytest.raises(StorageError):
        run(make_job(out), Scribe(fails_at=2))
    notes, receipt = out / "_receipts" / "notes.txt", out / "_receipts" / f"{PARTS[1].id}.json"
    storage.commit(str(notes), b"dear")
    whole = receipt.read_bytes()
    receipt.write_bytes(data)

    with pytest.raises(DataError, match=f"{receipt.name} is damaged"):
        run(make_job(out), Scribe())
    was_complete = (out / "_SUCCESS").exists()
    receipt.write_bytes(whole)
    total, _ = run(make_job(out), Scribe())

    assert not was_complete
    assert (total, notes.read_bytes()) == (TOTAL, b"dear")


def test_damaged_manifest_is_named_and_may_be_overwritten(out, undisturbed_job):
    run(make_job(out), Scribe())
    (out / "_manifest.json").write_bytes(b"{}")

    with pytest.raises(DataError, match=r"_manifest\.json is damaged"):
        run(make_job(out), Scribe())
    run(make_job(out, overwrite=True), Scribe())

    assert untimed_contents(out) == undisturbed_job


def parts_of_100_rows(num_parts: int) -> list[Part]:
    return [Part(id=str(number), files=(), num_rows=100) for number in range(num_parts)]


def receipts(num_parts: int) -> Iterator[Receipt]:
    """Receipts of parts of 100 rows, one of them bad."""
    return (receipt_of(part, quarantined=1) for part in parts_of_100_rows(num_parts))


def progress(
    seconds_per_part: float, *, parts: int = 10, done_before: int = 0, waited: float = 0.0
) -> list[JobProgress]:
    """The progress of a job whose parts take so long, its start aside."""
    events: list[Event] = []
    now = [0.0]
    job = make_job(Path(), parts_of_100_rows(parts))
    meter = ProgressMeter(job, events.append, clock=lambda: now[0])
    meter.count(*receipts(done_before))
    now[0] += waited
    for receipt in receipts(parts - done_before):
        now[0] += seconds_per_part
        meter.count(receipt, seconds=seconds_per_part)
    return [event for event in events[1:] if isinstance(event, JobProgress)]


def test_each_part_adds_its_rows_and_the_time_left_follows_from_the_speed():
    events = progress(2.5)

    assert [event.row for event in events] == list(range(100, 1001, 100))
    assert [event.quarantined for event in events] == list(range(1, 11))
    assert [event.complete for event in events] == [False] * 9 + [True]
    assert [event.left_s for event in events] == [22.5 - 2.5 * part for part in range(10)]

    # Rows and time before the first part do not count for the speed.
    events = progress(5, done_before=8, waited=7)
    assert [event.row for event in events] == [900, 1000]
    assert [event.rows_per_s for event in events] == [20, 20]
    assert [event.rows_per_s for event in progress(0, parts=1)] == [100_000]
