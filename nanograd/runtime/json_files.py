"""JSON as it is kept: manifests that carry their own checksum, and lines of JSON, a record each."""

import json
from collections.abc import Iterable
from typing import Any

from nanograd.errors import DataError
from nanograd.runtime import storage


def pretty(value: dict[str, Any]) -> bytes:
    """A file of one JSON object, as people like to read it."""
    return (json.dumps(value, indent=2) + "\n").encode()


def commit_manifest(place: str, manifest: dict[str, Any]) -> None:
    """Commit a JSON object together with the checksum of what it says."""
    sealed = {**manifest, "manifest_sha256": _seal(manifest)}
    storage.commit(place, pretty(sealed))


def read_manifest(place: str) -> dict[str, Any]:
    """A JSON object that still says what was committed.

    Raises:
        DataError: it is missing, broken or changed.
        StorageError: it cannot be read.
    """
    try:
        manifest = json.loads(storage.read(place))
        seal = manifest.pop("manifest_sha256")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{place} is damaged: it is no manifest of this program") from error
    if seal != _seal(manifest):
        raise DataError(f"{place} is damaged: its contents do not fit its own checksum")
    return dict(manifest)


def lines(rows: Iterable[dict[str, Any]]) -> bytes:
    r"""A file of JSON objects, one a line.

    >>> lines([{"epoch": 1}, {"epoch": 2}])
    b'{"epoch": 1}\n{"epoch": 2}\n'
    """
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def parse_lines(data: bytes) -> list[dict[str, Any]]:
    """The JSON objects in such a file."""
    return [json.loads(line) for line in data.splitlines()]


def read_lines(place: str) -> list[dict[str, Any]]:
    """The JSON objects in such a file; none if it is not there.

    Raises:
        StorageError: it cannot be read.
    """
    return parse_lines(storage.read(place)) if storage.exists(place) else []


def _seal(manifest: dict[str, Any]) -> str:
    return storage.checksum(json.dumps(manifest, sort_keys=True).encode())
