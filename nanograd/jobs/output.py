"""The files of an output, and the staging of new files while the old ones are visible.

    OUT/_receipts/ID.json   receipt of a part; a part with a receipt is done
    OUT/_summary.json       sum of all receipts
    OUT/_metrics.jsonl      progress of the last command, with times
    OUT/_manifest.json      identity of the job; receipts and runs of the complete parts
    OUT/_SUCCESS            written last; marks a complete output
    OUT/_corrections.pq     decisions of a person, see `corrections`; no job changes or removes it
    OUT/_next/...           staging: new files, while the old ones are still in place
    OUT/_next/_SUCCESS      marks complete staged files, which can be moved
    OUT/_next/_cleared      old files without a new version are removed; the move may have begun

A staged file replaces the old file of the same name by one rename, or by one copy in an object
store. A file of a part is named after its input, so its rows are either all old or all new. Old
files without a new version are removed first. `_SUCCESS` is missing during the move. If the move is
interrupted, the next command finishes it.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from nanograd.errors import DataError, OutputExistsError, StorageError
from nanograd.jobs.receipts import Reading, Receipt, Retry, Written, files_of
from nanograd.runtime import json_files, storage
from nanograd.runtime.events import count
from nanograd.runtime.json_files import JsonObject

RECEIPTS, SUMMARY, METRICS = "_receipts", "_summary.json", "_metrics.jsonl"
MANIFEST, SUCCESS, STAGING = "_manifest.json", "_SUCCESS", "_next"
CORRECTIONS = "_corrections.pq"
_CLEARED = "_cleared"
# The name of a file of a part, which may be in the folders of --partition-by.
_PART_FILE = re.compile(r"([^/]+/)?([^/=]+=[^/]*/)*part-[0-9a-f]{16}(-\d+)?\.\w+")
# Number of files that are read at the same time.
_NUM_THREADS = 16


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The content of a manifest."""

    job: JsonObject = field(default_factory=dict)  # identity; empty without a manifest
    receipts: Sequence[Receipt] = ()  # receipts of the complete parts
    runs: Sequence[Sequence[str]] = ()  # ids of the parts that each complete command added
    retries: Sequence[Retry] = ()  # retries that are still to do

    @classmethod
    def read(cls, folder: str) -> "Manifest":
        """Read the manifest in a folder; DataError if it is missing or damaged."""
        values = json_files.read_manifest(storage.join(folder, MANIFEST))
        values["receipts"] = [Receipt.from_json(each) for each in values["receipts"]]
        values["retries"] = [
            Retry(Reading(*reading), None if inputs is None else tuple(inputs))
            for reading, inputs in values["retries"]
        ]
        return cls(**values)

    @classmethod
    def find(cls, output: str) -> "Manifest":
        """Read the manifest of an output, or of complete staged files; empty if it has none."""
        names = storage.names(output)
        staging = storage.join(output, STAGING)
        if STAGING in names and {MANIFEST, SUCCESS} <= set(storage.names(staging)):
            return cls.read(staging)
        return cls.read(output) if MANIFEST in names else cls()

    def commit(self, folder: str) -> None:
        """Write the manifest of a folder."""
        values = {**vars(self), "receipts": [receipt.to_json() for receipt in self.receipts]}
        json_files.commit_manifest(storage.join(folder, MANIFEST), values)


def find_files(output: str, *, with_staged: bool = False) -> dict[str, tuple[str, int]]:
    """Return path (or URI) and size of all files in an output, by their names in the output.

    With `with_staged`, complete staged files count as if they were moved already.
    """
    listed = storage.files_below(output)
    found = {place.removeprefix(f"{output}/"): (place, size) for place, size, _ in listed}
    if with_staged and f"{STAGING}/{SUCCESS}" in found:
        staged = [name for name in found if name.startswith(f"{STAGING}/")]
        found |= {name.removeprefix(f"{STAGING}/"): found[name] for name in staged}
    return found


def find_lost(
    receipts: Iterable[Receipt], found: Mapping[str, tuple[str, int]], *, verify: bool = False
) -> set[str]:
    """Return the names of files that are missing or differ in size from their receipt.

    Args:
        receipts: receipts of the parts to check.
        found: result of `find_files`.
        verify: whether to read every file and compare its checksum, too.
    """
    files = files_of(receipts)
    lost = {
        name
        for name, written in files.items()
        if name not in found or found[name][1] != written.bytes
    }
    if verify:
        left = sorted(files.keys() - lost)
        with ThreadPoolExecutor(_NUM_THREADS) as pool:
            sums = pool.map(lambda name: storage.checksum(storage.read(found[name][0])), left)
            lost |= {n for n, sha256 in zip(left, sums, strict=True) if sha256 != files[n].sha256}
    return lost


def refuse_foreign(output: str, receipts: Iterable[Receipt], found: Iterable[str]) -> None:
    """Raise OutputExistsError for files that a reader would mistake for files of parts.

    Such a file is in a folder with files of parts, or is beside them with the same suffix. Hidden
    files are ignored: file systems create some, and a commit may still be writing one.
    """
    files, foreign = files_of(receipts), list[str]()
    folders = {name.partition("/")[0] for name in files if "/" in name}
    endings = {PurePosixPath(name).suffix for name in files if "/" not in name}
    for name in found:
        path = PurePosixPath(name)
        if len(path.parts) > 1:
            looks_alike = path.parts[0] in folders
        else:
            looks_alike = not name.startswith("_") and path.suffix in endings
        is_hidden = any(each.startswith(".") for each in path.parts)
        if looks_alike and not is_hidden and name not in files:
            foreign.append(name)
    if foreign:
        text = f"{output} holds {count(len(foreign), 'file')} that this job did not write, such as"
        raise OutputExistsError(f"{text} {min(foreign)!r}; move them away")


