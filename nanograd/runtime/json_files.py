"""JSON files: manifests that contain their own checksum, and JSON lines."""

import json
from collections.abc import Iterable
from typing import Any, TypeAlias

from nanograd.errors import DataError
from nanograd.runtime import storage

JsonObject: TypeAlias = dict[str, Any]


def encode(value: JsonObject) -> bytes:
    """Format a JSON object with indentation."""
    return (json.dumps(value, indent=2) + "\n").encode()


def read(file: str) -> JsonObject:
    """Read a JSON object; raise DataError if the file is missing or damaged."""
    try:
        return dict(json.loads(storage.read(file)))
    except (TypeError, ValueError) as error:
        raise DataError(f"{file} is damaged: it is no JSON object") from error


def commit_manifest(file: str, manifest: JsonObject) -> None:
    """Commit a JSON object together with the checksum of its content, with an entry on each line.

    `encode`, which indents, would take 30 times as long, because Python's fast encoder cannot
    indent.
    """
    entries = {**manifest, "manifest_sha256": _checksum(manifest)}
    lines = (f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in entries.items())
    storage.commit(file, ("{\n" + ",\n".join(lines) + "\n}\n").encode())


def read_manifest(file: str) -> JsonObject:
    """Read a manifest and verify its checksum.

    Raises:
        DataError: the file is missing, is not a manifest, or has changed.
    """
    try:
        manifest = json.loads(storage.read(file))
        sha256 = manifest.pop("manifest_sha256")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{file} is damaged: it is not a manifest of nanograd") from error
    if sha256 != _checksum(manifest):
        raise DataError(f"{file} is damaged: its content does not match its checksum")
    return dict(manifest)


def encode_lines(rows: Iterable[JsonObject]) -> bytes:
    r"""Format JSON objects, one per line.

    >>> encode_lines([{"epoch": 1}, {"epoch": 2}])
    b'{"epoch": 1}\n{"epoch": 2}\n'
    """
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def read_lines(file: str) -> list[JsonObject]:
    """Read JSON objects, one per line; return an empty list if the file does not exist.

    Raises:
        DataError: a line is no JSON object.
    """
    try:
        data = storage.read(file) if storage.exists(file) else b""
        return [dict(json.loads(line)) for line in data.splitlines()]
    except (TypeError, ValueError) as error:
        raise DataError(f"{file} is damaged: a line is no JSON object") from error


def _checksum(manifest: JsonObject) -> str:
    return storage.checksum(json.dumps(manifest, sort_keys=True).encode())
