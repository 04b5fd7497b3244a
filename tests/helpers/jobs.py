"""Small batch jobs that several test files start, stop and compare."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

from nanograd.errors import StorageError
from nanograd.jobs.job import Job, run_job
from nanograd.jobs.output import Manifest
from nanograd.jobs.part import Part, commit_part, part_id, run_local
from nanograd.jobs.receipts import Counts, Receipt
from nanograd.runtime.events import Event, Message
from nanograd.settings.specs import PartsSpec

Account: TypeAlias = tuple[int, int, dict[str, int]]

ROWS = [1, 7, 193, 0, 28]
PARTS = [
    Part(id=part_id("file", number), files=(f"/in/file-{number}",), num_rows=num_rows)
    for number, num_rows in enumerate(ROWS)
]
TOTAL = (229, 4, {"blank": 3, "empty": 1})  # rows, those in quarantine, why


def receipt_of(part: Part, **counts: Any) -> Receipt:
    """Return the receipt of a part that wrote nothing."""
    made = Counts(**{"rows": part.num_rows, **counts})
    return Receipt(part=part.id, inputs=part.files, files={}, counts=made)


class Scribe:
    """Work that commits a file a part, remembers which parts it did, and may fail at one."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.fails_at = fails_at
        self.done: list[str] = []

    def __call__(self, part: Part) -> Receipt:
        if len(self.done) == self.fails_at:
            return self.fail(part)
        self.done.append(part.id)
        return commit_part(part, self.files(part), self.counts(part), {})

    def files(self, part: Part) -> dict[str, bytes]:
        return {f"rows/part-{part.id}": part.id.encode() * 7, f"more-{part.id}": b""}

    def counts(self, part: Part) -> Counts:
        reasons = Counter(blank=int(part.num_rows > 1), empty=int(part.num_rows == 193))
        return Counts(rows=part.num_rows, quarantined=reasons.total(), reasons=+reasons)

    def fail(self, part: Part) -> Receipt:
        raise StorageError("the disk is full")


def make_job(
    place: Path, parts: Sequence[Part] = PARTS, *, model: str = "m", overwrite: bool = False
) -> Job:
    identity = {"command": "copy", "model": model, "parts": [part.id for part in parts]}
    spec = PartsSpec(output=str(place), overwrite=overwrite)
    return Job(spec=spec, identity=identity, parts=parts)


def forget_completion(place: Path) -> None:
    """Change a complete output to one that a killed command left after its last part."""
    (place / "_SUCCESS").unlink()
    Manifest(job=Manifest.read(str(place)).job).commit(str(place))


def run(job: Job, work: Scribe) -> tuple[Account, list[str]]:
    events: list[Event] = []
    counts = Counts.total(run_job(job, run_local(work), events.append).receipts)
    messages = [str(event) for event in events if isinstance(event, Message)]
    return (counts.rows, counts.quarantined, dict(counts.reasons)), messages
