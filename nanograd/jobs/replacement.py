"""The replacement of an output, or of some of its parts, by new ones that are complete.

    OUT/_next/...           the new files, while the old ones are still in place
    OUT/_next/_SUCCESS      they are complete, and take the place of the old ones
    OUT/_next/_cleared      what has no successor is removed; some files may have moved

Each file takes the place of the one of its name by one rename, in an object store by one copy. A
part is named for its input, so a file that is read in the meantime has the rows of that input once,
old or new. What has no successor is removed before. A replacement that is killed is finished by the
next command; `_SUCCESS` is missing while it goes on.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any

from nanograd.errors import DataError, OutputExistsError, StorageError
from nanograd.jobs.earlier import MANIFEST, NEXT, SUCCESS
from nanograd.jobs.part import RECEIPTS, Receipt, check_files, files_of
from nanograd.runtime import json_files, storage

SUMMARY, METRICS = "_summary.json", "_metrics.jsonl"
_CLEARED = "_cleared"
_PART_FILE = re.compile(r"^part-[0-9a-f]{16}(-\d+)?\.\w+$")


def finish_replacement(place: str, check: Callable[[], None]) -> None:
    """Move complete new files into the place of the old ones; do nothing if there are none.

    Args:
        place: output folder or URI, locked by this process.
        check: called before each file is moved; raises once another process holds the place.

    Raises:
        DataError: the new output's manifest is damaged; the old one stays.
        OutputExistsError: another file stands among the new ones.
        StorageError: a file cannot be moved; a file of the new output is lost.
    """
    stage = storage.join(place, NEXT)
    waiting = storage.names(stage)
    if SUCCESS not in waiting:
        return
    if MANIFEST in waiting:
        manifest = json_files.read_manifest(storage.join(stage, MANIFEST))
        # A half must not pass for the whole: the mark of completeness goes first and comes last.
        storage.remove(storage.join(place, SUCCESS))
        if _CLEARED not in waiting:
            _remove_old(place, manifest, set(waiting))
            storage.commit(storage.join(stage, _CLEARED), b"")
        names = [name for name in waiting if name not in (MANIFEST, SUCCESS, _CLEARED)]
        _move_into(stage, place, names, check)
        storage.move(storage.join(stage, MANIFEST), storage.join(place, MANIFEST))
    try:
        check_files(place, json_files.read_manifest(storage.join(place, MANIFEST))["receipts"])
    except (OutputExistsError, StorageError):
        storage.remove(storage.join(stage, SUCCESS))  # the next command does the lost parts
        raise
    storage.move(storage.join(stage, SUCCESS), storage.join(place, SUCCESS))
    storage.remove(stage)


def receipt_of(receipt: Receipt) -> str:
    """Return the name of a receipt's file."""
    return f"{RECEIPTS}/{receipt['part']}.json"


def part_files(place: str, below: str = "") -> Iterator[str]:
    """Yield the names of parts in an output, and in the folders by which it is partitioned."""
    for name in storage.names(storage.join(place, below.rstrip("/")) if below else place):
        if _PART_FILE.match(name):
            yield f"{below}{name}"
        elif "=" in name or (not below and name not in (NEXT, RECEIPTS)):
            yield from part_files(place, f"{below}{name}/")


def _remove_old(place: str, manifest: dict[str, Any], others: set[str]) -> None:
    """Remove what the new output does not have, or only old parts if it is the same job's."""
    before: dict[str, Any] = {}
    with suppress(DataError):  # damaged: it may be overwritten
        before = json_files.read_manifest(storage.join(place, MANIFEST))
    receipts = manifest["receipts"]
    wanted = {*files_of(receipts), *map(receipt_of, receipts), *others}
    if before.get("job") == manifest["job"]:
        old = {*files_of([*before["receipts"], before["gathered"]])}
        old |= set(map(receipt_of, before["receipts"]))
        for name in sorted(old - wanted):
            storage.remove(storage.join(place, name))
    else:
        folders = {name[:at] for name in wanted for at, each in enumerate(name) if each == "/"}
        _prune(place, wanted | {NEXT}, folders)


def _prune(place: str, wanted: set[str], folders: set[str], below: str = "") -> None:
    for name in storage.names(storage.join(place, below.rstrip("/")) if below else place):
        path = f"{below}{name}"
        if path in folders:
            _prune(place, wanted, folders, f"{path}/")
        elif path not in wanted:
            storage.remove(storage.join(place, path))


def _move_into(source: str, target: str, names: Iterable[str], check: Callable[[], None]) -> None:
    """Move files and folders over those of the same names."""
    existing = set(storage.names(target))
    for name in names:
        old, new = storage.join(source, name), storage.join(target, name)
        if name in existing and not storage.is_file(old):
            _move_into(old, new, storage.names(old), check)
        else:
            check()
            storage.move(old, new)
