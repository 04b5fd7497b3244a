"""JSON files: manifests that contain their own checksum, and JSON lines."""

import json
from collections.abc import Iterable
from typing import Any

from nanograd.errors import DataError
from nanograd.runtime import storage


def encode(value: dict[str, Any]) -> bytes:
    """Format a JSON object, indented."""
    return (json.dumps(value, indent=2) + "\n").encode()


def commit_manifest(place: str, manifest: dict[str, Any]) -> None:
    """Commit a JSON object together with the checksum of its content."""
    storage.commit(place, encode({**manifest, "manifest_sha256": _checksum(manifest)}))


def read_manifest(place: str) -> dict[str, Any]:
    """Read a manifest and verify its checksum.

    Raises:
        DataError: it is missing, broken or changed.
        StorageError: it cannot be read.
    """
    try:
        manifest = json.loads(storage.read(place))
        sha256 = manifest.pop("manifest_sha256")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{place} is damaged: it is not a manifest of this program") from error
    if sha256 != _checksum(manifest):
        raise DataError(f"{place} is damaged: its content does not match its checksum")
    return dict(manifest)


def encode_lines(rows: Iterable[dict[str, Any]]) -> bytes:
    r"""Format JSON objects, one a line.

    >>> encode_lines([{"epoch": 1}, {"epoch": 2}])
    b'{"epoch": 1}\n{"epoch": 2}\n'
    """
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def read_lines(place: str) -> list[dict[str, Any]]:
    """Read JSON objects, one a line; none if the file does not exist.

    Raises:
        DataError: a line is damaged.
        StorageError: it cannot be read.
    """
    try:
        data = storage.read(place) if storage.exists(place) else b""
        return [json.loads(line) for line in data.splitlines()]
    except ValueError as error:
        raise DataError(f"{place} is damaged: it is not JSON in lines") from error


def _checksum(manifest: dict[str, Any]) -> str:
    return storage.checksum(json.dumps(manifest, sort_keys=True).encode())
