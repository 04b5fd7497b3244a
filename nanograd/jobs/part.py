"""A part of a batch job: its input, its execution and its receipt.

The receipt, `OUT/_receipts/ID.json`, is written last of a part's files: a part with one is done.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import PurePosixPath
from time import perf_counter
from typing import Any, NamedTuple, TypeAlias

from nanograd.errors import Origin, OutputExistsError, Reason, Rejected, StorageError
from nanograd.images.parquet import RowRange
from nanograd.runtime import json_files, storage

Receipt: TypeAlias = dict[str, Any]

RECEIPTS = "_receipts"
_OF_PART = ("part", "inputs", "versions", "contents", "files", "retries")
# Files of an output that are read at once.
_NUM_THREADS = 16


@dataclass(frozen=True, kw_only=True)
class Part:
    """A piece of a job that is committed as a whole."""

    id: str  # names its receipt
    files: tuple[str, ...]  # the input files it reads
    # Of each what an `InputFile` says, and whatever else determines its rows.
    versions: tuple[tuple[int | str | None, ...], ...] = ()
    ranges: tuple[RowRange, ...] = ()  # of each, if they are Parquet files
    num_rows: int = 0  # rows it must account for
    # Of its files, as planned; empty where labels are in the files.
    labels: tuple[int | None, ...] = ()
    rejection: Rejected | None = None  # of its file, if that cannot be read
    # Names its output files, whatever the version of its input; the id if empty.
    name: str = ""
    # Folder in the output for what it makes, while what it replaces stands there.
    below: str = ""

    @property
    def num_broken(self) -> int:
        """Return 1 for a file whose rows are unknown; it counts as no row."""
        return int(self.rejection is not None and self.rejection.reason is Reason.BROKEN_FILE)

    @property
    def stem(self) -> str:
        """Return the name of its output files, without an ending."""
        return f"part-{self.name or self.id}"

    def to_json(self) -> str:
        """Encode the part, to be sent to another process."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Part":
        """Decode a part from `to_json`."""
        values = json.loads(text)
        if found := values["rejection"]:
            origin, reason, detail = found
            values["rejection"] = Rejected(Origin(*origin), Reason(reason), detail)
        values["ranges"] = [RowRange(tuple(groups), *rows) for groups, *rows in values["ranges"]]
        values["versions"] = map(tuple, values["versions"])
        for name in ("files", "versions", "ranges", "labels"):
            values[name] = tuple(values[name])
        return cls(**values)


class DonePart(NamedTuple):
    """A part that was just done."""

    receipt: Receipt  # its account
    seconds: float  # the time it took, where it ran


Work: TypeAlias = Callable[[Part], Receipt]
RunParts: TypeAlias = Callable[[Sequence[Part]], Iterable[DonePart]]


def part_id(*what: object) -> str:
    """Return a short name that follows from JSON values."""
    return sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]


def run_local(work: Work) -> RunParts:
    """Return a function that runs parts one after the other in this process, without Ray."""
    return lambda parts: (run_part(work, part) for part in parts)


def run_part(work: Work, part: Part) -> DonePart:
    """Run a part and measure its time."""
    began = perf_counter()
    receipt = work(part)
    return DonePart(receipt, perf_counter() - began)


def commit_part(
    place: str,
    part: Part,
    files: dict[str, bytes],
    counts: dict[str, Any],
    contents: Mapping[str, str | None],
) -> Receipt:
    """Commit the files of a part, its receipt last.

    Args:
        place: output folder or URI.
        part: the part.
        files: name below `place` -> content.
        counts: rows, quarantined, reasons and other counts to add up over all parts.
        contents: what identifies the content of input files, where that is known.
    """
    place = storage.join(place, part.below) if part.below else place
    for name, data in files.items():
        storage.commit(storage.join(place, name), data)
    receipt = {
        "part": part.id,
        "inputs": list(part.files),
        "versions": [list(each) for each in part.versions],
        "contents": [contents.get(file) for file in part.files],
        "files": describe_files(files),
        **counts,
    }
    json_files.commit_manifest(storage.join(place, RECEIPTS, f"{part.id}.json"), receipt)
    return receipt


