"""An output of predictions that changes, and the rows in it."""

from pathlib import Path

import pyarrow.parquet as pq

from nanograd.runtime import json_files

FILE_ROWS = 7


def sources(out: Path) -> list[tuple[str, int]]:
    rows = [
        row
        for name in ("predictions", "quarantine")
        for row in pq.read_table(out / name, columns=["source_file", "source_row"]).to_pylist()
    ]
    return sorted((Path(row["source_file"]).stem, row["source_row"]) for row in rows)


def runs(out: Path) -> list[int]:
    return [len(parts) for parts in json_files.read_manifest(f"{out}/_manifest.json")["runs"]]


def every_row(*numbers: int) -> list[tuple[str, int]]:
    return [(f"{number:05d}", row) for number in numbers for row in range(FILE_ROWS)]


def unlisted(out: Path) -> set[str]:
    """Files of rows that the manifest does not list."""
    receipts = json_files.read_manifest(f"{out}/_manifest.json")["receipts"]
    listed = {name for receipt in receipts for name in receipt["files"]}
    found = {str(file.relative_to(out)) for file in out.glob("[pq]*/**/*") if file.is_file()}
    return found - listed
