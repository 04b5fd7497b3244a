"""The content of output directories, as tests compare it before and after."""

from pathlib import Path

from nanograd.runtime import storage

_TIMED = ("_metrics.jsonl", "report.html")


def contents(place: Path | str) -> dict[str, bytes]:
    """All files below a path, or below the URI of a folder in an object store."""
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
