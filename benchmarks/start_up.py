"""Claim: the time of each phase before the first round and after the last round is known.

- Phases of `nanograd train`, in a new process: the interpreter and the imports, the images, Ray,
  the actors, the first round (which opens the shared memory), the end.
- The whole command `nanograd train --epochs 1`, from start to exit, minus the training time that it
  reports.
- Start of the peers, from the command until they can train, each in a new process.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from statistics import median
from time import perf_counter, time

from common import Process, Row, arguments, report
from contenders.base import Setting

_PEERS = (
    Setting(name="nanograd", workers=2),
    Setting(name="nanograd", workers=0),
    Setting(name="pytorch", workers=0, threads=2),
    Setting(name="pytorch-ddp"),
    Setting(name="ray-train"),
    Setting(name="ray-parameter-server"),
    Setting(name="scikit-learn", workers=0, threads=2),
)


def phases(data: str, workers: int, began: float) -> Row:
    """Return the seconds of each phase in this process, which started at time `began`."""
    row: Row = {}
    last = began

    def done(phase: str) -> None:
        nonlocal last
        now = time()
        row[phase] = now - last
        last = now

    from nanograd import cli, commands  # noqa: F401 - the imports of the command

    done("imports")
    from contenders.ours import Ours

    class Timed(Ours):
        """Records when the images and Ray are ready."""

        def reset(self, seed: int) -> None:
            done("images, Ray")
            super().reset(seed)
            done("actors")

    ours = Timed(Setting(name="nanograd", data=data, workers=workers))
    ours.run(1)
    done("first round")
    ours.run(1)
    done("second round")
    ours.close()
    done("end")
    return row


def measure(data: str, repeats: int) -> Iterator[Row]:
    """Yield rows for the phases, the command and the peers."""
    for workers in (2, 0):
        runs = [_phases_of(data, workers) for _ in range(repeats)]
        for phase in runs[0]:
            yield _row(f"--workers {workers}: {phase}", [run[phase] for run in runs])
    for workers in (2, 0):
        runs = [_command(data, workers) for _ in range(repeats)]
        for name in runs[0]:
            yield _row(f"nanograd train --workers {workers}: {name}", [run[name] for run in runs])
    for peer in _PEERS:
        times = []
        for _ in range(repeats):
            with Process(replace(peer, data=data)) as process:
                first_s, _ = process.request("run", 1)
                times.append(process.start_s + first_s)
        name = f"{peer.name}, {peer.workers} workers"
        yield _row(f"{name}: from the command to the end of the first round", times)


def _row(what: str, times: list[float]) -> Row:
    row = {
        "what": what,
        "seconds": round(median(times), 3),
        "fastest": round(min(times), 3),
    }
    sys.stderr.write(f"{row}\n")
    return row


def _phases_of(data: str, workers: int) -> Row:
    command = [sys.executable, __file__, "--data", data, "--phases-of", str(workers)]
    ran = subprocess.run(
        [*command, "--began", str(time())], capture_output=True, text=True, check=True
    )
    row: Row = json.loads(ran.stdout.splitlines()[-1])
    return row


def _command(data: str, workers: int) -> Row:
    with tempfile.TemporaryDirectory() as folder:
        arguments_ = ["--data", data, "--output", f"{folder}/run", "--workers", str(workers)]
        began = perf_counter()
        ran = subprocess.run(
            [sys.executable, "-m", "nanograd", "train", "--epochs", "1", *arguments_],
            capture_output=True,
            text=True,
            check=True,
        )
        whole = perf_counter() - began
    trained = float(json.loads(ran.stdout.splitlines()[-1])["train_s"])
    return {"whole": whole, "training, an epoch": trained, "the rest": whole - trained}


def main() -> None:
    """Measure and report."""
    parser = arguments(__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--phases-of",
        type=int,
        help="measure the phases of this process, with this number of workers",
    )
    parser.add_argument("--began", type=float, help="start time of that process")
    options = parser.parse_args()
    if options.phases_of is not None:
        row = phases(options.data, options.phases_of, options.began)
        sys.stdout.write(json.dumps(row) + "\n")
        return
    report(list(measure(options.data, options.repeats)), options.json)


if __name__ == "__main__":
    main()
