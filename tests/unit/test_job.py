from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from nanograd import json_files, storage
from nanograd.batch.job import Job, run_job
from nanograd.batch.part import Part, Receipt, commit_part, do, part_id, run_here
from nanograd.errors import InternalError, StorageError

ROWS = [1, 7, 193, 0, 28]
PARTS = [
    Part(id=part_id("file", number), files=(f"/in/file-{number}",), num_rows=num_rows)
    for number, num_rows in enumerate(ROWS)
]
TOTAL = {"rows": 229, "quarantined": 4, "reasons": {"blank": 3, "empty": 1}}


class Scribe:
    """Work that commits a file a part, remembers which parts it did, and may fail at one."""

    def __init__(self, place: Path, fails_at: int | None = None) -> None:
        self.place = str(place)
        self.fails_at = fails_at
        self.done: list[str] = []

    def __call__(self, part: Part) -> Receipt:
        if len(self.done) == self.fails_at:
            return self.fail(part)
        self.done.append(part.id)
        return commit_part(self.place, part, self.files(part), self.counts(part))

    def files(self, part: Part) -> dict[str, bytes]:
        return {f"rows/part-{part.id}": part.id.encode() * 7, f"more-{part.id}": b""}

    def counts(self, part: Part) -> dict[str, Any]:
        blank, empty = int(part.num_rows > 1), int(part.num_rows == 193)
        reasons = {"blank": blank, **({"empty": 1} if empty else {})} if blank else {}
        return {"rows": part.num_rows, "quarantined": blank + empty, "reasons": reasons}

    def fail(self, part: Part) -> Receipt:
        raise StorageError("the disk is full")


class KilledBeforeReceipt(Scribe):
    def fail(self, part: Part) -> Receipt:
        for name, data in self.files(part).items():
            storage.commit(storage.join(self.place, name), data)
        raise KeyboardInterrupt


class Miscount(Scribe):
    def counts(self, part: Part) -> dict[str, Any]:
        return {**super().counts(part), "rows": part.num_rows + (part.num_rows == 193)}


def make_job(
    place: Path, parts: Sequence[Part] = PARTS, *, model: str = "m", overwrite: bool = False
) -> Job:
    identity = {"command": "copy", "model": model, "parts": [part.id for part in parts]}
    return Job(place=str(place), identity=identity, parts=parts, overwrite=overwrite)


def run(job: Job, work: Scribe) -> tuple[Receipt, list[str]]:
    """The total, and what was said."""
    said: list[str] = []
    return run_job(job, run_here(work), said.append).summary, said


