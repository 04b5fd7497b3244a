"""A retry: a job whose input is the quarantine of a complete prediction.

With `--retry-quarantine`, the quarantined rows of each part are read again, with other settings or
after the user repaired the cause. They become a new part, with predictions and quarantine of its
own. The old part keeps its predictions. A file that could not be used at all is planned again as a
whole.

The manifest of the output lists the retries that are still to do. If a part must be repeated, for
example because its output was damaged, its earlier retries are repeated, too, with their settings.
"""

from collections.abc import Sequence
from dataclasses import replace
from sys import maxsize
from typing import cast

import pyarrow as pa
import pyarrow.compute as pc

from nanograd.errors import DataError, UsageError
from nanograd.images import scan
from nanograd.images.inputs import InputFile
from nanograd.images.writers import QUARANTINE, read
from nanograd.jobs.job import Job, JobResult, run_job
from nanograd.jobs.output import Earlier
from nanograd.jobs.part import Part, RunParts, group, part_id, plan_parts
from nanograd.jobs.receipts import Reading, Receipt, Retry
from nanograd.runtime import storage
from nanograd.runtime.events import Listener
from nanograd.settings.specs import ReadOptions


def plan_retry(job: Job, receipts: Sequence[Receipt], retry: Retry) -> Job:
    """Plan a retry of a prediction from the receipts of all its parts."""
    kept = {receipt.part: receipt for receipt in receipts if receipt.inputs}
    parts, unusable = list[Part](), dict[str, Receipt]()
    for receipt in list(kept.values()):
        named = retry.inputs is None or set(retry.inputs).intersection(receipt.inputs)
        if not (receipt.needs_retry and named and job.files.issuperset(receipt.inputs)):
            continue
        if receipt.counts.details[0].source_row is None:
            unusable[receipt.inputs[0]] = receipt
            continue
        rest, reading = receipt.without_quarantine(), _after(receipt, retry)
        quarantine = sorted((n, each) for n, each in receipt.files.items() if n not in rest.files)
        parts.append(
            Part(
                id=part_id(receipt.part, reading, quarantine),
                name=part_id("retry", receipt.name),
                files=receipt.inputs,
                versions=receipt.versions,
                ranges=receipt.ranges,
                num_rows=receipt.counts.quarantined,
                reading=reading,
                quarantine=tuple(storage.join(job.output, name) for name, _ in quarantine),
            )
        )
        kept[receipt.part] = rest
        if receipt.reading and not rest.counts.rows:  # an earlier retry that predicted no row
            del kept[receipt.part]
    # Plan the files again that could not be used before and can be used now.
    files = [
        InputFile(file, *cast("tuple[int, ...]", receipt.versions[0][:4]))
        for file, receipt in unusable.items()
    ]
    everything = [InputFile(file, 0, 0) for file in sorted(job.files)]
    try:
        options = ReadOptions(**retry.reading.options)
        scanned = scan.scan_files(files, everything, job.roots, options)[0] if files else []
    except (DataError, UsageError):  # the options fit none of the files
        scanned = []
    usable = [each for each in scanned if not each.rejected]
    for each in usable:
        del kept[unusable[each.file.place].part]
    done = sum(receipt.counts.rows for receipt in kept.values())
    left = (job.identity["limit"] or maxsize) - done - sum(part.num_rows for part in parts)
    groups = group(usable, job.identity["rows_per_file"])
    for part in plan_parts([job.identity, retry.reading], groups, left):
        parts.append(replace(part, reading=_after(unusable[part.files[0]], retry)))
    stale = tuple(receipt for receipt in receipts if receipt.inputs and receipt.part not in kept)
    return replace(
        job,
        spec=replace(job.spec, overwrite=False),
        parts=parts,
        earlier=Earlier(tuple(kept.values()), stale),
        retries=tuple(each for each in job.retries if each != retry),
        is_retry=True,
    )


def run_with_retries(job: Job, run_parts: RunParts, listener: Listener) -> JobResult:
    """Run a prediction, and then each of its retries on the rows that are still quarantined."""
    result = run_job(job, run_parts, listener)
    for retry in job.retries:
        job = plan_retry(job, result.receipts, retry)
        more = run_job(job, run_parts, listener)
        result = more._replace(
            rows=result.rows + more.rows,
            began=min(result.began, more.began),
            changed=result.changed or more.changed,
        )
    return result


def parts_to_retry(job: Job) -> list[Part]:
    """Return the parts that the retries of a job would have if it were complete."""
    plans = (plan_retry(job, job.earlier.kept, each) for each in job.retries)
    return [part for plan in plans for part in plan.parts]


def read_quarantine(part: Part) -> dict[str, pa.Table]:
    """Return the quarantined rows that a retry reads, by file in order; {} if it is no retry."""
    tables = [read(place, QUARANTINE) for place in part.quarantine]
    rows = pa.concat_tables([QUARANTINE.empty_table(), *tables]).sort_by("source_row")
    return {
        file: rows.filter(pc.equal(rows["source_file"], storage.as_text(file)))
        for file in (part.files if part.quarantine else ())
    }


def _after(receipt: Receipt, retry: Retry) -> Reading:
    """Return how a retry reads a part's quarantine; replace depth 0 by the part's depth plus 1."""
    depth = retry.reading.depth or (receipt.reading.depth if receipt.reading else 0) + 1
    return retry.reading._replace(depth=depth)
