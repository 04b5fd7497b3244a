"""Tables and plots of the figures in benchmarks/results, for README.md and docs/figures.md.

A figure comes from the newest results of its topic that contain it. It has the processor and date
of these results. `scripts/write_pages.py` writes the tables and plots.
"""

import re
import sys
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from html import escape
from pathlib import Path
from typing import NamedTuple

RESULTS = Path(__file__).resolve().parents[1] / "benchmarks" / "results"

Row = dict[str, str]


class Result(NamedTuple):
    """A file of results."""

    file: Path
    cpu: str
    date: str
    rows: list[Row]

    @property
    def place(self) -> str:
        """Return processor and date."""
        return f"{self.cpu}, {self.date}"


@dataclass(frozen=True)
class Figure:
    """Cells of a row of results, and where they come from."""

    row: Row
    source: Result

    def __getitem__(self, column: str) -> str:
        """Return a cell without emphasis."""
        return self.row[column].strip("*")

    def number(self, column: str) -> str:
        """Return the first number in a cell."""
        found = re.search(r"\d[\d,.]*\d|\d", self[column])
        return found[0] if found else "-"


@cache
def results(topic: str) -> list[Result]:
    """Return the results of a topic, the newest first."""
    found = [_read(file) for file in RESULTS.glob(f"{topic}_*_20*.md")]
    return sorted(found, key=lambda each: (each.date, each.cpu), reverse=True)


def _read(file: Path) -> Result:
    rows = list(_rows(file.read_text()))
    cpu = next(row["cpu"] for row in reversed(rows) if "cpu" in row)
    cpu = cpu.replace("(R)", "").replace(" Processor", "")
    return Result(file, cpu, file.stem.rpartition("_")[2], [r for r in rows if "cpu" not in r])


def _rows(text: str) -> Iterator[Row]:
    header: list[str] = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if not line.startswith("|"):
            header = []
        elif not header:
            header = cells
        elif set(line) - set("|- :"):
            yield dict(zip(header, cells, strict=False))


def find(topic: str, **cells: str) -> Figure:
    """Return the newest row of a topic whose cells match the given patterns.

    Underscores in the names of columns stand for spaces.
    """
    wanted = {name.replace("_", " "): value for name, value in cells.items()}
    for result in results(topic):
        for row in result.rows:
            if all(fnmatchcase(row.get(name, ""), value) for name, value in wanted.items()):
                return Figure(row, result)
    raise LookupError(f"no row of benchmarks/results/{topic}_* has {wanted}")


def render(words: Sequence[str]) -> str:
    """Return the text of a block `<!-- figures: WORDS -->`.

    Args:
        words: `summary` or `comparison` and a language; or a topic and the columns of its table,
            separated by semicolons, each with an optional filter (`what=png*|raw*`).
    """
    kind, _, rest = " ".join(words).partition(" ")
    if kind in _TABLES:
        return _TABLES[kind](rest or "en")
    return _newest(kind, [column.strip() for column in rest.split(";")])


def _newest(topic: str, columns: list[str]) -> str:
    """Return columns of a topic's newest file, and links to files of other processors.

    `what=png*|raw*` instead of a column keeps the rows whose cell matches one of these patterns;
    in parentheses, the column is not shown. A column that is missing or empty, and a pattern that
    matches nothing, end the program.
    """
    newest: dict[str, Result] = {}
    for result in results(topic):
        newest.setdefault(result.cpu, result)
    if not newest:
        sys.exit(f"benchmarks/results has no figures of {topic!r}")
    first, *others = newest.values()
    parts = [each.strip("()").partition("=") for each in columns]
    filters = {name: cells or "*" for name, _, cells in parts}
    if missing := sorted(set(filters).difference(*(row.keys() for row in first.rows))):
        sys.exit(f"{first.file.name} has no column {missing[0]!r}")
    rows = [row for row in first.rows if row.keys() >= filters.keys()]
    for column, cells in filters.items():
        for cell in cells.split("|"):
            if not any(fnmatchcase(row[column], cell) for row in rows):
                sys.exit(f"{first.file.name} has no row with {cell!r} in {column!r}")
        rows = [row for row in rows if any(fnmatchcase(row[column], c) for c in cells.split("|"))]
    if empty := [column for column in filters if not any(row[column] for row in rows)]:
        sys.exit(f"{first.file.name} has nothing in the column {empty[0]!r} of the chosen rows")
    shown = [name for each, name in zip(columns, filters, strict=True) if each[0] != "("]
    table = _table(shown, [[row[name] for name in shown] for row in rows])
    also = "".join(f"\nAlso measured: {_link(each)}.\n" for each in others)
    return f"{_link(first)}:\n\n{table}{also}"


def _link(result: Result) -> str:
    return f"[{result.place}](../benchmarks/results/{result.file.name})"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    first, *others = (f"| {' | '.join(cells)} |\n" for cells in [head, *rows])
    return "".join([first, "|", "---|" * len(head), "\n", *others])


# Tables of the readme


def _words(language: str) -> Callable[[str], str]:
    if language == "en":
        return lambda text: text
    file = Path(__file__).with_name(f"figures.{language}.toml")
    return tomllib.loads(file.read_text()).__getitem__


