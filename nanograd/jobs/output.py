"""The files of an output, the parts of it to keep, and the staging of new files.

    OUT/_receipts/ID.json   receipt of a part; a part with a receipt is done
    OUT/_summary.json       sum of all receipts
    OUT/_metrics.jsonl      progress of the last command, with times
    OUT/_manifest.json      identity of the job, a copy of all receipts, and for each complete
                            command the ids of the parts that it added
    OUT/_SUCCESS            written last; marks a complete output
    OUT/_corrections.pq     decisions of a person, see `report.review`; no job changes or removes it
    OUT/_next/...           staging: new files, while the old ones are still in place
    OUT/_next/_SUCCESS      marks complete staged files, which can be moved

A staged file replaces the old file of the same name by one rename, or by one copy in an object
store. A file of a part is named after its input, so its rows are either all old or all new. Old
files without a new version are removed first, then the old manifest. `_SUCCESS` is missing during
the move. If the move is interrupted, the next command finishes it.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from nanograd.errors import DataError, OutputExistsError, StorageError
from nanograd.images.inputs import Version
from nanograd.images.writers import QUARANTINE, read
from nanograd.jobs.receipts import Receipt, Written
from nanograd.pictures.archives import SUFFIX
from nanograd.runtime import json_files, storage
from nanograd.runtime.events import Listener, count, info, warning
from nanograd.runtime.json_files import JsonObject
from nanograd.settings.specs import PartsSpec, ReadOptions

RECEIPTS, SUMMARY, METRICS = "_receipts", "_summary.json", "_metrics.jsonl"
# Types of the values in the lines of METRICS that are read.
PROGRESS = {"time_s": float | int, "row": int, "quarantined": int, "rows_per_s": float | int}
MANIFEST, SUCCESS, STAGING = "_manifest.json", "_SUCCESS", "_next"
CORRECTIONS, REVIEW = "_corrections.pq", "_review.pq"
# The name of a file of a part, which may be in the folders of --partition-by, or of an empty table.
_FOLDERS = r"(predictions|quarantine|numbers|_quarantine|_review)/([^/=]+=[^/]*/)*"
_PART_FILE = re.compile(rf"({_FOLDERS})?part-([0-9a-f]{{16}}(-\d+)?|0)\.\w+")
# Other files of a job, besides receipts, manifest and `_SUCCESS`.
_OTHERS = {SUMMARY, METRICS, REVIEW, "report.html"}


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The content of a manifest."""

    job: JsonObject = field(default_factory=dict)  # identity; empty without a manifest
    receipts: Sequence[Receipt] = ()  # receipts of the complete parts
    runs: Sequence[Sequence[str]] = ()  # ids of the parts that each complete command added

    @classmethod
    def read(cls, folder: str) -> "Manifest":
        """Read the manifest in a folder; DataError if it is missing or damaged."""
        values = json_files.read_manifest(storage.join(folder, MANIFEST))
        values["receipts"] = [Receipt.from_json(each) for each in values["receipts"]]
        return cls(**values)

    @classmethod
    def find(cls, output: str) -> "Manifest":
        """Read the manifest of an output, or of complete staged files; empty if it has none."""
        names = storage.names(output)
        staging = storage.join(output, STAGING)
        if STAGING in names and {MANIFEST, SUCCESS} <= set(storage.names(staging)):
            return cls.read(staging)
        try:
            return cls.read(output) if MANIFEST in names else cls()
        except DataError as error:
            raise DataError(
                f"{error}; restore it or replace the output with --overwrite"
            ) from error

    def commit(self, folder: str) -> None:
        """Write the manifest of a folder."""
        values = {**vars(self), "receipts": [receipt.to_json() for receipt in self.receipts]}
        json_files.commit_manifest(storage.join(folder, MANIFEST), values)


