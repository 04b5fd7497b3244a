from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from nanograd.errors import InternalError, OutputExistsError, StorageError
from nanograd.jobs.job import run_job
from nanograd.jobs.part import Part, part_id, run_part
from nanograd.jobs.receipts import Counts, Receipt
from nanograd.runtime import json_files, storage
from tests.helpers.folders import untimed_contents
from tests.helpers.jobs import PARTS, TOTAL, Scribe, forget_completion, make_job, run
from tests.helpers.leases import take_over


class Miscount(Scribe):
    def counts(self, part: Part) -> Counts:
        return super().counts(part) + Counts(rows=int(part.num_rows == 193))


class KilledInCommit(Scribe):
    """Work whose first process died and left the half of a file."""

    def __call__(self, part: Part) -> Receipt:
        folder = Path(part.output, "rows")
        folder.mkdir(exist_ok=True)
        (folder / f".part-{part.id}.x.nanograd-tmp").write_bytes(b"ha")
        return super().__call__(part)


def test_leftovers_of_killed_workers_are_removed_at_the_end(
    out: Path, undisturbed_job: dict[str, bytes]
) -> None:
    run(make_job(out), KilledInCommit())

    assert untimed_contents(out) == undisturbed_job


def test_manifest_holds_the_job_and_every_receipt_with_checksums(out: Path) -> None:
    job = make_job(out)

    run(job, Scribe())

    manifest = json_files.read_manifest(str(out / "_manifest.json"))
    files = {name: about for each in manifest["receipts"] for name, about in each["files"].items()}
    assert manifest["job"] == job.identity
    assert [each["part"] for each in manifest["receipts"]] == sorted(part.id for part in PARTS)
    assert {file for each in manifest["receipts"] for file in each["inputs"]} == {
        f"/in/file-{number}" for number in range(5)
    }
    assert len(files) == 10
    for name, about in files.items():
        data = (out / name).read_bytes()
        assert about == {"bytes": len(data), "sha256": storage.checksum(data)}
    assert (out / "_SUCCESS").read_bytes() == b""


def test_order_of_receipts_does_not_change_the_output(
    out: Path, undisturbed_job: dict[str, bytes]
) -> None:
    work = Scribe()

    run_job(make_job(out), lambda parts: (run_part(work, part) for part in reversed(parts)))

    assert untimed_contents(out) == undisturbed_job


def test_complete_job_has_the_total_and_is_not_done_again(
    out: Path, undisturbed_job: dict[str, bytes]
) -> None:
    done = run(make_job(out), Scribe())
    again = Scribe()

    total, [said] = run(make_job(out), again)

    assert done == (TOTAL, [])
    assert again.done == []
    assert total == TOTAL
    assert "nothing to do" in said
    assert untimed_contents(out) == undisturbed_job


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("finished", [0, 1, 3, 4, 5])
def test_finished_parts_are_kept_and_the_rest_is_done(
    out: Path, undisturbed_job: dict[str, bytes], finished: int, overwrite: bool
) -> None:
    job = make_job(out, overwrite=overwrite)
    with suppress(StorageError):
        run(job, Scribe(fails_at=finished))
    if finished == 5:
        forget_completion(out)
    was_complete = (out / "_SUCCESS").exists()
    again = Scribe()

    total, said = run(job, again)

    assert not was_complete
    assert again.done == [part.id for part in PARTS[finished:]]
    assert total == TOTAL
    assert (f"{finished} of 5 parts are done already" in said) == bool(finished)
    assert untimed_contents(out) == undisturbed_job


def test_miscounted_rows_are_an_internal_error_without_success(out: Path) -> None:
    with pytest.raises(InternalError, match="file-2: 194 rows accounted for of 193"):
        run(make_job(out), Miscount())

    assert not (out / "_SUCCESS").exists()


@pytest.mark.parametrize("done", [PARTS[1:], [*PARTS, PARTS[0]]], ids=["lost", "twice"])
def test_lost_or_repeated_part_is_an_internal_error(out: Path, done: list[Part]) -> None:
    work, done = Scribe(), [replace(part, output=str(out)) for part in done]

    with pytest.raises(InternalError, match=f"{len(done)} parts done of 5 planned"):
        run_job(make_job(out), lambda _: (run_part(work, part) for part in done))

    assert not (out / "_SUCCESS").exists()


def test_job_that_another_machine_took_over_is_not_completed(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Last(Scribe):
        def counts(self, part: Part) -> Counts:
            if len(self.done) == len(PARTS):
                take_over(str(out), monkeypatch)
            return super().counts(part)

    with pytest.raises(OutputExistsError, match="no longer held by this process"):
        run(make_job(out), Last())

    assert not {"_SUCCESS", "_summary.json"} & set(storage.names(str(out)))
    assert storage.leases(str(out)) == [f".zz-7-7.k3{storage.LEASE}"]


def test_part_ids_are_short_and_tell_their_ingredients_apart() -> None:
    ids = {part_id("a", 1), part_id("a", 2), part_id("a1"), part_id("a", 1, ""), part_id("1", "a")}

    assert len(ids) == 5
    assert all(len(id_) == 16 for id_ in ids)
    assert part_id({"keep": ()}, "a", 1) == part_id({"keep": ()}, "a", 1)