def contents(folder: Path) -> dict[str, bytes]:
    """All files, but for those that tell how long a command took."""
    files = {str(p.relative_to(folder)): p for p in folder.rglob("*") if p.is_file()}
    timed = ("_metrics.jsonl", "report.html")
    return {name: file.read_bytes() for name, file in files.items() if file.name not in timed}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Where a job may go; nothing is there yet."""
    return tmp_path / "deep" / "out"


@pytest.fixture
def undisturbed(tmp_path: Path) -> dict[str, bytes]:
    """What a job leaves that nothing happened to."""
    run(make_job(tmp_path / "undisturbed"), Scribe(tmp_path / "undisturbed"))
    return contents(tmp_path / "undisturbed")


def test_totals_add_up_counts_and_merge_reasons(out: Path) -> None:
    total, said = run(make_job(out), Scribe(out))

    assert total == TOTAL
    assert said == []


def test_manifest_holds_the_job_and_every_receipt_with_checksums(out: Path) -> None:
    job = make_job(out)

    run(job, Scribe(out))

    manifest = json_files.read_manifest(str(out / "_manifest.json"))
    files = {name: sha for each in manifest["receipts"] for name, sha in each["files"].items()}
    assert manifest["job"] == job.identity
    assert [each["part"] for each in manifest["receipts"]] == sorted(part.id for part in PARTS)
    assert {file for each in manifest["receipts"] for file in each["inputs"]} == {
        f"/in/file-{number}" for number in range(5)
    }
    assert len(files) == 10
    assert all(storage.checksum((out / name).read_bytes()) == sha for name, sha in files.items())
    assert (out / "_SUCCESS").read_bytes() == b""


def test_order_of_receipts_does_not_change_the_output(
    out: Path, undisturbed: dict[str, bytes]
) -> None:
    work = Scribe(out)

    run_job(
        make_job(out),
        lambda parts: (do(work, part) for part in reversed(parts)),
        lambda sentence: None,
    )

    assert contents(out) == undisturbed


def test_complete_job_is_not_done_again(out: Path, undisturbed: dict[str, bytes]) -> None:
    run(make_job(out), Scribe(out))
    again = Scribe(out)

    total, said = run(make_job(out), again)

    assert again.done == []
    assert total == TOTAL
    assert len(said) == 1
    assert "nothing to do" in said[0]
    assert contents(out) == undisturbed


def test_failing_part_leaves_the_finished_receipts_and_no_success(out: Path) -> None:
    with pytest.raises(StorageError, match="disk is full"):
        run(make_job(out), Scribe(out, fails_at=2))

    assert {path.stem for path in (out / "_receipts").iterdir()} == {p.id for p in PARTS[:2]}
    assert not (out / "_SUCCESS").exists()
    assert json_files.read_manifest(str(out / "_manifest.json"))["receipts"] == []


@pytest.mark.parametrize("finished", [0, 1, 3, 4])
def test_finished_parts_are_kept_and_the_rest_is_done(
    out: Path, undisturbed: dict[str, bytes], finished: int
) -> None:
    with pytest.raises(StorageError):
        run(make_job(out), Scribe(out, fails_at=finished))
    again = Scribe(out)

    total, said = run(make_job(out), again)

    assert again.done == [part.id for part in PARTS[finished:]]
    assert total == TOTAL
    assert (f"{finished} of 5 parts are done already" in said) == bool(finished)
    assert contents(out) == undisturbed


def test_part_without_receipt_is_done_again_to_the_same_bytes(
    out: Path, undisturbed: dict[str, bytes]
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(make_job(out), KilledBeforeReceipt(out, fails_at=2))
    written = out / "rows" / f"part-{PARTS[2].id}"
    half = written.with_name(f".{written.name}.x.nanograd-tmp")
    half.write_bytes(written.read_bytes()[:3])
    again = Scribe(out)

    total, _ = run(make_job(out), again)

    assert again.done == [part.id for part in PARTS[2:]]
    assert total == TOTAL
    assert contents(out) == undisturbed


def test_job_killed_before_success_only_commits_again(
    out: Path, undisturbed: dict[str, bytes]
) -> None:
    run(make_job(out), Scribe(out))
    (out / "_SUCCESS").unlink()
    again = Scribe(out)

    total, _ = run(make_job(out), again)

    assert (again.done, total) == ([], TOTAL)
    assert contents(out) == undisturbed


def test_miscounted_rows_are_an_internal_error_without_success(out: Path) -> None:
    with pytest.raises(InternalError, match="file-2: 194 rows accounted for of 193"):
        run(make_job(out), Miscount(out))

    assert not (out / "_SUCCESS").exists()


@pytest.mark.parametrize("twice", [False, True], ids=["lost", "twice"])
def test_lost_or_repeated_part_is_an_internal_error(out: Path, twice: bool) -> None:
    work = Scribe(out)

    with pytest.raises(InternalError, match=f"{6 if twice else 4} parts done of 5 planned"):
        run_job(
            make_job(out),
            lambda parts: (do(work, part) for part in ([*parts, parts[0]] if twice else parts[1:])),
            lambda sentence: None,
        )

    assert not (out / "_SUCCESS").exists()


def test_part_ids_are_short_and_tell_their_ingredients_apart() -> None:
    ids = {part_id("a", 1), part_id("a", 2), part_id("a1"), part_id("a", 1, ""), part_id("1", "a")}

    assert len(ids) == 5
    assert all(len(id_) == 16 for id_ in ids)
    assert part_id({"keep": ()}, "a", 1) == part_id({"keep": ()}, "a", 1)
