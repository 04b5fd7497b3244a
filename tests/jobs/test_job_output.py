from dataclasses import replace
from pathlib import Path

import pytest

from nanograd.errors import DataError, OutputExistsError, StorageError, UsageError
from nanograd.jobs.part import Part, Receipt
from nanograd.runtime import storage
from tests.helpers.folders import untimed_contents
from tests.helpers.jobs import PARTS, TOTAL, Scribe, make_job, run


@pytest.mark.parametrize("finished", [2, None])
def test_another_job_is_refused_and_the_output_untouched(out: Path, finished: int | None) -> None:
    try:
        run(make_job(out), Scribe(out, fails_at=finished))
    except StorageError:
        assert finished
    before, other = untimed_contents(out), Scribe(out)

    with pytest.raises(OutputExistsError, match=r"another job .*--overwrite"):
        run(make_job(out, model="n"), other)

    assert other.done == []
    assert untimed_contents(out) == before


def test_overwrite_replaces_another_jobs_output(out: Path) -> None:
    run(make_job(out, model="n"), Scribe(out))
    work = Scribe(out)

    total, _ = run(make_job(out, PARTS[:2], overwrite=True), work)

    assert work.done == [part.id for part in PARTS[:2]]
    assert total["rows"] == 8
    # Two files and a receipt a part, summary, manifest, mark of completeness.
    assert len(untimed_contents(out)) == 2 * 3 + 3


def test_old_output_stays_whole_until_the_new_one_is_complete(
    out: Path, undisturbed_job: dict[str, bytes]
) -> None:
    run(make_job(out, model="n"), Scribe(out))
    old = untimed_contents(out)

    with pytest.raises(StorageError):
        run(make_job(out, overwrite=True), Scribe(out, fails_at=3))
    now = untimed_contents(out)
    again = Scribe(out)
    run(make_job(out, overwrite=True), again)

    beside = {name for name in now if name.startswith("_next/")}
    assert {name: data for name, data in now.items() if name not in beside} == old
    assert len(beside) == 3 * 3 + 1
    assert again.done == [part.id for part in PARTS[3:]]
    assert untimed_contents(out) == undisturbed_job


@pytest.mark.parametrize("place", range(6))
def test_replacement_killed_at_any_move_is_finished_by_the_next_command(
    out: Path, undisturbed_job: dict[str, bytes], place: int
) -> None:
    run(make_job(out, PARTS[:2], model="n"), Scribe(out))
    move, moved = storage.move, []

    def killed(old: str, new: str) -> None:
        if len(moved) == place:
            raise KeyboardInterrupt
        moved.append(new)
        move(old, new)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage, "move", killed)
        with pytest.raises(KeyboardInterrupt):
            run(make_job(out, overwrite=True), Scribe(out))
    was_complete = (out / "_SUCCESS").exists()
    again = Scribe(out)
    total, _ = run(make_job(out), again)

    assert not was_complete
    assert again.done == []
    assert total == TOTAL
    assert untimed_contents(out) == undisturbed_job


def test_what_another_job_wrote_meanwhile_is_found(out: Path) -> None:
    class Disturbed(Scribe):
        def __call__(self, part: Part) -> Receipt:
            storage.commit(str(out / "rows" / "part-of-another"), b"")
            return super().__call__(part)

    with pytest.raises(OutputExistsError, match=r"did not write, such as 'rows/part-of-another'"):
        run(make_job(out), Disturbed(out))

    assert not (out / "_SUCCESS").exists()


@pytest.mark.parametrize("name", [".nfs000193", ".DS_Store", ".part-0.1.nanograd-tmp"])
def test_hidden_files_in_the_output_do_not_matter(out: Path, name: str) -> None:
    class Disturbed(Scribe):
        def __call__(self, part: Part) -> Receipt:
            storage.commit(str(out / "rows" / name), b"")
            return super().__call__(part)

    total, _ = run(make_job(out), Disturbed(out))

    assert total == TOTAL


def test_part_that_another_job_removed_is_found(out: Path) -> None:
    class Disturbed(Scribe):
        def __call__(self, part: Part) -> Receipt:
            storage.remove(str(out / "rows" / f"part-{PARTS[0].id}"))
            return super().__call__(part)

    with pytest.raises(StorageError, match=rf"removed or cut .*'rows/part-{PARTS[0].id}'"):
        run(make_job(out), Disturbed(out))


def test_too_many_unreadable_rows_end_the_job_and_allowing_more_finishes_it(
    out: Path, undisturbed_job: dict[str, bytes]
) -> None:
    strict = replace(make_job(out), max_error_rate=0.01)

    with pytest.raises(DataError, match=r"3 of 229 rows .*most often blank.*--max-error-rate 0.01"):
        run(strict, Scribe(out))
    was_complete = (out / "_SUCCESS").exists()
    run(replace(make_job(out), max_error_rate=0.02), Scribe(out))

    assert not was_complete
    assert untimed_contents(out) == undisturbed_job


@pytest.mark.parametrize("overwrite", [False, True])
def test_folder_of_a_stranger_is_refused_and_left_alone(out: Path, overwrite: bool) -> None:
    storage.commit(str(out / "thesis.tex"), b"dear")

    with pytest.raises(OutputExistsError, match=r"holds 'thesis.tex'.*choose another --output"):
        run(make_job(out, overwrite=overwrite), Scribe(out))

    assert untimed_contents(out) == {"thesis.tex": b"dear"}


def test_overwrite_refuses_an_output_that_holds_the_input(out: Path) -> None:
    run(make_job(out), Scribe(out))
    before = untimed_contents(out)
    parts = [Part(id="0", files=(str(out / "rows" / f"part-{PARTS[0].id}"),), num_rows=1)]

    with pytest.raises(UsageError, match=r"--output .*part-"):
        run(make_job(out, parts, overwrite=True), Scribe(out))

    assert untimed_contents(out) == before


def test_stranger_beside_an_unfinished_job_is_left_alone(out: Path) -> None:
    with pytest.raises(StorageError):
        run(make_job(out), Scribe(out, fails_at=2))
    storage.commit(str(out / "_receipts" / "notes.txt"), b"dear")

    total, _ = run(make_job(out), Scribe(out))

    assert total == TOTAL
    assert (out / "_receipts" / "notes.txt").read_bytes() == b"dear"


@pytest.mark.parametrize("data", [b"", b"{}", b'{"part": "x", "manifest_sha256": "0"}'])
def test_damaged_receipt_is_named(out: Path, data: bytes) -> None:
    with pytest.raises(StorageError):
        run(make_job(out), Scribe(out, fails_at=2))
    receipt = out / "_receipts" / f"{PARTS[1].id}.json"
    receipt.write_bytes(data)

    with pytest.raises(DataError, match=f"{receipt.name} is damaged"):
        run(make_job(out), Scribe(out))

    assert not (out / "_SUCCESS").exists()


def test_damaged_manifest_is_named_and_may_be_overwritten(
    out: Path, undisturbed_job: dict[str, bytes]
) -> None:
    run(make_job(out), Scribe(out))
    (out / "_manifest.json").write_bytes(b"{}")

    with pytest.raises(DataError, match=r"_manifest\.json is damaged"):
        run(make_job(out), Scribe(out))
    run(make_job(out, overwrite=True), Scribe(out))

    assert untimed_contents(out) == undisturbed_job
