"""Figures of a job as Ray's own metrics, which every node offers to Prometheus.

Ray puts `ray_` before each name and `_total` after those of counters.
"""

from collections.abc import Callable
from time import perf_counter
from typing import Any, TypeVar

from ray.util.metrics import Counter, Gauge, Histogram

from nanograd.runtime.events import Figures

M = TypeVar("M", Counter, Gauge, Histogram)

_TAGS = ("command", "output")
# Seconds of a round: from a small net in shared memory to a large one over a slow link.
_BOUNDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 5)
# Figures that only grow, by the name they are shown under.
_COUNTERS = {
    "round": ("nanograd_rounds", "Rounds applied by the parameter server."),
    "image": ("nanograd_images", "Images trained on, each once an epoch."),
    "row": ("nanograd_rows", "Rows that are accounted for."),
    "quarantined": ("nanograd_quarantined", "Rows in quarantine."),
}


class RayMetrics:
    """Keeps Ray's metrics at what is shown of a job.

    Args:
        command: whose job it is.
        output: where its result goes.
        clock: seconds that only grow.
    """

    def __init__(
        self, command: str, output: str, clock: Callable[[], float] = perf_counter
    ) -> None:
        tags = {"command": command, "output": output}

        def made(kind: type[M], name: str, about: str, **more: Any) -> M:
            metric = kind(name, about, tag_keys=_TAGS, **more)
            metric.set_default_tags(tags)
            return metric

        self._clock = clock
        self._counters = {name: made(Counter, *about) for name, about in _COUNTERS.items()}
        self._lost = made(Counter, "nanograd_lost_workers", "Workers that were lost and replaced.")
        self._round_s = made(
            Histogram,
            "nanograd_round_seconds",
            "Seconds a round, in the mean over those of a stretch.",
            boundaries=list(_BOUNDS),
        )
        self._working = made(Gauge, "nanograd_workers", "Workers that work.")
        self._loss = made(Gauge, "nanograd_loss", "Training loss of the epoch.")
        self._accuracy = made(Gauge, "nanograd_validation_accuracy", "Of the last epoch, 0 to 1.")
        self._before: Figures | None = None
        self._then = 0.0

    def show(self, figures: Figures) -> None:
        """Bring the metrics to where a job is."""
        if figures["event"] == "lost":
            self._lost.inc()
        if figures["event"] != "progress":
            return
        now, before = self._clock(), self._before
        if before is not None:
            for name in figures.keys() & self._counters.keys():
                if figures[name] > before[name]:
                    self._counters[name].inc(figures[name] - before[name])
        if figures["command"] == "train":
            self._of_training(figures, now)
        self._before, self._then = figures, now

    def _of_training(self, figures: Figures, now: float) -> None:
        rounds = figures["round"] - self._before["round"] if self._before else 0
        if rounds > 0:
            self._round_s.observe((now - self._then) / rounds)
        self._working.set(sum(each == "working" for each in figures["workers"].values()))
        for gauge, name in ((self._loss, "loss"), (self._accuracy, "val_accuracy")):
            if figures[name] is not None:
                gauge.set(figures[name])
