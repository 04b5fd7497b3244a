"""Metrics of a job, which Ray exports to Prometheus on every node.

Ray adds `ray_` before each name, and `_total` after the name of a counter.
"""

import os
import string
from time import perf_counter
from typing import Any, TypeVar
from urllib.parse import quote

from ray.util.metrics import Counter, Gauge, Histogram

from nanograd.runtime import events
from nanograd.runtime.events import Event, WorkerState

M = TypeVar("M", Counter, Gauge, Histogram)

_TAGS = ("command", "output")
# Bounds of the histogram of seconds per round, from a small net in shared memory to a large net
# over a slow link.
_BOUNDS = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 5]
# Name and description of the counter for each field of the progress event.
_COUNTERS = {
    "round": ("nanograd_rounds", "Rounds applied by the parameter server."),
    "image": ("nanograd_images", "Images trained on, each once an epoch."),
    "row": ("nanograd_rows", "Rows accounted for."),
    "quarantined": ("nanograd_quarantined", "Rows in quarantine."),
}


class RayMetrics:
    """A listener that updates Ray's metrics from a job's events; the output identifies the job."""

    def __init__(self, command: str, output: str) -> None:
        # Ray accepts only ASCII in tags.
        escaped = quote(os.fsencode(output), safe=string.punctuation + " ")

        def made(kind: type[M], name: str, about: str, **more: Any) -> M:
            metric = kind(name, about, tag_keys=_TAGS, **more)
            metric.set_default_tags({"command": command, "output": escaped})
            return metric

        self._counters = {name: made(Counter, *about) for name, about in _COUNTERS.items()}
        text = "Workers that failed and were replaced."
        self._lost = made(Counter, "nanograd_lost_workers", text)
        text = "Seconds a round, averaged over a segment of rounds."
        self._round_s = made(Histogram, "nanograd_round_seconds", text, boundaries=_BOUNDS)
        self._working = made(Gauge, "nanograd_workers", "Workers that are working.")
        self._loss = made(Gauge, "nanograd_loss", "Training loss of the epoch.")
        text = "Validation accuracy of the last epoch, 0 to 1."
        self._accuracy = made(Gauge, "nanograd_validation_accuracy", text)
        self._before: events.TrainingProgress | events.JobProgress | None = None
        self._then = 0.0

    def __call__(self, event: Event) -> None:
        """Update the metrics from an event."""
        if event.name == "lost":
            self._lost.inc()
        if not isinstance(event, events.TrainingProgress | events.JobProgress):
            return
        now, before = perf_counter(), self._before
        if before is not None:
            for name, counter in self._counters.items():
                if (growth := getattr(event, name, 0) - getattr(before, name, 0)) > 0:
                    counter.inc(growth)
        if isinstance(event, events.TrainingProgress):
            rounds = event.round - getattr(before, "round", event.round)
            if rounds > 0:
                self._round_s.observe((now - self._then) / rounds)
            self._working.set(sum(s is WorkerState.WORKING for s in event.workers.values()))
            for gauge, value in ((self._loss, event.loss), (self._accuracy, event.val_accuracy)):
                if value is not None:
                    gauge.set(value)
        self._before, self._then = event, now
