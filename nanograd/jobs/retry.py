"""Retries: with `--retry-quarantine`, quarantined rows are read again with other options.

The quarantined rows of a part become a new part, which has its own predictions and quarantine. The
old part keeps its predictions. A file that could not be used at all is divided into parts again.

Receipts store the options of all retries. If rows must be read again, for example because an output
file was damaged, they are read with the first options, and quarantined rows with the next ones.
"""

from collections.abc import Sequence, Set
from itertools import groupby

import pyarrow as pa
import pyarrow.compute as pc

from nanograd.images.writers import QUARANTINE
from nanograd.jobs.output import Earlier
from nanograd.jobs.part import Part, part_id
from nanograd.jobs.receipts import Receipt
from nanograd.runtime import storage
from nanograd.settings.specs import ReadOptions


def plan_retry(
    earlier: Earlier, files: Set[str], done: Set[str], options: ReadOptions, output: str
) -> tuple[Earlier, list[Part]]:
    """Plan a part for the quarantined rows of each part to keep, which are read with `options`.

    The receipts to keep then lack these rows, unless an input file is missing in `files`. A part is
    stale if none of its rows is left, or if its only file, which was unusable, is not `done`.
    """
    kept, stale, parts = list[Receipt](), list(earlier.stale), list[Part]()
    for receipt in earlier.kept:
        rest = receipt
        if receipt.needs_retry and not receipt.unusable and files >= {*receipt.inputs}:
            rest = receipt.without_quarantine()
            readings = tuple(each for each, _ in groupby((*receipt.readings, options)))
            quarantine = sorted(receipt.files.items() - rest.files.items())
            parts.append(
                Part(
                    id=part_id(receipt.part, [each.identity() for each in readings], quarantine),
                    name=part_id("retry", receipt.name),
                    files=receipt.inputs,
                    versions=receipt.versions,
                    ranges=receipt.ranges,
                    num_rows=receipt.counts.quarantined,
                    readings=readings,
                    quarantine=tuple(storage.join(output, name) for name, _ in quarantine),
                )
            )
        if rest.files and (not receipt.unusable or receipt.unusable in done):
            kept.append(rest)
        else:
            stale.append(receipt)
    return Earlier(tuple(kept), tuple(stale)), parts


def by_file(quarantine: Sequence[pa.Table], files: Sequence[str]) -> dict[str, pa.Table]:
    """Return the rows of quarantine without their kept columns, by file in order."""
    tables = (each.select(QUARANTINE.names) for each in quarantine)
    rows = pa.concat_tables([QUARANTINE.empty_table(), *tables]).sort_by("source_row")
    return {
        file: rows.filter(pc.equal(rows["source_file"], storage.as_text(file))) for file in files
    }
