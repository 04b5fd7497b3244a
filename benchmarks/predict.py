"""Claim: predictions are as fast as their decoder allows, in the same memory for any input.

The input is MNIST's training images, repeated to `--rows` rows in Parquet files of 10,000 rows
(pyarrow's defaults). The images are PNG files in a binary column, or 784 raw bytes. The net is
784-200-10, preset `fast` (deskewed digits) unless a row says `standard` pixels. Each trial is a new
command with two workers. nanograd (A) and its peers (B, C) take turns, A B A C A. The peers are

- a plain loop in one process: pyarrow, Pillow, numpy and the same net (`readers/plain_loop.py`);
- Ray Data's documented batch inference with the same decoder and net (`readers/ray_data.py`);
- `nanograd.Predictor` in the same pipeline (`readers/predictor.py`);
- for files of ten rows, a bare pool of two processes that only read them (`readers/bare_pool.py`).

`start` is the time from the command to the start of the first part or batch. `running` is the time
from there to `_SUCCESS` or the end of writing. A ratio compares the rows per second while running:
the trials of A before and after a B, over B. `CPU` is the processor time of all processes of the
command, including Ray's, from start to end. `others` is the number of cores that other programs
used during the trial. `peak` is the maximum memory of the command's processes (driver, Ray,
actors), sampled every second: the sum of their proportional set sizes (PSS), in which a page shared
by k processes counts as 1/k for each.
"""

import json
import os
import subprocess
import sys
import tempfile
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import count, pairwise
from pathlib import Path
from statistics import median
from time import perf_counter, time
from typing import NamedTuple

from common import HERE, Row, arguments, busy_ticks, report, tree
from digit_rows import write_pictures, write_rows, write_small_files

from nanograd.images import sources

_FILE_ROWS = 10_000
_CPU_EVERY_S, _MEMORY_EVERY_S = 0.5, 1.0
_MEGABYTE = 1 << 20
_TICKS = os.sysconf("SC_CLK_TCK")


class Trial(NamedTuple):
    """Measurements of a command: seconds, CPU seconds, bytes, cores that other programs used."""

    rows: int
    start_s: float
    running_s: float
    whole_s: float
    cpu_s: float
    peak_bytes: int
    others: float

    @property
    def rows_per_s(self) -> float:
        """Rows per second of the running phase."""
        return self.rows / self.running_s


