"""Claim: a failure costs a second or two, and checkpoints cost next to nothing.

The group has two workers (RayGroup, shared memory, preset `fast`). Periods of `--seconds` without
failures (A) and with a worker killed every ten seconds (B) take turns, A B A B A. Goodput is the
rounds per second of a B, over the mean of the A before and after it. It includes the start of the
replacement, on cores that the other worker uses. The cost of a failure is the time of the 20 rounds
after it, minus the time of 20 undisturbed rounds. The failures are a killed worker, a killed server
and a frozen worker (SIGSTOP); the last one ends when its round reaches the deadline of five
seconds. A checkpoint is a copy of the server's state, which is written with its checksum, flushed
and renamed. Its share is its time over the two seconds between two checkpoints.
"""

import os
import signal
import tempfile
from argparse import Namespace
from collections.abc import Iterator
from itertools import pairwise
from statistics import median
from time import monotonic

from common import Row, arguments, report

from nanograd.distributed.cluster import session
from nanograd.distributed.group import RayGroup
from nanograd.images import sources
from nanograd.settings.train_spec import TrainSpec
from nanograd.training import run_directory
from nanograd.training.recipe import make_recipe
from nanograd.training.run_directory import Checkpoint, History
from nanograd.training.server import first_snapshot

ROUNDS = 20
_KILL_EVERY_S = 10.0
_SEGMENT = 25  # rounds between two checks of the clock, about as in the training loop
_MS = 1e3


class Trainer:
    """A group that trains continuously, and failures of its actors.

    Args:
        data: as nanograd train --data.
    """

    def __init__(self, data: str) -> None:
        train = sources.load([data]).train
        spec = TrainSpec(epochs=1000, workers=2)
        recipe = make_recipe(spec, len(train))
        self._group = RayGroup(recipe, train, first_snapshot(recipe))
        self._round = 0
        self._victim = 0
        self.advance(2 * _SEGMENT)

    def advance(self, rounds: int) -> float:
        """Train rounds, and return their seconds."""
        began = monotonic()
        self._round += rounds
        self._group.advance(self._round)
        return monotonic() - began

    def rate(self, seconds: float, kill_every_s: float = float("inf")) -> float:
        """Return rounds per second over a period; kill a worker in each interval of it."""
        began, first, kills = monotonic(), self._round, 0
        while (now := monotonic() - began) < seconds:
            if now > (kills + 0.5) * kill_every_s:
                kills += 1
                self._victim = 1 - self._victim
                self.send(signal.SIGKILL, str(self._victim))
            self.advance(_SEGMENT)
        rate = (self._round - first) / (monotonic() - began)
        self._group.settle()
        return rate

    def send(self, number: signal.Signals, name: str) -> None:
        """Send a signal to a member after all members have joined."""
        self._group.settle()
        servers, members = self._group.servers, self._group.members.present
        host = next(iter(servers.present))
        victim = servers.identity(host) if name == "server" else members[int(name)].identity
        os.kill(victim.pid, number)

    def failure_s(self, number: signal.Signals, name: str) -> float:
        """Return the seconds by which a failure delays the rounds after it."""
        usual = self.advance(ROUNDS)
        self.send(number, name)
        return self.advance(ROUNDS) - usual

    def checkpoint_s(self, place: str) -> float:
        """Return the seconds of a checkpoint."""
        began = monotonic()
        now = Checkpoint(identity={}, snapshot=self._group.snapshot(), history=History())
        run_directory.save(place, now)
        return monotonic() - began

    def close(self) -> None:
        """End the group."""
        self._group.close()


def measure(options: Namespace) -> Iterator[Row]:
    """Yield a row for each kind of disturbance."""
    with session(None, 2), tempfile.TemporaryDirectory() as place:
        trainer = Trainer(options.data)
        try:
            yield _goodput(trainer, options.seconds, options.repeats)
            for what, number, name in (
                ("worker killed", signal.SIGKILL, "0"),
                ("server killed", signal.SIGKILL, "server"),
                ("worker frozen", signal.SIGSTOP, "1"),
            ):
                yield _row(what, [trainer.failure_s(number, name) for _ in range(options.repeats)])
            saves = [trainer.checkpoint_s(place) for _ in range(20)]
            yield _row("checkpoint", saves) | {
                "share of training": f"{100 * median(saves) / run_directory.INTERVAL_S:.2f} %"
            }
        finally:
            trainer.close()


def _goodput(trainer: Trainer, seconds: float, repeats: int) -> Row:
    calm, disturbed = [trainer.rate(seconds)], []
    for _ in range(repeats):
        disturbed.append(trainer.rate(seconds, _KILL_EVERY_S))
        calm.append(trainer.rate(seconds))
    ratios = [2 * b / (x + y) for (x, y), b in zip(pairwise(calm), disturbed, strict=True)]
    least, middle, most = (100 * each(ratios) for each in (min, median, max))
    return {
        "what": "a worker killed every 10 s",
        "goodput": f"{middle:.0f} % ({least:.0f}-{most:.0f})",
        "times": repeats,
    }


def _row(what: str, seconds: list[float]) -> Row:
    return {
        "what": what,
        "ms lost": round(median(seconds) * _MS, 1),
        "at most": round(max(seconds) * _MS, 1),
        "times": len(seconds),
    }


def main() -> None:
    """Measure and report."""
    parser = arguments(__doc__)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--repeats", type=int, default=2)
    options = parser.parse_args()
    report(list(measure(options)), options.json)


if __name__ == "__main__":
    main()
