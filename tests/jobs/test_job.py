from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from nanograd.errors import InternalError, Origin, OutputExistsError, Reason, Rejected, StorageError
from nanograd.images.parquet import RowRange
from nanograd.jobs.job import run_job
from nanograd.jobs.part import Part, Receipt, part_id, run_part
from nanograd.runtime import json_files, storage
from tests.helpers.folders import untimed_contents
from tests.helpers.jobs import PARTS, TOTAL, Scribe, forget_completion, make_job, run
from tests.helpers.leases import take_over


class KilledBeforeReceipt(Scribe):
    def fail(self, part: Part) -> Receipt:
        for name, data in self.files(part).items():
            storage.commit(storage.join(self.place, name), data)
        raise KeyboardInterrupt


class Miscount(Scribe):
    def counts(self, part: Part) -> dict[str, Any]:
        return {**super().counts(part), "rows": part.num_rows + (part.num_rows == 193)}


class KilledInCommit(Scribe):
    """Work whose first process died and left the half of a file."""

    def __call__(self, part: Part) -> Receipt:
        folder = Path(self.place, "rows")
        folder.mkdir(exist_ok=True)
        (folder / f".part-{part.id}.x.nanograd-tmp").write_bytes(b"ha")
        return super().__call__(part)


def test_leftovers_of_killed_workers_are_removed_at_the_end(
    out: Path, undisturbed_job: dict[str, bytes]
) -> None:
    run(make_job(out), KilledInCommit(out))

    assert untimed_contents(out) == undisturbed_job


def test_manifest_holds_the_job_and_every_receipt_with_checksums(out: Path) -> None:
    job = make_job(out)

    run(job, Scribe(out))

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
    work = Scribe(out)

    run_job(make_job(out), lambda parts: (run_part(work, part) for part in reversed(parts)))

    assert untimed_contents(out) == undisturbed_job


def test_complete_job_has_the_total_and_is_not_done_again(
    out: Path, undisturbed_job: dict[str, bytes]
) -> None:
    done = run(make_job(out), Scribe(out))
    again = Scribe(out)

    total, [said] = run(make_job(out), again)

    assert done == (TOTAL, [])
    assert again.done == []
    assert total == TOTAL
    assert "nothing to do" in said
    assert untimed_contents(out) == undisturbed_job


def test_failing_part_leaves_the_finished_receipts_and_no_success(out: Path) -> None:
    with pytest.raises(StorageError, match="disk is full"):
        run(make_job(out), Scribe(out, fails_at=2))

    assert {path.stem for path in (out / "_receipts").iterdir()} == {p.id for p in PARTS[:2]}
    assert not (out / "_SUCCESS").exists()
    assert json_files.read_manifest(str(out / "_manifest.json"))["receipts"] == []


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("finished", [0, 1, 3, 4, 5])
def test_finished_parts_are_kept_and_the_rest_is_done(
    out: Path, undisturbed_job: dict[str, bytes], finished: int, overwrite: bool
) -> None:
    job = make_job(out, overwrite=overwrite)
    with suppress(StorageError):
        run(job, Scribe(out, fails_at=finished))
    if finished == 5:
        forget_completion(out)
    again = Scribe(out)

    total, said = run(job, again)

    assert again.done == [part.id for part in PARTS[finished:]]
    assert total == TOTAL
    assert (f"{finished} of 5 parts are done already" in said) == bool(finished)
    assert untimed_contents(out) == undisturbed_job


def test_part_without_receipt_is_done_again_to_the_same_bytes(
    out: Path, undisturbed_job: dict[str, bytes]
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(make_job(out), KilledBeforeReceipt(out, fails_at=2))
    assert (out / "rows" / f"part-{PARTS[2].id}").exists()
    again = Scribe(out)

    total, _ = run(make_job(out), again)

    assert again.done == [part.id for part in PARTS[2:]]
    assert total == TOTAL
    assert untimed_contents(out) == undisturbed_job


def test_miscounted_rows_are_an_internal_error_without_success(out: Path) -> None:
    with pytest.raises(InternalError, match="file-2: 194 rows accounted for of 193"):
        run(make_job(out), Miscount(out))

    assert not (out / "_SUCCESS").exists()


@pytest.mark.parametrize("done", [PARTS[1:], [*PARTS, PARTS[0]]], ids=["lost", "twice"])
def test_lost_or_repeated_part_is_an_internal_error(out: Path, done: list[Part]) -> None:
    work = Scribe(out)

    with pytest.raises(InternalError, match=f"{len(done)} parts done of 5 planned"):
        run_job(make_job(out), lambda _: (run_part(work, part) for part in done))

    assert not (out / "_SUCCESS").exists()


def test_job_that_another_machine_took_over_is_not_completed(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Last(Scribe):
        def counts(self, part: Part) -> dict[str, Any]:
            if len(self.done) == len(PARTS):
                take_over(str(out), monkeypatch)
            return super().counts(part)

    with pytest.raises(OutputExistsError, match="no longer held by this process"):
        run(make_job(out), Last(out))

    assert not {"_SUCCESS", "_summary.json"} & set(storage.names(str(out)))
    assert storage.leases(str(out)) == [f".zz-7-7.k3{storage.LEASE}"]


@pytest.mark.parametrize(
    "part",
    [
        *PARTS[:1],
        Part(id="0", files=("7.png", "ä"), versions=((1, 2, 7), (3, 4, None)), labels=(7, None)),
        Part(
            id="1",
            files=("a.parquet", "l\udce4ufe.parquet"),
            versions=((1, 2), (3, 4)),
            ranges=(RowRange((0, 1), 0, 0, 9), RowRange((1, 3), 5, 12, 7)),
            num_rows=16,
            below="_next",
        ),
        Part(
            id="2",
            files=("b",),
            rejection=Rejected(Origin("a", None), Reason.BROKEN_FILE, "cut short"),
        ),
    ],
    ids=lambda part: part.id,
)
def test_part_arrives_in_another_process_as_it_was(part: Part) -> None:
    assert Part.from_json(part.to_json()) == part


def test_part_ids_are_short_and_tell_their_ingredients_apart() -> None:
    ids = {part_id("a", 1), part_id("a", 2), part_id("a1"), part_id("a", 1, ""), part_id("1", "a")}

    assert len(ids) == 5
    assert all(len(id_) == 16 for id_ in ids)
    assert part_id({"keep": ()}, "a", 1) == part_id({"keep": ()}, "a", 1)
