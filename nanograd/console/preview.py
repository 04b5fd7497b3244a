"""The rows of a prediction that a terminal shows: the first ones and the least certain ones."""

from collections.abc import Iterator, Sequence
from math import floor
from os.path import commonprefix

import pyarrow as pa

from nanograd.images.inputs import Origin
from nanograd.images.writers import NUMBERS, QUARANTINE, SOURCE, WITHOUT_PROBABILITIES, read
from nanograd.jobs.output import REVIEW, Manifest, files_of
from nanograd.models.reference import UNFAMILIAR
from nanograd.runtime import storage
from nanograd.runtime.events import count, printable, shorten
from nanograd.runtime.json_files import JsonObject

# The rows of a command are all shown if they are at most _MOST. Otherwise the first _FEW are shown,
# and the _FEW least certain rows of the output.
_MOST, _FEW = 40, 10
_NAME_WIDTH, _NOTE_WIDTH = 44, 60

_LINES = pa.schema([NUMBERS.field(name) for name in (*SOURCE.names, "line", "text", "confidence")])


def preview_rows(output: str) -> str:
    """Return the rows that the last `predict` added to `output`, as the text of a table.

    `output` is the folder or URI of a complete prediction. The result is "" if the rows are in the
    folders of --partition-by.
    """
    manifest = Manifest.read(output)
    added = set(manifest.runs[-1]) if manifest.runs else set()
    receipts = [each for each in manifest.receipts if each.part in added and each.inputs]
    receipts.sort(key=lambda receipt: (receipt.inputs, receipt.ranges))
    files = files_of(receipts)
    if any("=" in name for name in files):
        return ""
    num_rows = sum(receipt.counts.rows for receipt in receipts)
    has_numbers = any(name.startswith("numbers/") for name in files)
    tables = {"numbers": _LINES} if has_numbers else {"predictions": WITHOUT_PROBABILITIES}
    tables["quarantine"] = QUARANTINE
    rows = list[JsonObject]()
    for receipt in receipts:
        for name in receipt.files:
            if columns := tables.get(name.partition("/")[0]):
                found = read(storage.join(output, name), columns)
                rows += found.slice(0, _MOST + 1).to_pylist()
        if len(rows) > _MOST:
            break
    rows.sort(key=lambda e: (e["source_file"], e.get("source_row") or 0, e.get("line") or 0))
    if num_rows <= _MOST:
        return "\n".join(_lines(rows, _folder(rows)))
    review, least = storage.join(output, REVIEW), list[JsonObject]()
    if storage.exists(review):
        least = read(review, WITHOUT_PROBABILITIES).slice(0, _FEW).to_pylist()
    folder = _folder([*rows, *least])
    lines = [f"the first of {count(num_rows, 'row')}:", *_lines(rows[:_FEW], folder)]
    if least:
        lines += ["", "the least certain rows:", *_lines(least, folder)]
    return "\n".join(lines)


def _folder(rows: Sequence[JsonObject]) -> str:
    """Return the longest folder, with a slash, that all pictures are in; "" if there is none."""
    paths = [row["path"] for row in rows]
    common: str = commonprefix(paths)  # noqa: RUF071 - commonpath changes s3://
    return common[: common.rfind("/") + 1]


def _lines(rows: Sequence[JsonObject], folder: str) -> Iterator[str]:
    """Yield a line for each row: picture, digits, confidence, and what is doubtful about it.

    Names of pictures are relative to the folder.
    """
    names = list[str]()
    for row in rows:
        names.append(shorten(printable(Origin.of(row).place[len(folder) :]), _NAME_WIDTH))
    width = max(map(len, [*names, "picture"]))
    found = [str(row.get("text", row.get("prediction", "-"))) for row in rows]
    title = "number" if any("text" in row for row in rows) else "digit"
    wide = max(map(len, [*found, title]))
    if rows:
        yield f"  {'picture':<{width}}  {title:>{wide}}  confidence"
    for name, digits, row in zip(names, found, rows, strict=True):
        if "reason" in row:
            why = printable(f"{row['reason']}: {row['detail']}")
            why = why if len(why) <= _NOTE_WIDTH else f"{why[: _NOTE_WIDTH - 3]}..."
            yield f"  {name:<{width}}  {digits:>{wide}}  {'':>10}  {why}"
            continue
        notes = []
        if row.get("label") not in (None, row.get("prediction")):
            notes.append(f"labelled {row['label']}")
        if (row.get("unfamiliarity") or 0) > UNFAMILIAR:
            notes.append("unfamiliar")
        share = floor(1000 * row["confidence"]) / 10  # only 1 is shown as 100 %
        line = f"  {name:<{width}}  {digits:>{wide}}  {share:8.1f} %"
        yield f"{line}  {', '.join(notes)}".rstrip()
