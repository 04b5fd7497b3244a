"""The training loop: rounds, epochs, checkpoints. One loop for every group of workers."""

from threading import Event as StopSignal
from time import perf_counter

from nanograd.errors import Stopped
from nanograd.runtime.events import EpochFinished, Listener
from nanograd.training.checkpoint import CheckpointSaver, History
from nanograd.training.evaluation import Evaluator
from nanograd.training.local import WorkerGroup
from nanograd.training.recipe import Recipe
from nanograd.training.server import Snapshot

# A run cannot be stopped inside a segment of rounds: segments aim at this time.
_SEGMENT_S = 0.25


def train(
    recipe: Recipe,
    group: WorkerGroup,
    history: History,
    *,
    evaluator: Evaluator,
    saver: CheckpointSaver,
    listener: Listener,
    stop: StopSignal,
) -> Snapshot:
    """Train to the end of the recipe.

    Args:
        recipe: the computation.
        group: the workers, at the round where the history ends.
        history: finished epochs; extended in place.
        evaluator: evaluates each epoch.
        saver: saves checkpoints.
        listener: receives progress and finished epochs.
        stop: set to end the run early, resumable.

    Raises:
        Stopped: `stop` was set; the newest round has been saved.
        DivergedError: a gradient, loss or parameter is not finite.
        StorageError: checkpoints cannot be written; after a stop, for the grace period.
    """
    snapshot, segments = group.snapshot(), _Segments(group)
    round_, started = snapshot.round, perf_counter() - history.train_s
    listener(evaluator.progress(round_, snapshot, history, group.workers()))
    while round_ < recipe.num_rounds:
        epoch_end = recipe.plan.rounds_per_epoch * (len(history.epochs) + 1)
        round_ = segments.advance(round_, epoch_end)
        history.train_s = perf_counter() - started
        history.add_arithmetic(group.fingerprints())
        is_end = round_ == epoch_end
        if is_end:
            snapshot = group.snapshot()
            history.epochs.append(evaluator.epoch(snapshot, history))
        is_needed = is_end and (round_ == recipe.num_rounds or not saver.is_slow)
        if is_needed or saver.is_due(history):
            snapshot = snapshot if is_end else group.snapshot()
            saver.save(snapshot, history)
        if is_end:
            listener(EpochFinished(metrics=history.epochs[-1]))
        listener(evaluator.progress(round_, snapshot, history, group.workers()))
        if round_ < recipe.num_rounds and stop.is_set():
            saver.save_last(group.snapshot(), history)
            raise Stopped(f"stopped after {round_:,} of {recipe.num_rounds:,} rounds, saved")
    return snapshot


class _Segments:
    """Segments of rounds that take about as long as a stop may wait.

    Args:
        group: the workers.
    """

    def __init__(self, group: WorkerGroup) -> None:
        self._group, self._num_rounds = group, 1

    def advance(self, round_: int, end: int) -> int:
        """Apply the next segment, at most to `end`; return the next round to compute."""
        until, began = min(round_ + self._num_rounds, end), perf_counter()
        self._group.advance(until)
        seconds = max(perf_counter() - began, 1e-6)
        self._num_rounds = max(1, round((until - round_) * _SEGMENT_S / seconds))
        return until
