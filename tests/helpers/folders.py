import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nanograd.runtime import storage

_TIMED = ("_metrics.jsonl", "report.html")


def contents(place: Path | str) -> dict[str, bytes]:
    if isinstance(place, Path):
        files = [file for file in place.rglob("*") if file.is_file()]
        return {str(file.relative_to(place)): file.read_bytes() for file in files}
    return {
        file.removeprefix(f"{place}/"): storage.read(file)
        for file, _, _ in storage.files_below(place)
        if not file.endswith("/")
    }


def untimed_contents(place: Path | str) -> dict[str, bytes]:
    """All files except those that record how long a command took."""
    return {name: data for name, data in contents(place).items() if not name.endswith(_TIMED)}


@contextmanager
def as_nobody() -> Iterator[None]:
    """Drop root's right to read and write all files inside a with block."""
    user = os.geteuid()
    os.seteuid(65534 if user == 0 else user)
    try:
        yield
    finally:
        os.seteuid(user)
