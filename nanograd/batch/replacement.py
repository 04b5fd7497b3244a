"""A new output beside the old one, which it replaces only when it is complete.

    OUT/_next/...   the new output while it is made; readers of OUT see the old one, whole

A replacement that is killed while it takes place is finished by whatever command comes next. The
old output is removed first, and that this is done is written down before anything is moved: an
object store moves a folder file by file, and half of a new one must not be taken for an old one.
"""

from nanograd import json_files, storage

NEXT, MANIFEST, SUCCESS = "_next", "_manifest.json", "_SUCCESS"
_CLEARED = "_cleared"


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
        if _CLEARED not in waiting:
            # Raises if it is damaged: nothing whole is given up for that.
            json_files.read_manifest(storage.join(stage, MANIFEST))
            for name in storage.names(place):
                if name not in (NEXT, MANIFEST):
                    storage.remove(storage.join(place, name))
            storage.commit(storage.join(stage, _CLEARED), b"")
        for name in waiting:
            if name not in (MANIFEST, SUCCESS, _CLEARED):
                storage.move(storage.join(stage, name), storage.join(place, name))
        storage.move(storage.join(stage, MANIFEST), storage.join(place, MANIFEST))
    storage.move(storage.join(stage, SUCCESS), storage.join(place, SUCCESS))
    storage.remove(stage)
