"""The files of an output, and the staging of new ones while the old ones are visible.

    OUT/_receipts/ID.json   receipt of a part; a part with a receipt is done
    OUT/_summary.json       sum of all receipts
    OUT/_metrics.jsonl      progress of the last command, with times
    OUT/_manifest.json      identity of the job; receipts and runs of the complete parts
    OUT/_SUCCESS            written last of all
    OUT/_next/...           staging: new files, while the old ones are still in place
    OUT/_next/_SUCCESS      they are complete, and take the place of the old ones
    OUT/_next/_cleared      what has no successor is removed; some files may have moved

Each staged file takes the place of the one of its name by one rename, in an object store by one
copy. A part is named for its input, so a reader of a file sees the rows of that input once, old or
new. What has no successor is removed before. A move of staged files that is killed is finished by
the next command; `_SUCCESS` is missing while it goes on.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from nanograd.errors import DataError, OutputExistsError, StorageError
from nanograd.jobs.receipts import Reading, Receipt, Retry, Written, files_of
from nanograd.runtime import json_files, storage

RECEIPTS, SUMMARY, METRICS = "_receipts", "_summary.json", "_metrics.jsonl"
MANIFEST, SUCCESS, STAGING = "_manifest.json", "_SUCCESS", "_next"
_CLEARED = "_cleared"
_PART_FILE = re.compile(r"^part-[0-9a-f]{16}(-\d+)?\.\w+$")
# Files that are read at once.
_NUM_THREADS = 16


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The content of a manifest."""

    job: Mapping[str, Any] = field(default_factory=dict)  # identity; empty without a manifest
    receipts: Sequence[Receipt] = ()  # of the complete parts
    runs: Sequence[Sequence[str]] = ()  # the parts that each complete command added
    retries: Sequence[Retry] = ()  # still to do

    @classmethod
    def read(cls, folder: str) -> "Manifest":
        """Read the manifest in a folder.

        Raises:
            DataError: it is missing or damaged.
        """
        values = json_files.read_manifest(storage.join(folder, MANIFEST))
        receipts = [Receipt.from_json(each) for each in values["receipts"]]
        retries = [
            Retry(Reading(*reading), None if inputs is None else tuple(inputs))
            for reading, inputs in values["retries"]
        ]
        return cls(job=values["job"], receipts=receipts, runs=values["runs"], retries=retries)

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
        receipts = [receipt.to_json() for receipt in self.receipts]
        values = {
            "job": self.job,
            "receipts": receipts,
            "runs": self.runs,
            "retries": self.retries,
        }
        json_files.commit_manifest(storage.join(folder, MANIFEST), values)


class OutputFile(NamedTuple):
    """A file in an output."""

    place: str  # path or URI
    num_bytes: int  # its size


def find_files(output: str, *, with_staged: bool = False) -> dict[str, OutputFile]:
    """Return all files in an output by their names in it.

    Args:
        output: folder or URI.
        with_staged: whether complete staged files count as if they had taken their places.

    Raises:
        DataError: the output does not exist.
        StorageError: it cannot be listed.
    """
    found = {
        file.removeprefix(f"{output}/"): OutputFile(file, num_bytes)
        for file, num_bytes, _ in storage.files_below(output)
    }
    if with_staged and f"{STAGING}/{SUCCESS}" in found:
        staged = [name for name in found if name.startswith(f"{STAGING}/")]
        found |= {name.removeprefix(f"{STAGING}/"): found[name] for name in staged}
    return found


def find_lost(
    receipts: Iterable[Receipt], found: Mapping[str, OutputFile], *, verify: bool = False
) -> set[str]:
    """Name the files of parts that are missing or have another size than their receipts say.

    Args:
        receipts: of the parts.
        found: the files in the output.
        verify: whether to read each file and compare its checksum, too.

    Raises:
        StorageError: a file cannot be read.
    """
    files = files_of(receipts)
    lost = {
        name
        for name, written in files.items()
        if name not in found or found[name].num_bytes != written.bytes
    }
    if verify:
        left = sorted(files.keys() - lost)
        with ThreadPoolExecutor(_NUM_THREADS) as pool:
            contents = pool.map(lambda name: storage.read(found[name].place), left)
            lost |= {
                name
                for name, data in zip(left, contents, strict=True)
                if storage.checksum(data) != files[name].sha256
            }
    return lost


def refuse_foreign(output: str, receipts: Iterable[Receipt], found: Iterable[str]) -> None:
    """Raise OutputExistsError for files that a reader would take for those of parts.

    They are in a folder of parts, or beside parts with the same ending. Hidden files, of file
    systems or of a commit that goes on after its part, do not count.
    """
    files = files_of(receipts)
    folders = {name.partition("/")[0] for name in files if "/" in name}
    endings = {PurePosixPath(name).suffix for name in files if "/" not in name}

    def looks_alike(name: str) -> bool:
        path = PurePosixPath(name)
        if any(each.startswith(".") for each in path.parts):
            return False
        if len(path.parts) > 1:
            return path.parts[0] in folders
        return not name.startswith("_") and path.suffix in endings

    if foreign := sorted(name for name in found if name not in files and looks_alike(name)):
        raise OutputExistsError(
            f"{output} holds {len(foreign):,} files that this job did not write, such as "
            f"{foreign[0]!r}; move them away, and run each job with an --output of its own"
        )


