"""The parts that earlier commands of the same job completed, compared with the input of today."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from nanograd.errors import DataError, OutputExistsError
from nanograd.jobs.output import Manifest, find_files, find_lost
from nanograd.jobs.receipts import Receipt
from nanograd.runtime import storage
from nanograd.runtime.events import Listener, ignore, info, warning


class Earlier(NamedTuple):
    """Parts of a complete output, divided by what became of their files."""

    kept: tuple[Receipt, ...] = ()  # as they were, or removed since
    stale: tuple[Receipt, ...] = ()  # to be replaced or dropped

    def files(self) -> set[str]:
        """Return the input files that are not read again."""
        return {file for receipt in self.kept for file in receipt.inputs}


def find_earlier(
    output: str,
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
        output: folder or URI.
        settings: of the job; the output of other settings has no parts of it.
        versions: present version of each input file, with which that of a receipt begins.
        content_of: identifies the content of a file, as receipts do. It is called for files that
            may have another name or another content than before, and are of the same size.
        sync: whether parts of changed and removed files are stale.
        retry: whether parts of changed files with quarantined rows are stale.
        verify: whether parts with files of another checksum are stale.
        listener: receives a warning about removed and lost files.

    Raises:
        OutputExistsError: a file has changed, or has another name, that is not to be read again.
        DataError: the manifest is damaged; a file of the output is lost, and with it its input.
    """
    manifest = Manifest.find(output)
    if any(manifest.job.get(name) != value for name, value in settings.items()):
        return Earlier()
    receipts = [receipt for receipt in manifest.receipts if receipt.inputs]
    read = {
        file: version
        for receipt in receipts
        for file, version in zip(receipt.inputs, receipt.versions, strict=True)
    }
    contents = {
        file: content
        for receipt in receipts
        for file, content in zip(receipt.inputs, receipt.contents, strict=True)
        if content is not None
    }

    def has_changed(file: str) -> bool:
        now = versions[file]
        before = read[file][: len(now)]
        if before == now:
            return False
        # The time of change and the number of an inode change with links, rights and copies.
        is_same = (*before[:2], *before[4:]) == (*now[:2], *now[4:])
        return not (is_same and file in contents and content_of(file) == contents[file])

    removed = read.keys() - versions.keys()
    changed = {file for file in read.keys() & versions.keys() if has_changed(file)}
    again = (changed | removed) if sync else set[str]()
    gone = set[str]() if sync else removed
    again |= _inputs_of_lost(output, receipts, gone, verify=verify, listener=listener)
    if retry:
        again |= {
            file
            for receipt in receipts
            if receipt.needs_retry and gone.isdisjoint(receipt.inputs)
            for file in changed.intersection(receipt.inputs)
        }
    stale = [receipt for receipt in receipts if again.intersection(receipt.inputs)]
    again = {file for receipt in stale for file in receipt.inputs}
    if changed - again:
        raise OutputExistsError(
            f"{len(changed):,} input files or their labels have changed since {output} was made, "
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
            f"{len(renamed):,} input files have another name than when {output} was made, such as "
            f"{new}, which was {old}: their rows would be there twice; replace these with --sync, "
            "or give the files their names back"
        )
    if gone:
        text = f"{len(gone):,} input files of {output} no longer exist, such as {min(gone)}"
        listener(warning(f"{text}; their rows are kept (--sync drops them)"))
    for files, what in (
        (changed, "replaces the rows of changed"),
        (removed, "drops those of removed"),
    ):
        if sync and files:
            listener(info(f"--sync {what} input files: {len(files):,}, such as {min(files)}"))
    kept = [receipt for receipt in receipts if not again.intersection(receipt.inputs)]
    return Earlier(tuple(kept), tuple(stale))


def _find_renamed(
    gone: Mapping[str, tuple[Any, str]],
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
    output: str, receipts: Sequence[Receipt], gone: set[str], *, verify: bool, listener: Listener
) -> set[str]:
    """Find the input files of parts whose files in the output are lost."""
    if not receipts:
        return set()
    lost = find_lost(receipts, find_files(output, with_staged=True), verify=verify)
    if not lost:
        return set()
    stale = [receipt for receipt in receipts if lost.intersection(receipt.files)]
    inputs = {file for receipt in stale for file in receipt.inputs}
    text = f"{len(lost):,} files of {output} are missing or damaged, such as {min(lost)!r}"
    if inputs & gone:
        raise DataError(
            f"{text}, and so is the input {min(inputs & gone)}; restore one of them, or drop the "
            "rows with --sync"
        )
    listener(warning(f"{text}; their parts are done again"))
    return inputs


def rejected_by_ingest(inputs: Iterable[str]) -> dict[str, int]:
    """Count the pictures that `ingest` put into quarantine in its outputs, by their reasons."""
    counts: Counter[str] = Counter()
    for place in dict.fromkeys(map(storage.absolute, inputs)):
        with suppress(DataError):  # a manifest of another program
            manifest = Manifest.find(place)
            if manifest.job.get("command") == "ingest":
                for receipt in manifest.receipts:
                    counts.update(receipt.counts.reasons)
    return dict(sorted(counts.items()))
