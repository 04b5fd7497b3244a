"""Common parts of the benchmarks: contenders as processes, taking turns, tables, versions."""

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from pathlib import Path
from time import perf_counter
from typing import Any, ClassVar, Self

from contenders.base import Setting

Row = dict[str, Any]
Answer = tuple[float, float]

HERE = Path(__file__).parent
# A trial is repeated if other programs used more than this share of a core; and maximum trials.
_DISTURBED, _TRIALS = 0.15, 6
_PACKAGES = ("numpy", "ray", "torch", "scikit-learn", "nanograd")


class Process:
    """A contender in a separate process.

    Args:
        setting: the contender and its training.
    """

    _alive: ClassVar[list["Process"]] = []

    def __init__(self, setting: Setting) -> None:
        threads = str(setting.threads)
        names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        began = perf_counter()
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "contender.py"), json.dumps(asdict(setting))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None if os.environ.get("BENCH_DEBUG") else subprocess.DEVNULL,
            text=True,
            env=os.environ | dict.fromkeys(names, threads) | {"PYTHONWARNINGS": "ignore"},
        )
        self.setting = setting
        # The largest share of one core that other programs took during an accepted trial.
        self.disturbed = 0.0
        self._receive()
        self._alive.append(self)
        self.start_s = perf_counter() - began

    @property
    def pid(self) -> int:
        """Process ID of the contender; Ray's processes and the ranks are its descendants."""
        return self._process.pid

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """End the process."""
        self._alive.remove(self)
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait(timeout=60)

    def request(self, action: str, number: int = 0) -> Answer:
        """Request the action run, accuracy or reset; return its seconds and its result."""
        if self._process.stdin is None:
            raise RuntimeError("no pipe")
        self._process.stdin.write(json.dumps([action, number]) + "\n")
        self._process.stdin.flush()
        answer = self._receive()
        return float(answer["seconds"]), float(answer["answer"])

    def calibrate(self, seconds: float) -> int:
        """Warm up, and return the number of rounds that take about `seconds`."""
        self.request("run", 20)
        took, _ = self.request("run", 20)
        took, _ = self.request("run", rounds := max(20, int(20 * 0.3 / took)))
        return max(1, int(rounds * seconds / took))

    def speed(self, rounds: int) -> float:
        """Return images per second over some rounds (see `run_quietly`)."""
        seconds, images = self.run_quietly(rounds)
        return images / seconds

    def run_quietly(self, rounds: int, before: Callable[[], object] = lambda: None) -> Answer:
        """Run rounds; repeat them a few times if other programs used the machine.

        Args:
            rounds: number of rounds.
            before: called before each trial.

        Returns:
            Seconds and images of the least disturbed trial.
        """
        trials: list[tuple[float, Answer]] = []
        while not trials or (trials[-1][0] > _DISTURBED and len(trials) < _TRIALS):
            before()
            with self._alone():
                trials.append(self._run_once(rounds))
        least, answer = min(trials)
        self.disturbed = max(self.disturbed, least)
        return answer

    def _run_once(self, rounds: int) -> tuple[float, Answer]:
        machine, ours, began = busy_ticks(), self._ticks(), perf_counter()
        answer = self.request("run", rounds)
        ticks = (perf_counter() - began) * os.sysconf("SC_CLK_TCK")
        return (busy_ticks() - machine - (self._ticks() - ours)) / ticks, answer

    def _ticks(self) -> int:
        return sum(tree(self._process.pid).values())

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Freeze the other contenders, because even an idle Ray often wakes up and disturbs."""
        frozen = [pid for each in self._alive if each is not self for pid in tree(each.pid)]
        try:
            _signal(frozen, signal.SIGSTOP)
            yield
        finally:
            _signal(frozen, signal.SIGCONT)

    def _receive(self) -> Row:
        if self._process.stdout is None:
            raise RuntimeError("no pipe")
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.setting} ended; BENCH_DEBUG=1 shows why")
        answer: Row = json.loads(line)
        return answer


def alternate(
    ours: Process, peer: Process, seconds: float, repeats: int
) -> tuple[list[float], list[float], list[float]]:
    """Run A B A B ... A; return the speeds of A and B, and for each B the ratio of A to B.

    A in a ratio is the mean of the runs of A before and after B.
    """
    rounds, peer_rounds = ours.calibrate(seconds), peer.calibrate(seconds)
    a, b = [ours.speed(rounds)], []
    for _ in range(repeats):
        b.append(peer.speed(peer_rounds))
        a.append(ours.speed(rounds))
    ratios = [(x + y) / 2 / z for (x, y), z in zip(pairwise(a), b, strict=True)]
    return a, b, ratios


def arguments(claim: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options of every benchmark."""
    parser = argparse.ArgumentParser(
        description=claim, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="auto", type=_absolute, help="as nanograd train --data")
    parser.add_argument("--json", type=Path, help="append the rows to this file, one per line")
    return parser


def _absolute(data: str) -> str:
    """Return the absolute path of a folder, because Ray Train's loops run in another folder."""
    return str(Path(data).resolve()) if Path(data).exists() else data


def report(rows: Sequence[Row], place: Path | None) -> None:
    """Print the rows as JSON lines and as a table."""
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    sys.stdout.write(f"{lines}\n{table(rows)}")
    if place is not None:
        with place.open("a") as file:
            file.write(lines)


def table(rows: Sequence[Row]) -> str:
    """Format rows as a Markdown table."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[_cell(row.get(name, "")) for name in names] for row in rows]
    lines = [names, ["---"] * len(names), *cells]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def facts() -> Row:
    """Return the machine, the versions and the commit."""
    git = subprocess.run(
        ["git", "describe", "--always", "--dirty"],  # noqa: S607 - any git will do
        cwd=HERE,
        capture_output=True,
        text=True,
        check=False,
    )
    return {
        "cpu": cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "linux": platform.release(),
        **{name: _version(name) for name in _PACKAGES},
        "commit": git.stdout.strip() or "unknown",
    }


def cpu() -> str:
    """Return the name of the processor."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


@contextmanager
def processes(*settings: Setting) -> Iterator[list[Process]]:
    """Start contenders one after another."""
    with ExitStack() as stack:
        yield [stack.enter_context(Process(setting)) for setting in settings]


def busy_ticks() -> int:
    """Return the clock ticks of busy time so far, summed over all cores."""
    ticks = [int(each) for each in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return sum(ticks) - ticks[3] - ticks[4]  # without idle time and waiting for I/O


def tree(root: int) -> dict[int, int]:
    """Return the process ID -> clock ticks of processor time, of a process and its descendants."""
    parents, ticks = {}, {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with suppress(OSError):  # the process has just ended
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                pid = int(folder.name)
                parents[pid], ticks[pid] = int(fields[1]), int(fields[11]) + int(fields[12])
    return {pid: number for pid, number in ticks.items() if root in _ancestry(pid, parents)}


def _signal(pids: Sequence[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def _ancestry(pid: int, parents: dict[int, int]) -> list[int]:
    line = [pid]
    while line[-1] in parents:
        line.append(parents[line[-1]])
    return line


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
