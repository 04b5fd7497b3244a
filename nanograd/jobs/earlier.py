"""The parts that earlier commands of the same job completed, compared with the input of today."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from nanograd.errors import DataError, OutputExistsError
from nanograd.jobs.part import OutputFile, Receipt, find_files, find_lost
from nanograd.runtime import json_files, storage
from nanograd.runtime.events import Listener, ignore, info, warning

MANIFEST, SUCCESS = "_manifest.json", "_SUCCESS"
# Folder of a replacement in its output; once `_SUCCESS` is in it, it takes the place of the rest.
NEXT = "_next"


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
    content_of: Callable[[str], str | None],
    *,
    sync: bool = False,
    retry: bool = False,
    verify: bool = False,
    listener: Listener = ignore,
) -> Earlier:
    """Find the complete parts of a job in its output.

    A part is stale if one of its files is missing or has another size than its receipt says.

    Args:
        place: output folder or URI.
        settings: of the job; the output of other settings has no parts of it.
        versions: present version of each input file, with which that of a receipt begins.
        content_of: identifies the content of a file, as receipts do. It is called for files that
            may have another name or another content than before, and are of the same size.
        sync: whether parts of changed and removed files are stale.
        retry: whether parts with quarantined rows are stale.
        verify: whether parts with files of another checksum are stale.
        listener: receives a warning about removed and lost files.

    Raises:
        OutputExistsError: a file has changed, or has another name, that is not to be read again.
        DataError: the manifest is damaged; a file of the output is lost, and with it its input.
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
    contents = {
        file: content
        for receipt in receipts
        for file, content in zip(receipt["inputs"], receipt["contents"], strict=True)
        if content is not None
    }
    removed = read.keys() - versions.keys()
    changed = {
        file
        for file in read.keys() & versions.keys()
        if read[file][: len(versions[file])] != list(versions[file])
        and not (
            _without_links(read[file][: len(versions[file])]) == _without_links(versions[file])
            and file in contents
            and content_of(file) == contents[file]
        )
    }
    again = (changed | removed) if sync else set[str]()
    gone = set[str]() if sync else removed
    again |= _inputs_of_lost(place, receipts, gone, verify=verify, listener=listener)
    if retry:
        again |= {
            file
            for each in receipts
            if (each["quarantined"] or each.get("broken_files")) and gone.isdisjoint(each["inputs"])
            for file in each["inputs"]
        }
    stale = [receipt for receipt in receipts if again.intersection(receipt["inputs"])]
    again = {file for receipt in stale for file in receipt["inputs"]}
    if changed - again:
        raise OutputExistsError(
            f"{len(changed):,} input files or their labels have changed since {place} was made, "
            f"such as {min(changed)}; replace their rows with --sync, or choose another --output"
        )
    gone = removed - again
    if renamed := _find_renamed(
        {file: (read[file][0], contents[file]) for file in gone & contents.keys()},
        {file: versions[file][0] for file in versions.keys() - read.keys()},
        content_of,
    ):
        new, old = min(renamed.items())
        raise OutputExistsError(
            f"{len(renamed):,} input files have another name than when {place} was made, such as "
            f"{new}, which was {old}: their rows would be there twice; replace these with --sync, "
            "or give the files their names back"
        )
    if gone:
        text = f"{len(gone):,} input files of {place} no longer exist, such as {min(gone)}"
        listener(warning(f"{text}; their rows are kept (--sync drops them)"))
    for files, what in (
        (changed, "replaces the rows of changed"),
        (removed, "drops those of removed"),
    ):
        if sync and files:
            listener(info(f"--sync {what} input files: {len(files):,}, such as {min(files)}"))
    kept = [receipt for receipt in receipts if not again.intersection(receipt["inputs"])]
    return Earlier(tuple(kept), tuple(stale))


def _without_links(version: Sequence[int | None]) -> list[int | None]:
    """Leave out ctime and inode, which change with links, rights and copies to another disk."""
    return [*version[:2], *version[4:]]


def _find_renamed(
    gone: Mapping[str, tuple[int, str]],
    new: Mapping[str, int | None],
    content_of: Callable[[str], str | None],
) -> dict[str, str]:
    """Find the former names of new files, by their content where a file of their size is gone.

    Args:
        gone: size and content of the files that are not there any more.
        new: size of the files that were not there before.
        content_of: identifies the content of a file.
    """
    sizes, names = {size for size, _ in gone.values()}, {each: file for file, each in gone.items()}
    found = {
        file: names.get((size, str(content_of(file))))
        for file, size in new.items()
        if size in sizes and size
    }
    return {file: name for file, name in found.items() if name is not None}


def _inputs_of_lost(
    place: str, receipts: list[Receipt], gone: set[str], *, verify: bool, listener: Listener
) -> set[str]:
    """Find the input files of parts whose files in the output are lost."""
    lost = find_lost(receipts, _find_standing(place), verify=verify)
    if not lost:
        return set()
    stale = [receipt for receipt in receipts if lost.intersection(receipt["files"])]
    inputs = {file for receipt in stale for file in receipt["inputs"]}
    text = f"{len(lost):,} files of {place} are missing or damaged, such as {min(lost)!r}"
    if inputs & gone:
        raise DataError(
            f"{text}, and so is the input {min(inputs & gone)}; restore one of them, or drop the "
            "rows with --sync"
        )
    listener(warning(f"{text}; their parts are done again"))
    return inputs


def _find_standing(place: str) -> dict[str, OutputFile]:
    """Find the files of an output, as they are after the end of a replacement that was killed."""
    found, below = find_files(place), f"{NEXT}/"
    if below + SUCCESS not in found:
        return found
    return found | {
        name.removeprefix(below): file for name, file in found.items() if name.startswith(below)
    }


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
    """Return the manifest of an output, or of its complete replacement; {} if it has none."""
    names = storage.names(place)
    if NEXT in names and {MANIFEST, SUCCESS} <= set(storage.names(storage.join(place, NEXT))):
        return json_files.read_manifest(storage.join(place, NEXT, MANIFEST))
    return json_files.read_manifest(storage.join(place, MANIFEST)) if MANIFEST in names else {}