class Earlier(NamedTuple):
    """The parts of a complete output: those to keep, and those to replace or drop."""

    kept: tuple[Receipt, ...] = ()  # their input is unchanged, or was removed without `sync`
    stale: tuple[Receipt, ...] = ()  # to be replaced or dropped

    def files(self) -> set[str]:
        """Return the input files of the parts to keep, which are not read again."""
        return {file for receipt in self.kept for file in receipt.inputs}

    def readings(self) -> dict[str, tuple[ReadOptions, ...]]:
        """Return the longest `readings` of each input file; its other receipts have their first."""
        receipts = sorted((*self.kept, *self.stale), key=lambda receipt: len(receipt.readings))
        return {file: receipt.readings for receipt in receipts for file in receipt.inputs}


def find_files(output: str, *, with_staged: bool = False) -> dict[str, tuple[str, int]]:
    """Map the name of each file in an output to its path (or URI) and its size.

    With `with_staged`, files of a finished job that are still in the staging folder count as if
    they were in the output already, if all of them were written.
    """
    listed = storage.files_below(output)
    found = {place.removeprefix(f"{output}/"): (place, size) for place, size, _ in listed}
    if with_staged and f"{STAGING}/{SUCCESS}" in found:
        staged = [name for name in found if name.startswith(f"{STAGING}/")]
        found |= {name.removeprefix(f"{STAGING}/"): found[name] for name in staged}
    return found


def files_of(receipts: Iterable[Receipt]) -> dict[str, Written]:
    """Return size and checksum of each output file of parts, by its name in the output."""
    return {name: written for receipt in receipts for name, written in receipt.files.items()}


def find_lost(
    receipts: Iterable[Receipt], found: Mapping[str, tuple[str, int]], *, verify: bool = False
) -> set[str]:
    """Return the names of files that are not in `found`, or differ in size from their receipt.

    With `verify`, also read every file and compare its checksum.
    """
    files = files_of(receipts)
    lost = {
        name
        for name, written in files.items()
        if name not in found or found[name][1] != written.bytes
    }
    if verify:
        left = sorted(files.keys() - lost)
        sums = storage.map_all(lambda name: storage.checksum(storage.read(found[name][0])), left)
        lost |= {n for n, sha256 in zip(left, sums, strict=True) if sha256 != files[n].sha256}
    return lost


