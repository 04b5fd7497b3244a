"""What folders hold, as tests compare it before and after."""

from pathlib import Path

_TIMED = ("_metrics.jsonl", "report.html")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def untimed_contents(folder: Path) -> dict[str, bytes]:
    """All files, but for those that tell how long a command took."""
    found = contents(folder)
    return {name: data for name, data in found.items() if Path(name).name not in _TIMED}
