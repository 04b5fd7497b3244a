"""A new output beside the old one, which it replaces only when it is complete.

    OUT/_next/...   the new output while it is made; readers of OUT see the old one, whole

A replacement that is killed while it takes place is finished by whatever command comes next: the
new output is complete, and what is left of the old one is known by not being in its manifest.
"""

from typing import Any

from nanograd import storage

NEXT, MANIFEST, SUCCESS = "_next", "_manifest.json", "_SUCCESS"


def finish(place: str) -> None:
    """Put a complete new output in the place of the old one; do nothing if there is none.

    Args:
        place: output folder or URI, held by this process alone.

    Raises:
        DataError: the new output's manifest is damaged.
        StorageError: something cannot be moved.
    """
    stage = storage.join(place, NEXT)
    waiting = storage.names(stage)
    if SUCCESS not in waiting:
        return
    # No reader takes a half for the whole: the mark of completeness goes first and comes last.
    storage.remove(storage.join(place, SUCCESS))
    if MANIFEST in waiting:
        ours = _top_names(storage.read_manifest(storage.join(stage, MANIFEST)))
        for name in storage.names(place):
            if name not in (NEXT, MANIFEST) and (name not in ours or name in waiting):
                storage.remove(storage.join(place, name))
        for name in waiting:
            if name not in (MANIFEST, SUCCESS):
                storage.move(storage.join(stage, name), storage.join(place, name))
        storage.move(storage.join(stage, MANIFEST), storage.join(place, MANIFEST))
    storage.move(storage.join(stage, SUCCESS), storage.join(place, SUCCESS))
    storage.remove(stage)


def _top_names(manifest: dict[str, Any]) -> set[str]:
    files = {name for receipt in manifest["receipts"] for name in receipt["files"]}
    return {name.split("/")[0] for name in files} | {"_receipts", "_summary.json"}