def find_earlier(
    spec: PartsSpec,
    identity: JsonObject,
    versions: Mapping[str, Version],
    content_of: Callable[[str], str | None],
    listener: Listener,
    *,
    retry: bool = False,
) -> Earlier:
    """Find the complete parts of a job in its output.

    A part is stale if one of its output files is missing or differs in size from its receipt. With
    `verify`, a part is also stale if a checksum differs. With `sync`, it is also stale if one of
    its input files has changed or was removed, and with `retry`, if a file with quarantined rows
    has changed. An output with another identity counts as empty.

    `versions` has the size and times of each input file that exists. A version in a receipt may
    have more values, such as the label of a picture. `content_of`, which identifies the content of
    a file, is called only for files that may be changed or renamed and have the same size as
    before.

    Raises:
        OutputExistsError: an input file was changed or renamed, and its part is not stale.
        DataError: the manifest is damaged, or an output file is lost and its input was removed.
    """
    if spec.overwrite:
        return Earlier()
    manifest = Manifest.find(spec.output)
    receipts = [receipt for receipt in manifest.receipts if receipt.inputs]
    if not receipts or any(manifest.job.get(name) != value for name, value in identity.items()):
        return Earlier()
    inputs = [each for r in receipts for each in zip(r.inputs, r.versions, r.contents, strict=True)]
    read = {file: version for file, version, _ in inputs}
    contents = {file: content for file, _, content in inputs if content is not None}

    def has_changed(file: str) -> bool:
        now = versions[file]
        before = read[file][: len(now)]
        if before == now:
            return False
        # `touch`, links and copies change only times and inode number, items 1 to 3. In an object
        # store, the content is not known for certain, so the time counts.
        end = 2 if storage.is_remote(file) else 1
        is_same = (*before[:end], *before[4:]) == (*now[:end], *now[4:])
        # A picture that cannot be read now, such as one without permission, keeps its row.
        return not (is_same and file in contents and content_of(file) in (None, contents[file]))

    removed = read.keys() - versions.keys()
    # A damaged archive is listed itself, and an intact one by its pictures.
    damaged = tuple(f"{file}/" for file in versions if file.lower().endswith(SUFFIX))
    listed_anew = {
        file
        for file in removed
        if file.startswith(damaged)
        or (file.lower().endswith(SUFFIX) and any(e.startswith(f"{file}/") for e in versions))
    }
    removed -= listed_anew
    changed = {file for file in read.keys() & versions.keys() if has_changed(file)} | listed_anew
    gone = set[str]() if spec.sync else removed
    again = _inputs_of_lost(spec, receipts, gone, listener)
    if spec.sync:
        again |= changed | removed
    if retry and changed:
        rejected = _quarantined(
            spec.output, (r for r in receipts if (gone | again).isdisjoint(r.inputs))
        )
        again |= {file for file in changed if storage.as_text(file) in rejected}
    others = changed - again
    stale = tuple(receipt for receipt in receipts if again.intersection(receipt.inputs))
    again = {file for receipt in stale for file in receipt.inputs}
    gone = gone - again
    if others:
        labels = {file: versions[file][4:] for file in others - listed_anew}  # () for tables
        is_other = any(label and label != read[file][4:] for file, label in labels.items())
        text = f"{count(len(others), 'input file')} changed{', or got another label,' * is_other}"
        text += f" since {spec.output} was made, such as {min(others)}"
        raise OutputExistsError(f"{text}; --sync replaces the rows")
    lacking = {(read[file][0], contents[file]): file for file in gone & contents.keys()}
    sizes = {size for size, _ in lacking}
    added = [file for file in versions.keys() - read.keys() if versions[file][0] in sizes - {0}]
    known = {file: (versions[file][0], content_of(file) or "") for file in added}
    if renamed := {file: lacking[each] for file, each in known.items() if each in lacking}:
        raise _renamed_error(spec.output, renamed, gone.difference(renamed.values()))
    if gone:
        text = f"no longer in the input: {count(len(gone), 'input file')} of {spec.output}, such as"
        listener(warning(f"{text} {min(gone)}; the rows are kept (--sync drops them)"))
    for files, verb, kind in ((changed, "replaces", "changed"), (removed, "drops", "removed")):
        if spec.sync and files:
            number = count(len(files), f"{kind} input file")
            listener(info(f"--sync {verb} the rows of {number}, such as {min(files)}"))
    # A retry reads files again that have the same content and another time.
    same = {file: versions[file] for file in read.keys() & versions.keys() - changed}
    kept = (each.with_versions(same) for each in receipts if again.isdisjoint(each.inputs))
    return Earlier(tuple(kept), stale)


def _renamed_error(output: str, renamed: Mapping[str, str], removed: set[str]) -> OutputExistsError:
    """Return the error for files with another name; `removed` files are only dropped by `sync`."""
    new, old = min(renamed.items())
    more = f", and drops those of {count(len(removed), 'removed file')}" if removed else ""
    return OutputExistsError(
        f"{count(len(renamed), 'input file')} got another name since {output} was made, such as "
        f"{new}, which was {old}; the rows would be written twice (--sync replaces them{more})"
    )


def _quarantined(output: str, receipts: Iterable[Receipt]) -> set[str]:
    """Return the input files, as text, that have quarantined rows in parts."""
    found = find_files(output, with_staged=True)
    names = (name for name in files_of(receipts) if name.startswith("quarantine/"))
    tables = [read(found[name][0], QUARANTINE) for name in names if name in found]
    return {file for table in tables for file in table["source_file"].to_pylist()}


def _inputs_of_lost(
    spec: PartsSpec, receipts: Sequence[Receipt], gone: set[str], listener: Listener
) -> set[str]:
    """Return the input files of the parts that lost an output file."""
    found = find_files(spec.output, with_staged=True)
    lost = find_lost(receipts, found, verify=spec.verify)
    if not lost:
        return set()
    stale = [receipt for receipt in receipts if lost.intersection(receipt.files)]
    inputs = {file for receipt in stale for file in receipt.inputs}
    number = count(len(lost), "file")
    text = f"{spec.output} has lost {number} (missing or damaged), such as {min(lost)!r}"
    if inputs & gone:
        raise DataError(
            f"{text}, and the input {min(inputs & gone)} is missing too; restore one of them, or "
            "drop the rows with --sync"
        )
    listener(warning(f"{text}; their parts are done again"))
    return inputs


