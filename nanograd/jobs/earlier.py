"""The parts that earlier commands of the same job completed, compared with the present input."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from nanograd.errors import DataError, OutputExistsError
from nanograd.images.inputs import Version
from nanograd.jobs.output import Manifest, find_files, find_lost
from nanograd.jobs.receipts import Receipt
from nanograd.runtime.events import Listener, count, info, warning
from nanograd.runtime.json_files import JsonObject
from nanograd.settings.specs import PartsSpec


class Earlier(NamedTuple):
    """The parts of a complete output: those to keep, and those to replace or drop."""

    kept: tuple[Receipt, ...] = ()  # their input is unchanged, or was removed without `sync`
    stale: tuple[Receipt, ...] = ()  # to be replaced or dropped

    def files(self) -> set[str]:
        """Return the input files of the parts to keep, which are not read again."""
        return {file for receipt in self.kept for file in receipt.inputs}


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
    its input files has changed or was removed.

    Args:
        spec: settings of the command.
        identity: identity of the job. An output with another identity counts as empty.
        versions: present version of each input file. The version in a receipt may have more items.
        content_of: returns what identifies the content of a file, as receipts store it. It is
            called only for files that may be changed or renamed and have the same size as before.
        listener: receives a warning about removed and lost files.
        retry: whether parts of changed files with quarantined rows are stale.

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
    read, contents = dict[str, Version](), dict[str, str]()
    for receipt in receipts:
        inputs = zip(receipt.inputs, receipt.versions, receipt.contents, strict=True)
        for file, version, content in inputs:
            read[file] = version
            if content is not None:
                contents[file] = content

    def has_changed(file: str) -> bool:
        now = versions[file]
        before = read[file][: len(now)]
        if before == now:
            return False
        # Links, permissions and copies change an inode's ctime and number, items 2 and 3.
        is_same = (*before[:2], *before[4:]) == (*now[:2], *now[4:])
        return not (is_same and file in contents and content_of(file) == contents[file])

    removed = read.keys() - versions.keys()
    changed = {file for file in read.keys() & versions.keys() if has_changed(file)}
    gone = set[str]() if spec.sync else removed
    again = _inputs_of_lost(spec, receipts, gone, listener)
    if spec.sync:
        again |= changed | removed
    if retry:
        again |= {
            file
            for receipt in receipts
            if receipt.needs_retry and gone.isdisjoint(receipt.inputs)
            for file in changed.intersection(receipt.inputs)
        }
    stale = tuple(receipt for receipt in receipts if again.intersection(receipt.inputs))
    again = {file for receipt in stale for file in receipt.inputs}
    gone = gone - again
    if changed - again:
        text = f"{count(len(changed), 'input file')} changed, or got another label, since"
        text += f" {spec.output} was made, such as {min(changed)}"
        raise OutputExistsError(f"{text}; --sync replaces the rows")
    lacking = {(read[file][0], contents[file]): file for file in gone & contents.keys()}
    sizes = {size for size, _ in lacking}
    added = [file for file in versions.keys() - read.keys() if versions[file][0] in sizes - {0}]
    known = {file: (versions[file][0], content_of(file) or "") for file in added}
    if renamed := {file: lacking[each] for file, each in known.items() if each in lacking}:
        new, old = min(renamed.items())
        raise OutputExistsError(
            f"{count(len(renamed), 'input file')} got another name since {spec.output} was made, "
            f"such as {new}, which was {old}; the rows would be written twice (--sync replaces "
            "them)"
        )
    if gone:
        text = f"no longer in the input: {count(len(gone), 'input file')} of {spec.output}, such as"
        listener(warning(f"{text} {min(gone)}; the rows are kept (--sync drops them)"))
    for files, verb, kind in ((changed, "replaces", "changed"), (removed, "drops", "removed")):
        if spec.sync and files:
            number = count(len(files), f"{kind} input file")
            listener(info(f"--sync {verb} the rows of {number}, such as {min(files)}"))
    kept = (receipt for receipt in receipts if again.isdisjoint(receipt.inputs))
    return Earlier(tuple(kept), stale)


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
