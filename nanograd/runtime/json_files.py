"""JSON files: manifests that contain their own checksum, and JSON lines."""

import json
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, TypeAlias

from nanograd.errors import DataError
from nanograd.runtime import storage

JsonObject: TypeAlias = dict[str, Any]
_MOST = 1e300  # charts have no larger numbers


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
    """Commit a JSON object and the checksum of its content, with an entry on each line.

    `encode` would take 30 times as long, because Python's fast encoder cannot indent.
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


def read_lines(file: str, types: Mapping[str, Any] = MappingProxyType({})) -> list[JsonObject]:
    """Read JSON objects, one per line; return an empty list if the file does not exist.

    `types` has the types of the values of each object; a missing value counts as None.

    Raises:
        DataError: a line is no JSON object, or a value has another type, is negative or infinite.
    """
    rows = list[JsonObject]()
    data = storage.read(file) if storage.exists(file) else b""
    for number, line in enumerate(data.splitlines(), 1):
        problem = f"{file} is damaged: line {number}"
        try:
            row = {**dict.fromkeys(types), **json.loads(line)}
        except (TypeError, ValueError, RecursionError) as error:
            text = "is no JSON object; restore or remove the file"
            raise DataError(f"{problem} {text}") from error
        for name, type_ in types.items():
            is_number = isinstance(row[name], int | float)
            if not isinstance(row[name], type_) or (is_number and not 0 <= row[name] <= _MOST):
                raise DataError(f"{problem} has no usable {name!r}; restore or remove the file")
        rows.append(row)
    return rows


def _checksum(manifest: JsonObject) -> str:
    return storage.checksum(json.dumps(manifest, sort_keys=True).encode())