def describe_files(files: Mapping[str, bytes]) -> dict[str, dict[str, Any]]:
    """Return size and checksum of contents by name, as receipts have them."""
    return {
        name: {"bytes": len(data), "sha256": storage.checksum(data)} for name, data in files.items()
    }


def total(receipts: Sequence[Receipt]) -> Receipt:
    """Add up receipts: numbers, counts by name; lists are joined."""
    added: Receipt = {"reasons": {}}
    for receipt in receipts:
        for name, value in receipt.items():
            if isinstance(value, int):
                added[name] = added.get(name, 0) + value
            elif name not in _OF_PART and isinstance(value, dict):
                counts = added.setdefault(name, {})
                for each, count in value.items():
                    counts[each] = counts.get(each, 0) + count
            elif name not in _OF_PART:
                added.setdefault(name, []).extend(value)
    return added


class OutputFile(NamedTuple):
    """A file in an output."""

    place: str  # path or URI
    num_bytes: int  # its size


def find_files(place: str) -> dict[str, OutputFile]:
    """Return all files in an output by their names below it.

    Raises:
        DataError: the place does not exist.
        StorageError: it cannot be listed.
    """
    return {
        file.removeprefix(f"{place}/"): OutputFile(file, num_bytes)
        for file, num_bytes, _ in storage.files_below(place)
    }


def files_of(receipts: Iterable[Receipt]) -> dict[str, dict[str, Any]]:
    """Return the size and checksum of each file that parts wrote, by its name."""
    return {name: about for receipt in receipts for name, about in receipt["files"].items()}


def find_lost(
    receipts: Iterable[Receipt], found: Mapping[str, OutputFile], *, verify: bool = False
) -> set[str]:
    """Find the files of parts that are missing or have another size than their receipts say.

    Args:
        receipts: of the parts.
        found: the files in the output.
        verify: whether to read each file and compare its checksum, too.

    Returns:
        The names of the files.

    Raises:
        StorageError: a file cannot be read.
    """
    files = files_of(receipts)
    lost = {
        name
        for name, about in files.items()
        if name not in found or found[name].num_bytes != about["bytes"]
    }
    if verify:
        left = sorted(files.keys() - lost)
        with ThreadPoolExecutor(_NUM_THREADS) as pool:
            checksums = pool.map(
                lambda name: storage.checksum(storage.read(found[name].place)), left
            )
            lost |= {
                name
                for name, sha256 in zip(left, checksums, strict=True)
                if sha256 != files[name]["sha256"]
            }
    return lost


def find_foreign(receipts: Iterable[Receipt], found: Iterable[str]) -> list[str]:
    """Find the files that a reader would take for those of parts, but that none of these wrote.

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

    return sorted(name for name in found if name not in files and looks_alike(name))


def refuse_foreign(place: str, receipts: Iterable[Receipt], found: Iterable[str]) -> None:
    """Raise OutputExistsError if files stand among those of parts that none of these wrote."""
    if foreign := find_foreign(receipts, found):
        raise OutputExistsError(
            f"{place} holds {len(foreign):,} files that this job did not write, such as "
            f"{foreign[0]!r}; move them away, and run each job with an --output of its own"
        )


def check_files(place: str, receipts: Sequence[Receipt]) -> None:
    """Check that the files of some parts, and no others, stand in an output.

    Raises:
        OutputExistsError: another file stands among them.
        StorageError: a file is missing, or has another size.
    """
    found = find_files(place)
    refuse_foreign(place, receipts, found)
    if lost := find_lost(receipts, found):
        raise StorageError(
            f"{place}: {len(lost):,} files were removed or cut after parts of this job wrote them, "
            f"such as {min(lost)!r}; find the cause, then start the same command again, which "
            "repeats these parts"
        )
