"""A retry: a job whose input is the quarantine of a prediction that is complete.

The rows in the quarantine of a part are read again, with other settings or after a repair of what
they need. They become a part of their own, with predictions and quarantine; the first part keeps
its predictions. A file that could not be used at all is planned anew.

The manifest lists the retries that are still to do. So a part whose rows were retried may be
repeated: the same command then retries its quarantine with the same settings, also after a kill.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import cast

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.json as pa_json
import pyarrow.parquet as pq

from nanograd.errors import DataError, Origin, Reason, Rejected, UsageError
from nanograd.images import scan
from nanograd.images.inputs import InputFile
from nanograd.images.scan import ScannedFile
from nanograd.images.writers import QUARANTINE, as_text
from nanograd.jobs import cutting
from nanograd.jobs.earlier import Earlier
from nanograd.jobs.job import Job, JobResult, run_job
from nanograd.jobs.part import Part, RunParts, part_id
from nanograd.jobs.receipts import Reading, Receipt, Retry
from nanograd.runtime import storage
from nanograd.runtime.events import Listener
from nanograd.settings.specs import ReadOptions


def retries_of(stale: Iterable[Receipt]) -> list[Retry]:
    """Return the retries of parts that are done again, in the order in which they were made."""
    inputs: dict[str, set[str]] = {}
    readings: dict[str, Reading] = {}
    for receipt in stale:
        if receipt.reading is not None:
            key = part_id(receipt.reading)
            readings[key] = receipt.reading
            inputs.setdefault(key, set()).update(receipt.inputs)
    found = [Retry(readings[key], tuple(sorted(inputs[key]))) for key in sorted(readings)]
    return sorted(found, key=lambda each: each.reading.depth)


def plan_retry(job: Job, receipts: Sequence[Receipt], retry: Retry) -> Job:
    """Plan a retry.

    Args:
        job: the prediction.
        receipts: of all its parts.
        retry: the rows to read again, and how.
    """
    kept = {receipt.part: receipt for receipt in receipts if receipt.inputs}
    parts, unusable = list[Part](), dict[str, Receipt]()
    for receipt in list(kept.values()):
        named = retry.inputs is None or set(retry.inputs).intersection(receipt.inputs)
        if not (receipt.needs_retry and named and job.files.issuperset(receipt.inputs)):
            continue
        if receipt.counts.details[0].source_row is None:
            unusable[receipt.inputs[0]] = receipt
            continue
        quarantine = {
            name: written
            for name, written in receipt.files.items()
            if name.startswith("quarantine/")
        }
        reading = _after(receipt, retry)
        parts.append(
            Part(
                id=part_id(receipt.part, reading, sorted(quarantine.items())),
                name=part_id("retry", receipt.name),
                files=receipt.inputs,
                versions=receipt.versions,
                ranges=receipt.ranges,
                num_rows=receipt.counts.quarantined,
                reading=reading,
                quarantine=tuple(storage.join(job.output, name) for name in quarantine),
            )
        )
        rest = receipt.without_quarantine()
        kept[receipt.part] = rest
        if receipt.reading and not rest.counts.rows:  # an earlier retry that found nothing
            del kept[receipt.part]
    if unusable:
        scanned = _scan_again(job, unusable, retry)
        for each in scanned:
            del kept[unusable[each.file.place].part]
        groups = cutting.group(scanned, job.identity["rows_per_file"])
        if (limit := job.identity["limit"]) is not None:
            num_rows = sum(receipt.counts.rows for receipt in kept.values())
            num_rows += sum(part.num_rows for part in parts)
            groups = cutting.limit(groups, limit - num_rows)
        for part in cutting.cut_into_parts([dict(job.identity), retry.reading], groups):
            reading = _after(unusable[part.files[0]], retry)
            parts.append(replace(part, reading=reading))
    stale = tuple(receipt for receipt in receipts if receipt.inputs and receipt.part not in kept)
    return replace(
        job,
        parts=parts,
        earlier=Earlier(tuple(kept.values()), stale),
        overwrite=False,
        max_error_rate=1.0,
        allow_none=True,
        retries=tuple(each for each in job.retries if each != retry),
        is_retry=True,
    )


def _scan_again(job: Job, unusable: Mapping[str, Receipt], retry: Retry) -> list[ScannedFile]:
    """Scan files that could not be used; return those that can be now."""
    files = [
        InputFile(file, *cast("tuple[int, ...]", receipt.versions[0][:4]))
        for file, receipt in unusable.items()
    ]
    everything = [InputFile(file, 0, 0) for file in sorted(job.files)]
    options = ReadOptions(**retry.reading.options)
    try:
        scanned, _ = scan.scan_files(files, everything, job.roots, options)
    except (DataError, UsageError):  # it fits none of them
        return []
    return [each for each in scanned if not each.rejected]


def run_with_retries(job: Job, run_parts: RunParts, listener: Listener) -> JobResult:
    """Run a prediction as `run_job` does, then its retries, each over the quarantine that is left.

    Args:
        job: the prediction.
        run_parts: see `run_job`.
        listener: the same.
    """
    result = run_job(job, run_parts, listener)
    for retry in job.retries:
        job = plan_retry(job, result.receipts, retry)
        more = run_job(job, run_parts, listener)
        result = JobResult(
            more.receipts,
            result.rows + more.rows,
            min(result.began, more.began),
            more.ended,
            result.changed or more.changed,
        )
    return result


def parts_to_retry(job: Job) -> list[Part]:
    """Return the parts that the retries of a job would have if it were complete."""
    plans = (plan_retry(job, job.earlier.kept, each) for each in job.retries)
    return [part for plan in plans for part in plan.parts]


def read_quarantine(part: Part, format_: str) -> dict[str, list[Rejected]]:
    """Return the rows of quarantine that a part reads, by their files; {} if it reads none.

    Args:
        part: the part that reads it.
        format_: parquet, csv or jsonl.
    """
    names = {as_text(file): file for file in part.files}
    found: dict[str, list[Rejected]] = {file: [] for file in part.files if part.quarantine}
    for place in part.quarantine:
        source = pa.BufferReader(storage.read(place))
        match format_:
            case "parquet":
                table = pq.read_table(source)
            case "csv":
                types = dict(zip(QUARANTINE.names, QUARANTINE.types, strict=True))
                table = pa_csv.read_csv(
                    source,
                    parse_options=pa_csv.ParseOptions(newlines_in_values=True),
                    convert_options=pa_csv.ConvertOptions(column_types=types),
                )
            case _:
                table = pa_json.read_json(
                    source, parse_options=pa_json.ParseOptions(explicit_schema=QUARANTINE)
                )
        for row in table.to_pylist():
            origin = Origin(names[row["source_file"]], row["source_row"])
            found[origin.file].append(Rejected(origin, Reason(row["reason"]), row["detail"]))
    return found


def _after(receipt: Receipt, retry: Retry) -> Reading:
    """Return how the quarantine of a part is read: as recorded, or after what was done before."""
    depth = retry.reading.depth or (receipt.reading.depth if receipt.reading else 0) + 1
    return retry.reading._replace(depth=depth)