def refuse_foreign(output: str, receipts: Iterable[Receipt], found: Iterable[str]) -> None:
    """Raise OutputExistsError for files that a reader would mistake for files of parts.

    Such a file is in a folder with files of parts, or is beside them with the same suffix. Hidden
    files are ignored, because file systems create some, and a commit may still be writing one.
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
    receipts = map(Receipt.from_json, storage.map_all(json_files.read_manifest, files))
    return {receipt.part: receipt for receipt in receipts}


def commit_receipt(folder: str, receipt: Receipt) -> None:
    """Write a receipt. From then on its part counts as done."""
    json_files.commit_manifest(f"{folder}/{RECEIPTS}/{receipt.part}.json", receipt.to_json())


def commit_files(folder: str, files: Mapping[str, Any]) -> dict[str, Written]:
    """Write files under their names in the folder; return their sizes and checksums."""

    def commit(name: str, data: Any) -> Written:
        storage.commit(storage.join(folder, name), data)
        return Written(len(data), storage.checksum(data))

    return dict(zip(files, storage.map_all(commit, files, files.values()), strict=True))


def remove_other_parts(
    folder: str, files: Iterable[str], found: Mapping[str, Receipt], done: Mapping[str, Receipt]
) -> None:
    """Remove, of all `files` of parts in a folder and of the receipts `found`, those not `done`."""
    others = _names(receipt for part, receipt in found.items() if part not in done)
    parts = {name for name in files if _PART_FILE.fullmatch(name)}
    for name in sorted((others | parts) - _names(done.values())):
        storage.remove(storage.join(folder, name))


def move_staged(output: str, check: Callable[[], None]) -> None:
    """Move complete staged files over the old ones; do nothing if there are none.

    `check` is called before each move, and raises if another process has locked the output.

    Raises:
        DataError: the staged manifest is damaged. The old output is unchanged.
        OutputExistsError: the output has a file of another program, see `refuse_foreign`.
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
        if MANIFEST in storage.names(output):  # removed last: without it, the move has begun
            for name in (*sorted(_replaced(output, staged, waiting)), MANIFEST):
                storage.remove(storage.join(output, name))
        files = sorted(find_files(staging).keys() - {MANIFEST, SUCCESS})
        for name in (*files, MANIFEST):
            check()
            storage.move(storage.join(staging, name), storage.join(output, name))
    try:
        check_files(output, Manifest.read(output).receipts)
    except (OutputExistsError, StorageError):
        storage.remove(storage.join(staging, SUCCESS))  # the next command repeats the lost parts
        raise
    storage.move(storage.join(staging, SUCCESS), storage.join(output, SUCCESS))
    storage.remove(staging)


def _replaced(output: str, staged: Manifest, waiting: Iterable[str]) -> set[str]:
    """Return the names of old files of a job without a new version.

    In the same job, these are only files of parts. Another job, which may have been stopped or have
    lost its manifest, also leaves other files. A folder stands for its files if it has no other.
    """
    before = Manifest()
    with suppress(DataError):  # a damaged manifest may be overwritten
        before = Manifest.read(output)
    wanted = {*_names(staged.receipts), *waiting}
    old = _names(before.receipts)
    if before.job == staged.job:
        return old - wanted
    found = find_files(output).keys()
    receipts = {name for name in found if name.startswith(f"{RECEIPTS}/")}
    old |= _OTHERS | receipts | {name for name in found if _PART_FILE.fullmatch(name)}
    old -= wanted
    paths, others = (map(PurePosixPath, names) for names in (old & found, (found | wanted) - old))
    kept = {folder for path in others for folder in (path, *path.parents)}
    return {str(each) for path in paths for each in (path, *path.parents) if each not in kept}


def _names(receipts: Iterable[Receipt]) -> set[str]:
    """Return the names of the files of parts and of their receipts."""
    receipts = list(receipts)
    return {*files_of(receipts), *(f"{RECEIPTS}/{receipt.part}.json" for receipt in receipts)}