def check_files(folder: str, receipts: Sequence[Receipt]) -> None:
    """Raise StorageError if a file of parts is lost, OutputExistsError if one is foreign."""
    found = find_files(folder)
    refuse_foreign(folder, receipts, found)
    if lost := find_lost(receipts, found):
        number = count(len(lost), "file")
        text = f"{folder} has lost {number} meanwhile (removed or cut), such as {min(lost)!r}"
        raise StorageError(f"{text}; start the same command again, which repeats their parts")


def read_receipts(folder: str) -> dict[str, Receipt]:
    """Read all receipts in a folder, by the ids of their parts."""
    names = storage.names(storage.join(folder, RECEIPTS))
    files = [storage.join(folder, RECEIPTS, name) for name in names if name.endswith(".json")]
    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        receipts = list(map(Receipt.from_json, pool.map(json_files.read_manifest, files)))
    return {receipt.part: receipt for receipt in receipts}


def commit_receipt(folder: str, receipt: Receipt) -> None:
    """Write a receipt. From then on its part counts as done."""
    json_files.commit_manifest(f"{folder}/{RECEIPTS}/{receipt.part}.json", receipt.to_json())


def commit_files(folder: str, files: Mapping[str, Any]) -> dict[str, Written]:
    """Write files under their names in the folder; return their sizes and checksums."""

    def commit(name: str, data: Any) -> Written:
        storage.commit(storage.join(folder, name), data)
        return Written(len(data), storage.checksum(data))

    with ThreadPoolExecutor(_NUM_THREADS) as pool:  # most of the time is waiting for the disk
        return dict(zip(files, pool.map(commit, files, files.values()), strict=True))


def remove_other_parts(
    folder: str, files: Iterable[str], found: Mapping[str, Receipt], done: Mapping[str, Receipt]
) -> None:
    """Remove the files of parts that are unplanned, have no receipt, or have lost files.

    Args:
        folder: an output, or its staging.
        files: the names of the files in the folder.
        found: the receipts in the folder, by the ids of the parts.
        done: the receipts of the parts whose files stay.
    """
    others = _names(receipt for part, receipt in found.items() if part not in done)
    parts = {name for name in files if _PART_FILE.fullmatch(name)}
    for name in sorted((others | parts) - _names(done.values())):
        storage.remove(storage.join(folder, name))


def move_staged(output: str, check: Callable[[], None]) -> None:
    """Move complete staged files over the old ones; do nothing if there are none.

    Args:
        output: folder or URI, locked by this process.
        check: called before each file is moved; raises if another process has locked the output.

    Raises:
        DataError: the staged manifest is damaged. The old output is unchanged.
        OutputExistsError: a file of another program is among the new files.
        StorageError: a file of the new output is missing or cut.
    """
    staging = storage.join(output, STAGING)
    waiting = storage.names(staging)
    if SUCCESS not in waiting:
        return
    if MANIFEST in waiting:
        staged = Manifest.read(staging)
        # Remove `_SUCCESS` first and write it last, so that a partial output is never complete.
        storage.remove(storage.join(output, SUCCESS))
        if _CLEARED not in waiting:
            for name in sorted(_replaced(output, staged, waiting)):
                storage.remove(storage.join(output, name))
            storage.commit(storage.join(staging, _CLEARED), b"")
        names = [name for name in waiting if name not in (MANIFEST, SUCCESS, _CLEARED)]
        _move(staging, output, names, check)
        storage.move(storage.join(staging, MANIFEST), storage.join(output, MANIFEST))
    try:
        check_files(output, Manifest.read(output).receipts)
    except (OutputExistsError, StorageError):
        storage.remove(storage.join(staging, SUCCESS))  # the next command repeats the lost parts
        raise
    storage.move(storage.join(staging, SUCCESS), storage.join(output, SUCCESS))
    storage.remove(staging)


def _replaced(output: str, staged: Manifest, waiting: Iterable[str]) -> set[str]:
    """Return the names of old files without a new version; in the same job, only files of parts."""
    before = Manifest()
    with suppress(DataError):  # a damaged manifest may be overwritten
        before = Manifest.read(output)
    wanted = {*_names(staged.receipts), *waiting}
    if before.job == staged.job:
        return _names(before.receipts) - wanted
    wanted |= {STAGING, CORRECTIONS}
    folders = {name[:at] for name in wanted for at, each in enumerate(name) if each == "/"}

    def unwanted(folder: str) -> Iterator[str]:
        for each in storage.names(storage.join(output, folder).rstrip("/")):
            name = f"{folder}{each}"
            if name in folders:
                yield from unwanted(f"{name}/")
            elif name not in wanted:
                yield name

    return set(unwanted(""))


def _move(source: str, target: str, names: Iterable[str], check: Callable[[], None]) -> None:
    """Move files and folders from a folder to another, and replace files of the same names."""
    existing = set(storage.names(target))
    for name in names:
        old, new = storage.join(source, name), storage.join(target, name)
        if name in existing and not storage.is_file(old):
            _move(old, new, storage.names(old), check)
        else:
            check()
            storage.move(old, new)


def _names(receipts: Iterable[Receipt]) -> set[str]:
    """Return the names of the files of parts and of their receipts."""
    receipts = list(receipts)
    return {*files_of(receipts), *(f"{RECEIPTS}/{receipt.part}.json" for receipt in receipts)}
