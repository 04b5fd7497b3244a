"""Kills at any write: no row is lost or doubled, and the next command ends with the same bytes."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from nanograd.digits.form import to_png
from nanograd.runtime import storage
from tests.helpers.folders import untimed_contents
from tests.helpers.growth import every_row, sources, unlisted
from tests.jobs.conftest import Case

RETRY = {"retry_quarantine": True, "image_column": "scan", "label_column": "none"}
# What a command does to a complete output of files 0 and 1: its settings, and the rows afterwards.
CHANGES: dict[str, tuple[dict[str, Any], list[tuple[str, int]]]] = {
    "first": ({}, every_row(0, 1)),
    "growth": ({}, [*every_row(0, 1, 2), ("a", 0)]),  # of a table and of a picture
    "sync": ({"sync": True}, [*every_row(0), *(("00001", row) for row in range(9))]),
    "overwrite": ({"overwrite": True, "keep": ("label",)}, every_row(0, 1)),
    "retry": (RETRY, every_row(0, 1)),
    "repair": ({}, every_row(0, 1)),
    "repair of a retry": ({}, every_row(0, 1)),
}


class Killed(BaseException):
    """The process ends here."""


def kill_at(patch: pytest.MonkeyPatch, when: int) -> None:
    """Let the process end instead of the write with this number."""
    written: list[str] = []

    def dying(write: Callable[..., None]) -> Callable[..., None]:
        def instead(place: str, *more: Any) -> None:
            if storage.LEASE in place:  # a killed process leaves a lease that others take over
                write(place, *more)
                return
            if len(written) == when:
                raise Killed
            written.append(place)
            write(place, *more)

        return instead

    for name in ("commit", "move", "remove"):
        patch.setattr(storage, name, dying(getattr(storage, name)))


def killed_at_each_write(case: Case, saved: Path, **settings: Any) -> Iterator[None]:
    """Run a command on a copy of `saved`, killed at each of its writes; yield after each run.

    The last run is not killed.
    """
    for when in range(10_000):
        shutil.rmtree(case.out)
        shutil.copytree(saved, case.out)
        killed = False
        with pytest.MonkeyPatch.context() as patch:
            kill_at(patch, when)
            try:
                case.run(**settings)
            except Killed:
                killed = True
        yield
        if not killed:
            break
    assert when > 8


def comparable(change: str, out: Path) -> dict[str, bytes]:
    """The files of an output; after a retry only predictions: another may retry what is left."""
    contents = untimed_contents(out).items()
    return {n: data for n, data in contents if change != "retry" or n.startswith("predictions/")}


# A repair of a retry finds all that a repair does.
@pytest.mark.parametrize(
    "change",
    [pytest.param(each, marks=[pytest.mark.slow] * (each == "repair")) for each in CHANGES],
)
def test_command_that_is_killed_at_any_write_is_completed_by_the_next(case, tmp_path, change):
    settings, expected = CHANGES[change]
    case.add(0)
    second = case.add(1)
    if "retry" in change:
        case.add_scan(1)
    if change != "first":
        case.run()
    if change == "growth":
        case.add(2)
        (case.folder / "a.png").write_bytes(to_png(case.digits.images[0]))
    if change == "sync":
        os.utime(case.add(20, second.name, rows=9), ns=(0, 0))
    if change == "repair of a retry":
        case.run(**RETRY)
    if "repair" in change:
        for file in (case.out / "predictions").iterdir():
            file.unlink()
    is_whole = (case.out / "_SUCCESS").exists() and "repair" not in change
    before, saved = sources(case.out) if is_whole else [], tmp_path / "saved"
    case.out.mkdir(parents=True, exist_ok=True)
    shutil.copytree(case.out, saved)
    case.run(**settings)
    undisturbed = comparable(change, case.out)

    for _ in killed_at_each_write(case, saved, **settings):
        if (case.out / "_SUCCESS").exists() and "repair" not in change:
            assert unlisted(case.out) == set()
            assert sources(case.out) in (before, expected)
            listed = pq.read_table(case.out / "_review.pq").to_pylist()
            rows = {(Path(row["source_file"]).stem, row["source_row"]) for row in listed}
            assert set() != rows <= set(sources(case.out))
        figures = case.run(**({} if change == "repair of a retry" else settings))

        assert sources(case.out) == expected
        assert figures["rows"] == len(expected)
        assert comparable(change, case.out) == undisturbed
