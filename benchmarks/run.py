"""Run the benchmarks and write `results/<theme>_<cpu>_<date>.md`: method, versions, all rows.

The table has all rows. Rows in which a peer is faster are also listed below the table.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from common import HERE, Row, arguments, cpu, facts, table

_THEMES = (
    "throughput",
    "time_to_accuracy",
    "round_overhead",
    "scaling",
    "start_up",
    "recovery",
    "predict",
)
# Benchmarks that run only on request, because they need more data or half an hour.
_ON_REQUEST = ("handwriting", "accuracy", "scores", "read_numbers")
# Pictures of a benchmark: the flag for its file, and the caption.
_PICTURES = {
    "scaling": ("--plot", "images/s by workers"),
    "handwriting": ("--sheet", "misclassified pictures: the picture, the input of the net"),
    "accuracy": ("--plot", "errors on validation images by epoch"),
}


def write(theme: str, flags: Sequence[str], place: Path) -> None:
    """Run one benchmark and write its report."""
    script = HERE / f"{theme}.py"
    stem = place / f"{theme}_{_slug(cpu())}_{datetime.now(UTC):%Y-%m-%d}"
    before = facts()
    with tempfile.TemporaryDirectory() as folder:
        lines = Path(folder) / "rows.jsonl"
        flag, caption = _PICTURES.get(theme, ("", ""))
        more = [flag, f"{stem}.png"] if flag else []
        subprocess.run(
            [sys.executable, str(script), *flags, "--json", str(lines), *more],
            stdout=subprocess.DEVNULL,
            check=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        rows = [json.loads(line) for line in lines.read_text().splitlines()]
    picture = f"\n![{caption}]({stem.name}.png)\n" if more else ""
    stem.with_suffix(".md").write_text(render(theme, rows, before, picture))


def render(theme: str, rows: Sequence[Row], where: Row, picture: str = "") -> str:
    """Format the report of a benchmark: method (from the script's docstring), rows, machine."""
    method = (HERE / f"{theme}.py").read_text().split('"""')[1].strip()
    return (
        f"# {theme.replace('_', ' ').capitalize()}\n\n{method}\n\n## Figures\n\n{table(rows)}"
        f"{picture}{_list_faster_peers(rows)}\n## Where\n\n{table([where])}"
    )


def _list_faster_peers(rows: Sequence[Row]) -> str:
    """List the rows in which a peer is faster."""
    found = [
        f"- {row['peer']} ({row.get('recipe') or row.get('batch')}, {row['processes x threads']}), "
        f"{row.get('ours', '')}: "
        f"{name} {row[name]}\n"
        for row in rows
        if "peer" in row
        for name in ("ratio", "times --workers 2", "times --workers 0")
        if row.get(name, 1) < 1 and row["peer"] != "nanograd"
    ]
    return "\nA peer is faster here:\n\n" + "".join(found) if found else ""


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def main() -> None:
    """Run the selected benchmarks."""
    parser = arguments(__doc__)
    parser.add_argument("--only", nargs="+", choices=(*_THEMES, *_ON_REQUEST), default=_THEMES)
    parser.add_argument("--pictures", help="development set, for handwriting and scores")
    parser.add_argument("--place", type=Path, default=HERE / "results")
    options = parser.parse_args()
    options.place.mkdir(exist_ok=True)
    for theme in options.only:
        flags = ["--data", options.data]
        flags += ["--pictures", options.pictures] if theme in ("handwriting", "scores") else []
        flags += ["--tesseract", "30"] if theme == "read_numbers" else []
        write(theme, flags, options.place)


if __name__ == "__main__":
    main()