def check_files(folder: str, receipts: Sequence[Receipt]) -> None:
    """Check that the files of some parts, and no others, are in a folder.

    Raises:
        OutputExistsError: another file is among them.
        StorageError: a file is missing, or has another size.
    """
    found = find_files(folder)
    refuse_foreign(folder, receipts, found)
    if lost := find_lost(receipts, found):
        raise StorageError(
            f"{folder}: {len(lost):,} files were removed or cut after parts of this job wrote "
            f"them, such as {min(lost)!r}; find the cause, then start the same command again, "
            "which repeats these parts"
        )


def read_receipts(folder: str) -> dict[str, Receipt]:
    """Read the receipts in a folder that no manifest lists: those of killed commands."""
    names = [
        name for name in storage.names(storage.join(folder, RECEIPTS)) if name.endswith(".json")
    ]
    files = [storage.join(folder, RECEIPTS, name) for name in names]
    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        receipts = list(map(Receipt.from_json, pool.map(json_files.read_manifest, files)))
    return {receipt.part: receipt for receipt in receipts}


def commit_receipt(folder: str, receipt: Receipt) -> None:
    """Write a receipt, which makes its part a complete one."""
    json_files.commit_manifest(storage.join(folder, receipt_file(receipt)), receipt.to_json())


def commit_files(folder: str, files: Mapping[str, Any]) -> dict[str, Written]:
    """Write files, by their names in the folder; return their sizes and checksums."""
    for name, data in files.items():
        storage.commit(storage.join(folder, name), data)
    return {name: Written(len(data), storage.checksum(data)) for name, data in files.items()}


def receipt_file(receipt: Receipt) -> str:
    """Return the name of a receipt's file."""
    return f"{RECEIPTS}/{receipt.part}.json"


def remove_other_parts(
    folder: str, found: Mapping[str, Receipt], done: Mapping[str, Receipt]
) -> None:
    """Remove parts that are not done: planned otherwise, without a file, or half done.

    Args:
        folder: an output, or its staging.
        found: the receipts in it by their parts.
        done: those to keep.
    """
    others = [receipt for part, receipt in found.items() if part not in done]
    files = {*_part_files(folder), *files_of(others)} - files_of(done.values()).keys()
    for name in [*map(receipt_file, others), *files]:
        storage.remove(storage.join(folder, name))


def _part_files(folder: str, below: str = "") -> Iterator[str]:
    """Yield the names of parts' files, also in the folders by which an output is partitioned."""
    for name in storage.names(storage.join(folder, below.rstrip("/")) if below else folder):
        if _PART_FILE.match(name):
            yield f"{below}{name}"
        elif "=" in name or (not below and name not in (STAGING, RECEIPTS)):
            yield from _part_files(folder, f"{below}{name}/")


def move_staged(output: str, check: Callable[[], None]) -> None:
    """Move complete staged files over the old ones; do nothing if there are none.

    Args:
        output: folder or URI, locked by this process.
        check: called before each file is moved; raises once another process holds the output.

    Raises:
        DataError: the staged manifest is damaged; the old output stays.
        OutputExistsError: another file is among the new ones.
        StorageError: a file cannot be moved; a file of the new output is lost.
    """
    staging = storage.join(output, STAGING)
    waiting = storage.names(staging)
    if SUCCESS not in waiting:
        return
    if MANIFEST in waiting:
        staged = Manifest.read(staging)
        # A half must not pass for the whole: the mark of completeness goes first and comes last.
        storage.remove(storage.join(output, SUCCESS))
        if _CLEARED not in waiting:
            _remove_old(output, staged, set(waiting))
            storage.commit(storage.join(staging, _CLEARED), b"")
        names = [name for name in waiting if name not in (MANIFEST, SUCCESS, _CLEARED)]
        _move(staging, output, names, check)
        storage.move(storage.join(staging, MANIFEST), storage.join(output, MANIFEST))
    try:
        check_files(output, Manifest.read(output).receipts)
    except (OutputExistsError, StorageError):
        storage.remove(storage.join(staging, SUCCESS))  # the next command does the lost parts
        raise
    storage.move(storage.join(staging, SUCCESS), storage.join(output, SUCCESS))
    storage.remove(staging)


def _remove_old(output: str, staged: Manifest, others: set[str]) -> None:
    """Remove what the new output does not have, or only old parts if it is the same job's."""
    before = Manifest()
    with suppress(DataError):  # damaged: it may be overwritten
        before = Manifest.read(output)
    wanted = {*files_of(staged.receipts), *map(receipt_file, staged.receipts), *others}
    if before.job == staged.job:
        old = {*files_of(before.receipts), *map(receipt_file, before.receipts)} - wanted
    else:
        wanted |= {STAGING}
        folders = {name[:at] for name in wanted for at, each in enumerate(name) if each == "/"}
        old = set(_unwanted(output, wanted, folders))
    for name in sorted(old):
        storage.remove(storage.join(output, name))


def _unwanted(folder: str, wanted: set[str], folders: set[str], below: str = "") -> Iterator[str]:
    for name in storage.names(storage.join(folder, below.rstrip("/")) if below else folder):
        if f"{below}{name}" in folders:
            yield from _unwanted(folder, wanted, folders, f"{below}{name}/")
        elif f"{below}{name}" not in wanted:
            yield f"{below}{name}"


def _move(source: str, target: str, names: Iterable[str], check: Callable[[], None]) -> None:
    """Move files and folders over those of the same names."""
    existing = set(storage.names(target))
    for name in names:
        old, new = storage.join(source, name), storage.join(target, name)
        if name in existing and not storage.is_file(old):
            _move(old, new, storage.names(old), check)
        else:
            check()
            storage.move(old, new)