def summary(language: str) -> str:
    """Return accuracy and time of each preset."""
    say = _words(language)
    flags = ["", "--preset accurate", "--preset accurate --ensemble 5"]
    rows = []
    for flag in flags:
        found = find("accuracy", command=f"`{flag or '--preset fast'} --workers*")
        accuracy, seconds = found.number("test accuracy"), found.number("seconds of training")
        workers = re.findall(r"--workers \d", found["command"])[0]
        command = f"`nanograd train {' '.join(filter(None, [flag, workers]))}`"
        rows.append([command, f"{accuracy} %", f"{seconds} s", found.source.place])
    rows.append([say("the Go program that this one descends from"), "97.72 %", "5-10 min", ""])
    return _table(["", *map(say, ("test accuracy", "training", "measured on"))], rows)


def comparison(language: str) -> str:
    """Return a table with four rows: nanograd beside PyTorch DDP, Ray Train and Ray Data."""
    say = _words(language)
    peers = {"pytorch-ddp": {}, "ray-train": {}, "pytorch": {"processes_x_threads": "1 x 2"}}
    ddp, ray, alone = (
        find("throughput", ours="--workers 2", peer=peer, batch="512", **more)
        for peer, more in peers.items()
    )
    ours, data = (
        find("predict", what=f"png: {job}") for job in ("nanograd --workers 2", "ray_data")
    )

    def trained(figure: Figure) -> str:
        return f"{figure['its images/s']} {say('images/s')} ({figure['ratio']})"

    def read(figure: Figure) -> str:
        return f"{figure.number('running, rows/s')} {say('PNG rows/s')}"

    ends = say("the run ends; restarts from your checkpoint")
    table = [
        ["nets", say("one hidden layer, on CPUs"), *[say("any, on GPUs")] * 3],
        ["same bits for any number of workers", say("yes"), say("no"), say("no"), ""],
        ["a worker is killed", say("the run goes on, 0 rounds lost"), ends, ends,
         say("its tasks are repeated")],
        ["2 workers, batch 512", f"{ddp['our images/s']} {say('images/s')}{say(', ')}{read(ours)}",
         trained(ddp), trained(ray), f"{read(data)} ({data.number('ours over it')})"],
    ]  # fmt: skip
    head = ["", "nanograd", "PyTorch DDP", "Ray Train", "Ray Data"]
    sources = say(", ").join(
        f"[{each.source.place}](benchmarks/results/{each.source.file.name})" for each in (ddp, data)
    )
    note = say(
        "PyTorch in one process, 2 threads: {}; nanograd in turns with it: {}. Sources: {}."
    ).format(trained(alone), f"{alone['our images/s']} {say('images/s')}", sources)
    return f"{_table(head, [[say(name), *rest] for name, *rest in table])}\n{note}\n"


_TABLES = {"summary": summary, "comparison": comparison}


# Plots

_STYLE = (
    "text{font:13px sans-serif;fill:#333}rect{fill:#3b82c4}.peer{fill:#9aa5b1}"
    "line{stroke:#c33;stroke-dasharray:4 3}.page{fill:#fff}"
    "@media(prefers-color-scheme:dark){text{fill:#ddd}.peer{fill:#66707c}.page{fill:#131416}}"
)


def plots() -> dict[str, str]:
    """Return the plots as SVG, by their file names."""
    throughput, threads = results("throughput")[0], "processes x threads"
    peers = ("pytorch-ddp", "pytorch", "ray-train")
    ratios = [
        (f"{row['ours']}, batch {row['batch']} / {row['peer']} {row[threads]}", float(row["ratio"]))
        for row in throughput.rows
        if row.get("peer") in peers and "--shards" not in row["ours"]
    ]
    times = results("time_to_accuracy")[0]
    seconds: list[tuple[str, float]] = [
        (f"{row['peer']}, {row['recipe']}", float(row["its seconds"]))
        for row in times.rows
        if "recipe" in row and float(row["its seconds"]) < 20
    ]
    predict = results("predict")[0]
    speeds = [
        (row["what"], float(row["running, rows/s"].replace(",", "")))
        for row in predict.rows
        if row.get("rows") == "1,000,000"
    ]
    return {
        "figure-training.svg": _bars(f"images/s over the peer's; {throughput.place}", ratios, 1),
        "figure-97.svg": _bars(f"seconds of training to 97.72 %; {times.place}", seconds),
        "figure-predict.svg": _bars(f"rows/s, a million rows; {predict.place}", speeds),
    }


def _bars(title: str, bars: Sequence[tuple[str, float]], line: float | None = None) -> str:
    """Return a plot with a horizontal bar for each name, and a vertical line at a value."""
    left, width, step = 360, 300, 22
    scale = width / max(value for _, value in bars)
    parts = [
        '<rect class="page" width="100%" height="100%"/>',
        f'<text x="0" y="15" font-weight="bold">{escape(title)}</text>',
    ]
    for place, (name, value) in enumerate(bars):
        y = 28 + step * place
        kind = "" if "workers" in name or "nanograd" in name else ' class="peer"'
        parts += [
            f'<text x="{left - 8}" y="{y + 14}" text-anchor="end">{escape(name)}</text>',
            f'<rect{kind} x="{left}" y="{y}" width="{value * scale:.1f}" height="{step - 6}"/>',
            f'<text x="{left + value * scale + 5:.1f}" y="{y + 14}">{value:,g}</text>',
        ]
    height = 32 + step * len(bars)
    if line is not None:
        x = left + line * scale
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="24" y2="{height}"/>')
    size = f'viewBox="0 0 {left + width + 70} {height}" width="{left + width + 70}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" role="img" {size}>'
    return "\n".join([head, f"<style>{_STYLE}</style>", *parts, "</svg>"]) + "\n"