class Workspace:
    """A folder with rows and models, and the commands that use them.

    Args:
        folder: an empty folder.
        data: as nanograd train --data.
    """

    def __init__(self, folder: Path, data: str) -> None:
        self._folder, self._data, self._number = folder, data, count()
        self._last: list[str] = []

    def rows(self, form: str, number: int, part: str = "train") -> Path:
        """Return a folder of rows, created on first use."""
        folder = self._folder / f"{form}-{part}-{number}"
        if not folder.exists():
            images = getattr(sources.load([self._data]), part)
            write_rows(folder, images, form, number, max(1, number // _FILE_ROWS))
        return folder

    def model(self, pixels: str = "deskewed") -> Path:
        """Return a net trained for one epoch, on first use."""
        run = self._folder / f"run-{pixels}"
        if not run.exists():
            words = ["train", "--data", self._data, "--epochs", "1", "--workers", "0"]
            command = _nanograd(*words, "--pixels", pixels, "--output", str(run))
            subprocess.run(command, capture_output=True, check=True)
        return run / "model"

    def ours(self, rows: Path, model: Path, workers: int = 2) -> Trial:
        """Run `nanograd predict`."""
        output = self._folder / f"out-{next(self._number)}"
        words = ["--model", str(model), "--output", str(output), "--workers", str(workers)]
        trial, result, began = _run(_nanograd("predict", str(rows), *words))
        self._last = words
        ended = (output / "_SUCCESS").stat().st_mtime
        running = float(result["predict_s"])
        return trial(int(result["rows"]), ended - running - began, running)

    def again(self, rows: Path) -> Trial:
        """Run the last command of `ours` again, when it has nothing left to do."""
        trial, result, _ = _run(_nanograd("predict", str(rows), *self._last))
        return trial(int(result["rows"]), 0.0, float("inf"))

    def small_files(self, number: int) -> Path:
        """Return a folder with this number of files of ten rows, created on first use."""
        folder = self._folder / f"files-{number}"
        if not folder.exists():
            write_small_files(folder, sources.load([self._data]).train, number)
        return folder

    def pictures(self, number: int) -> Path:
        """Return a file with one row group of distinct pictures of 1.5 MB each."""
        file = self._folder / f"pictures-{number}" / "rows.parquet"
        if not file.exists():
            write_pictures(file, sources.load([self._data]).train, number)
        return file

    def peer(self, script: str, rows: Path, model: Path, form: str) -> Trial:
        """Run the script of a peer."""
        output = self._folder / f"out-{next(self._number)}"
        command = [sys.executable, str(HERE / "readers" / f"{script}.py"), str(rows)]
        trial, result, began = _run([*command, str(model), str(output), form])
        start = float(result["began"]) - began
        return trial(int(result["rows"]), start, float(result["ended"]) - float(result["began"]))


def measure(options: Namespace) -> Iterator[Row]:
    """Run the selected measurements."""
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        space = Workspace(Path(folder), options.data)
        for name in options.only:
            yield from _MEASURES[name](space, options)


def _png(space: Workspace, options: Namespace) -> Iterator[Row]:
    rows, model = space.rows("png", options.rows), space.model()
    ours = [space.ours(rows, model)]
    peers: dict[str, list[Trial]] = {"plain_loop": [], "ray_data": []}
    for _ in range(options.repeats):
        for script, trials in peers.items():
            trials.append(space.peer(script, rows, model, "png"))
            ours.append(space.ours(rows, model))
    yield _row("png: nanograd --workers 2", ours)
    for place, (script, trials) in enumerate(peers.items()):
        around = list(pairwise(ours))[place :: len(peers)]
        yield _row(f"png: {script}", trials) | _ratios(around, trials)


def _predictor(space: Workspace, options: Namespace) -> Iterator[Row]:
    """Measure `nanograd.Predictor` in Ray Data and the command, taking turns."""
    for form in ("png", "raw"):
        rows, model = space.rows(form, options.rows), space.model()
        ours, peers = [space.ours(rows, model)], []
        for _ in range(options.repeats):
            peers.append(space.peer("predictor", rows, model, form))
            ours.append(space.ours(rows, model))
        yield _row(f"{form}: nanograd --workers 2", ours)
        yield _row(f"{form}: Predictor in map_batches", peers) | _ratios(
            list(pairwise(ours)), peers
        )


def _files(space: Workspace, options: Namespace) -> Iterator[Row]:
    """Measure many files of ten rows: a bare pool that reads them and the command, taking turns."""
    rows, model = space.small_files(options.files), space.model("standard")
    ours = [space.ours(rows, model)]
    peers: dict[str, list[Trial]] = {"ParquetFile": [], "read_table": []}
    for _ in range(options.repeats):
        for form, trials in peers.items():
            trials.append(space.peer("bare_pool", rows, model, form))
            ours.append(space.ours(rows, model))
    yield _row(f"{options.files:,} files of 10 rows: nanograd --workers 2", ours)
    for place, (form, trials) in enumerate(peers.items()):
        around = list(pairwise(ours))[place :: len(peers)]
        yield _row(f"{options.files:,} files: bare pool, {form}", trials) | _ratios(around, trials)
    yield _row("nothing to do", [space.again(rows)])


def _pictures(space: Workspace, options: Namespace) -> Iterator[Row]:
    """Measure the peak memory for one row group of large pictures."""
    rows, model = space.pictures(options.pictures), space.model("standard")
    for workers in (0, 2):
        trials = [space.ours(rows, model, workers)]
        yield _row(f"{options.pictures:,} pictures of 1.5 MB: nanograd --workers {workers}", trials)


def _ratios(around: Sequence[tuple[Trial, Trial]], peers: Sequence[Trial]) -> Row:
    """Compare each trial of a peer with our trials before and after it."""
    ratios = [
        (before.rows_per_s + after.rows_per_s) / 2 / peer.rows_per_s
        for (before, after), peer in zip(around, peers, strict=True)
    ]
    return {"ours over it": f"{median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"}


def _raw(space: Workspace, options: Namespace) -> Iterator[Row]:
    rows = space.rows("raw", options.rows)
    for pixels in ("deskewed", "standard"):
        for workers in (2, 0):
            model = space.model(pixels)
            trials = [space.ours(rows, model, workers) for _ in range(options.repeats)]
            yield _row(f"raw, {pixels} pixels: nanograd --workers {workers}", trials)


def _test(space: Workspace, options: Namespace) -> Iterator[Row]:
    rows = space.rows("png", 10_000, part="test")
    for workers in (2, 0):
        trials = [space.ours(rows, space.model(), workers) for _ in range(options.repeats)]
        yield _row(f"png, the 10,000 test images: nanograd --workers {workers}", trials)


def _memory(space: Workspace, options: Namespace) -> Iterator[Row]:
    for number in options.memory_rows:
        trials = [space.ours(space.rows("raw", number), space.model())]
        yield _row(f"raw, {number:,} rows: nanograd --workers 2", trials)


_MEASURES = {
    "png": _png,
    "raw": _raw,
    "test": _test,
    "memory": _memory,
    "predictor": _predictor,
    "files": _files,
    "pictures": _pictures,
}


def _row(what: str, trials: Sequence[Trial]) -> Row:
    def middle(of: Callable[[Trial], float]) -> float:
        return median(map(of, trials))

    return {
        "what": what,
        "rows": trials[0].rows,
        "running, rows/s": round(middle(lambda each: each.rows_per_s)),
        "fastest": round(max(each.rows_per_s for each in trials)),
        "start s": round(middle(lambda each: each.start_s), 2),
        "running s": round(middle(lambda each: each.running_s), 2),
        "command s": round(middle(lambda each: each.whole_s), 2),
        "CPU us/row": round(middle(lambda each: 1e6 * each.cpu_s / each.rows), 1),
        "peak MiB": round(max(each.peak_bytes for each in trials) / _MEGABYTE),
        "others": round(middle(lambda each: each.others), 2),
        "times": len(trials),
    }


def _nanograd(*words: str) -> list[str]:
    return [sys.executable, "-m", "nanograd", *words]


def _run(command: Sequence[str]) -> tuple[Callable[[int, float, float], Trial], Row, float]:
    """Run a command; return a function that makes its trial, its last line, and its start time."""
    worked: dict[int, int] = {}
    peak, machine, began, clock = 0, busy_ticks(), time(), perf_counter()
    due = clock
    errors = None if os.environ.get("BENCH_DEBUG") else subprocess.DEVNULL
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as process:
        while process.poll() is None:
            alive = tree(process.pid)
            worked |= alive
            if perf_counter() >= due:
                peak, due = max(peak, sum(map(_pss_bytes, alive))), due + _MEMORY_EVERY_S
            with suppress(subprocess.TimeoutExpired):
                process.wait(_CPU_EVERY_S)
        output = process.stdout.read() if process.stdout else ""
    if process.returncode:
        raise RuntimeError(f"{command} ended with {process.returncode}; BENCH_DEBUG=1 shows why")
    whole = perf_counter() - clock
    cpu = sum(worked.values()) / _TICKS
    others = max(0.0, (busy_ticks() - machine) / _TICKS - cpu) / whole

    def trial(rows: int, start_s: float, running_s: float) -> Trial:
        found = Trial(rows, start_s, running_s, whole, cpu, peak, others)
        print(found, file=sys.stderr, flush=True)
        return found

    # Ray may print more to stdout after the last line of a peer.
    last = next(line for line in reversed(output.splitlines()) if line.startswith("{"))
    return trial, json.loads(last), began


def _pss_bytes(pid: int) -> int:
    """Return the proportional set size of a process; 0 if it has just ended."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) << 10
    return 0


def main() -> None:
    """Measure and report."""
    parser = arguments(__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000, help="fewer for a quick run")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=_MEASURES, default=list(_MEASURES))
    parser.add_argument(
        "--memory-rows", nargs="+", type=int, default=[100_000, 1_000_000, 10_000_000]
    )
    parser.add_argument("--files", type=int, default=100_000, help="files of ten rows")
    parser.add_argument("--pictures", type=int, default=2000, help="pictures in a row group")
    parser.add_argument("--folder", type=Path, help="folder for the rows; it needs 3 GB")
    options = parser.parse_args()
    report(list(measure(options)), options.json)


if __name__ == "__main__":
    main()
