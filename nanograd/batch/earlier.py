"""The parts that earlier commands of the same job completed, compared with the input of today."""

from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from nanograd.batch.part import Receipt
from nanograd.errors import DataError, OutputExistsError
from nanograd.runtime import json_files, storage
from nanograd.runtime.events import Listener, ignore, info, warning

MANIFEST = "_manifest.json"


class Earlier(NamedTuple):
    """Parts of a complete output, divided by what became of their files."""

    kept: tuple[Receipt, ...] = ()  # as they were, or removed since
    stale: tuple[Receipt, ...] = ()  # to be replaced or dropped

    def has_files_in(self, *folders: str) -> bool:
        """Return whether the parts that stay have files in each of some folders."""
        names = [name for receipt in self.kept for name in receipt["files"]]
        return all(any(name.startswith(f"{each}/") for name in names) for each in folders)

    def with_files_in(self, *folders: str) -> "Earlier":
        """Return these parts, the smallest one stale if those that stay leave a folder empty."""
        if not (self.stale and self.kept) or self.has_files_in(*folders):
            return self
        inputs = min(self.kept, key=lambda receipt: (receipt["rows"], receipt["part"]))["inputs"]
        again = [receipt for receipt in self.kept if set(inputs).intersection(receipt["inputs"])]
        kept = [receipt for receipt in self.kept if receipt not in again]
        return Earlier(tuple(kept), (*self.stale, *again))

    def retries(self) -> list[dict[str, Any]]:
        """Return the other options with which the rows of stale parts were read again."""
        found: list[dict[str, Any]] = []
        for receipt in self.stale:
            found += [each for each in receipt.get("retries", ()) if each not in found]
        return found

    def files(self) -> set[str]:
        """Return the input files that are not read again."""
        return {file for receipt in self.kept for file in receipt["inputs"]}


def find_earlier(
    place: str,
    settings: Mapping[str, Any],
    versions: Mapping[str, tuple[int | None, ...]],
    *,
    sync: bool = False,
    retry: bool = False,
    listener: Listener = ignore,
) -> Earlier:
    """Find the complete parts of a job in its output.

    Args:
        place: output folder or URI.
        settings: of the job; the output of other settings has no parts of it.
        versions: present version of each input file, with which that of a receipt begins.
        sync: whether parts of changed and removed files are stale.
        retry: whether parts with quarantined rows are stale.
        listener: receives a warning about removed files.

    Raises:
        OutputExistsError: a file has changed that is not to be read again.
        DataError: the manifest is damaged.
    """
    manifest = read_manifest(place)
    job = manifest.get("job", {})
    if any(job.get(name) != value for name, value in settings.items()):
        return Earlier()
    receipts = manifest.get("receipts", [])
    read = {
        file: version
        for receipt in receipts
        for file, version in zip(receipt["inputs"], receipt["versions"], strict=True)
    }
    removed = read.keys() - versions.keys()
    changed = {
        file
        for file in read.keys() & versions.keys()
        if read[file][: len(versions[file])] != list(versions[file])
    }
    again = (changed | removed) if sync else set[str]()
    if retry:
        gone = set[str]() if sync else removed
        again |= {
            file
            for each in receipts
            if each["quarantined"] and gone.isdisjoint(each["inputs"])
            for file in each["inputs"]
        }
    stale = [receipt for receipt in receipts if again.intersection(receipt["inputs"])]
    again = {file for receipt in stale for file in receipt["inputs"]}
    if changed - again:
        raise OutputExistsError(
            f"{len(changed):,} input files or their labels have changed since {place} was made, "
            f"such as {min(changed)}; replace their rows with --sync, or choose another --output"
        )
    if removed - again:
        text = f"{len(removed):,} input files of {place} no longer exist, such as {min(removed)}"
        listener(warning(f"{text}; their rows are kept (--sync drops them)"))
    for files, what in (
        (changed, "replaces the rows of changed"),
        (removed, "drops those of removed"),
    ):
        if sync and files:
            listener(info(f"--sync {what} input files: {len(files):,}, such as {min(files)}"))
    kept = [receipt for receipt in receipts if not again.intersection(receipt["inputs"])]
    return Earlier(tuple(kept), tuple(stale))


def rejected_by_ingest(inputs: Iterable[str]) -> dict[str, int]:
    """Count the pictures that `ingest` put into quarantine in its outputs, by their reasons."""
    counts: Counter[str] = Counter()
    for place in dict.fromkeys(map(storage.absolute, inputs)):
        with suppress(DataError):  # a manifest of another program
            manifest = read_manifest(place)
            if manifest.get("job", {}).get("command") == "ingest":
                for receipt in manifest["receipts"]:
                    counts.update(receipt["reasons"])
    return dict(sorted(counts.items()))


def read_manifest(place: str) -> dict[str, Any]:
    """Return the manifest of an output; {} if it has none."""
    if MANIFEST not in storage.names(place):
        return {}
    return json_files.read_manifest(storage.join(place, MANIFEST))
