"""Small batch jobs that several test files start, stop and compare."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nanograd.errors import StorageError
from nanograd.jobs.job import Job, run_job
from nanograd.jobs.part import Part, Receipt, commit_part, part_id, run_local
from nanograd.runtime import json_files
from nanograd.runtime.events import Event, Message

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
        return commit_part(self.place, part, self.files(part), self.counts(part), {})

    def files(self, part: Part) -> dict[str, bytes]:
        return {f"rows/part-{part.id}": part.id.encode() * 7, f"more-{part.id}": b""}

    def counts(self, part: Part) -> dict[str, Any]:
        blank, empty = int(part.num_rows > 1), int(part.num_rows == 193)
        reasons = {"blank": blank, **({"empty": 1} if empty else {})} if blank else {}
        return {"rows": part.num_rows, "quarantined": blank + empty, "reasons": reasons}

    def fail(self, part: Part) -> Receipt:
        raise StorageError("the disk is full")


def make_job(
    place: Path, parts: Sequence[Part] = PARTS, *, model: str = "m", overwrite: bool = False
) -> Job:
    identity = {"command": "copy", "model": model, "parts": [part.id for part in parts]}
    return Job(place=str(place), identity=identity, parts=parts, overwrite=overwrite)


def forget_completion(place: Path) -> None:
    """Change a complete output to one that a killed command left after its last part."""
    (place / "_SUCCESS").unlink()
    job = json_files.read_manifest(f"{place}/_manifest.json")["job"]
    unfinished = {"job": job, "receipts": [], "runs": []}
    json_files.commit_manifest(f"{place}/_manifest.json", unfinished)


def run(job: Job, work: Scribe) -> tuple[Receipt, list[str]]:
    """Return the total and the messages."""
    events: list[Event] = []
    summary = run_job(job, run_local(work), events.append).summary
    return summary, [str(event) for event in events if isinstance(event, Message)]
