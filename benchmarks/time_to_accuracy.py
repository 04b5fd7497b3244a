"""Claim: nanograd reaches the accuracy of the program it descends from sooner than its peers.

The figures are seconds of training from the first step until the net classifies 97.72 % of MNIST's
test images correctly. A first run with a seed is interrupted every `--every` images and evaluated,
to find the number of rounds that it needs. A second run with the same seed computes these rounds
without interruption or evaluation, and its time counts. A run that other programs disturbed is
repeated (see throughput.py). The start of processes does not count (start_up.py measures it).
nanograd and the peer take turns after each seed; the waiting process is frozen. Times are medians
over the seeds. A ratio compares two runs with the same seed.

There are two recipes. `adam` is the usual choice of each peer's users (Adam 1e-3, batch 128;
scikit-learn's classifier with its defaults, batch 200). `averaged` is nanograd's recipe (batch 512,
momentum 0.9 at rate 0.25, 80 rounds of warm-up, evaluation of an average of the weights); PyTorch
is measured with it, too. All contenders train on undistorted images, because distortion needs more
epochs to help. The test images only determine when to stop the clock, not any setting.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from statistics import median

from common import Process, Row, arguments, processes, report
from contenders.base import Setting

TARGET = 0.9772

_AVERAGED = Setting(name="nanograd", recipe="averaged", batch=512)
_ADAM = Setting(name="nanograd", recipe="adam", batch=128)
_CONTENDERS = (
    replace(_ADAM, workers=2),
    replace(_ADAM, workers=0),
    replace(_ADAM, name="pytorch", workers=0, threads=2),
    replace(_AVERAGED, name="pytorch", workers=0, threads=2),
    replace(_ADAM, name="pytorch-ddp"),
    replace(_AVERAGED, name="pytorch-ddp"),
    replace(_ADAM, name="ray-train"),
    replace(_ADAM, name="ray-parameter-server"),
    replace(_ADAM, name="scikit-learn", workers=0, threads=1),
    replace(_ADAM, name="scikit-learn", workers=0, threads=2),
)


def measure(
    data: str, only: Sequence[str], every: int, most_epochs: int, seeds: int
) -> Iterator[Row]:
    """Yield a row for each peer and recipe."""
    ours = [replace(_AVERAGED, name="nanograd", data=data, workers=workers) for workers in (2, 0)]
    with processes(*ours) as group:
        racers = [Racer(process, every, most_epochs) for process in group]
        for contender in _CONTENDERS:
            if only and contender.name not in only:
                continue
            with Process(replace(contender, data=data)) as process:
                racer = Racer(process, every, most_epochs)
                runs = [[each.race(seed) for each in [racer, *racers]] for seed in seeds_of(seeds)]
            yield _row(
                process.setting, runs, median(racer.epochs(seed) for seed in seeds_of(seeds))
            )


def seeds_of(number: int) -> range:
    """Return seeds, from 1."""
    return range(1, number + 1)


class Racer:
    """A contender, and the number of rounds that it needs with each seed.

    Args:
        process: the contender.
        every: images between two evaluations of the first run.
        most_epochs: maximum number of epochs.
    """

    def __init__(self, process: Process, every: int, most_epochs: int) -> None:
        self._process, self._batch = process, process.setting.batch
        self._step = max(1, every // self._batch)
        self._most = most_epochs * 60_000 // self._batch
        self._needed: dict[int, int] = {}
        process.request("run", 50)  # so that loading and compiling at first use are not measured

    def race(self, seed: int) -> float:
        """Return the seconds of training until the target accuracy; infinity if it is missed."""
        if seed not in self._needed:
            self._needed[seed] = self._count(seed)
        seconds, _ = self._process.run_quietly(
            self._needed[seed], before=lambda: self._process.request("reset", seed)
        )
        return seconds if self._needed[seed] < self._most else float("inf")

    def epochs(self, seed: int) -> float:
        """Return the epochs of training until the target accuracy."""
        return self._needed[seed] * self._batch / 60_000

    def _count(self, seed: int) -> int:
        self._process.request("reset", seed)
        for rounds in range(self._step, self._most, self._step):
            self._process.request("run", self._step)
            _, accuracy = self._process.request("accuracy")
            if accuracy >= TARGET:
                return rounds
        return self._most


def _row(setting: Setting, runs: Sequence[Sequence[float]], epochs: float) -> Row:
    theirs, with_ray, alone = zip(*runs, strict=True)
    row = {
        "peer": setting.name,
        "recipe": f"{setting.recipe}, {setting.batch}",
        "processes x threads": _processes(setting),
        "its epochs": round(epochs, 2),
        "its seconds": round(median(theirs), 3),
        "--workers 2": round(median(with_ray), 3),
        "--workers 0": round(median(alone), 3),
        "times --workers 2": round(median(t / o for t, o, _ in runs), 2),
        "times --workers 0": round(median(t / o for t, _, o in runs), 2),
        "fastest, times --workers 2": round(min(theirs) / min(with_ray), 2),
        "fastest, times --workers 0": round(min(theirs) / min(alone), 2),
    }
    sys.stderr.write(f"{row}\n")
    return row


def _processes(setting: Setting) -> str:
    if setting.name == "nanograd" and not setting.workers:
        return "1 x 2"
    return f"{max(1, setting.workers)} x {setting.threads}"


def main() -> None:
    """Measure and report."""
    parser = arguments(__doc__)
    parser.add_argument("--only", nargs="+", default=[], help="contenders to run")
    parser.add_argument("--every", type=int, default=3_000, help="images between evaluations")
    parser.add_argument("--most-epochs", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    rows = measure(options.data, options.only, options.every, options.most_epochs, options.seeds)
    report(list(rows), options.json)


if __name__ == "__main__":
    main()
