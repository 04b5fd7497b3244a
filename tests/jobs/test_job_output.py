from contextlib import nullcontext
from pathlib import Path

import pytest

from nanograd.errors import DataError, OutputExistsError, StorageError, UsageError
from nanograd.jobs.part import Part
from nanograd.jobs.receipts import Receipt
from nanograd.runtime import storage
from tests.helpers.folders import untimed_contents
from tests.helpers.jobs import PARTS, TOTAL, Scribe, make_job, run


@pytest.mark.parametrize("finished", [2, None])
def test_another_job_is_refused_and_the_output_untouched(out: Path, finished: int | None) -> None:
    try:
        run(make_job(out), Scribe(fails_at=finished))
    except StorageError:
        assert finished
    before, other = untimed_contents(out), Scribe()

    with pytest.raises(OutputExistsError, match=r"another job .*--overwrite"):
        run(make_job(out, model="n"), other)

    assert other.done == []
    assert untimed_contents(out) == before


def test_overwrite_replaces_another_jobs_output(out: Path) -> None:
    run(make_job(out, model="n"), Scribe())
    work = Scribe()

    total, _ = run(make_job(out, PARTS[:2], overwrite=True), work)

    assert work.done == [part.id for part in PARTS[:2]]
    assert total[0] == 8
    # Two files and a receipt a part, summary, manifest, mark of completeness.
    assert len(untimed_contents(out)) == 2 * 3 + 3


def test_old_output_stays_whole_until_the_new_one_is_complete(
    out: Path, undisturbed_job: dict[str, bytes]
) -> None:
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
        (True, "rows/.DS_Store", None),
        (True, "rows/.part-0.1.nanograd-tmp", None),
    ],
)
def test_files_that_another_program_writes_or_removes_meanwhile_are_found(
    out: Path, write: bool, name: str, error: type[Exception] | None
) -> None:
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
def test_folder_of_a_stranger_is_refused_and_left_alone(out: Path, overwrite: bool) -> None:
    storage.commit(str(out / "thesis.tex"), b"dear")

    with pytest.raises(OutputExistsError, match=r"holds 'thesis.tex'.*choose another --output"):
        run(make_job(out, overwrite=overwrite), Scribe())

    assert untimed_contents(out) == {"thesis.tex": b"dear"}


def test_overwrite_refuses_an_output_that_holds_the_input(out: Path) -> None:
    run(make_job(out), Scribe())
    before = untimed_contents(out)
    parts = [Part(id="0", files=(str(out / "rows" / f"part-{PARTS[0].id}"),), num_rows=1)]

    with pytest.raises(UsageError, match=r"--output .*part-"):
        run(make_job(out, parts, overwrite=True), Scribe())

    assert untimed_contents(out) == before


def test_stranger_beside_an_unfinished_job_is_left_alone(out: Path) -> None:
    with pytest.raises(StorageError):
        run(make_job(out), Scribe(fails_at=2))
    storage.commit(str(out / "_receipts" / "notes.txt"), b"dear")

    total, _ = run(make_job(out), Scribe())

    assert total == TOTAL
    assert (out / "_receipts" / "notes.txt").read_bytes() == b"dear"


@pytest.mark.parametrize("data", [b"", b"{}", b'{"part": "x", "manifest_sha256": "0"}'])
def test_damaged_receipt_is_named(out: Path, data: bytes) -> None:
    with pytest.raises(StorageError):
        run(make_job(out), Scribe(fails_at=2))
    receipt = out / "_receipts" / f"{PARTS[1].id}.json"
    receipt.write_bytes(data)

    with pytest.raises(DataError, match=f"{receipt.name} is damaged"):
        run(make_job(out), Scribe())

    assert not (out / "_SUCCESS").exists()


def test_damaged_manifest_is_named_and_may_be_overwritten(
    out: Path, undisturbed_job: dict[str, bytes]
) -> None:
    run(make_job(out), Scribe())
    (out / "_manifest.json").write_bytes(b"{}")

    with pytest.raises(DataError, match=r"_manifest\.json is damaged"):
        run(make_job(out), Scribe())
    run(make_job(out, overwrite=True), Scribe())

    assert untimed_contents(out) == undisturbed_job
