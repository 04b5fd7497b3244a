"""The training loop: rounds, epochs, checkpoints. All worker groups use the same loop."""

from threading import Event as StopSignal
from time import perf_counter

from nanograd.errors import Stopped
from nanograd.runtime.events import EpochFinished, Listener
from nanograd.training.checkpoint import CheckpointSaver, History
from nanograd.training.evaluation import Evaluator
from nanograd.training.local import WorkerGroup
from nanograd.training.recipe import Recipe
from nanograd.training.server import Snapshot

# Target duration of a segment of rounds, the time for which a stop may have to wait.
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
    """Train a net until the last round of its recipe.

    Args:
        recipe: recipe of the net.
        group: workers and server, at the round where the history ends.
        history: finished epochs; the loop appends to it.
        evaluator: computes metrics after each epoch.
        saver: saves checkpoints.
        listener: receives progress and finished epochs.
        stop: when set, the loop saves a checkpoint and stops.

    Raises:
        Stopped: `stop` was set; the last computed round is saved.
        DivergedError: a gradient, loss or parameter is not finite.
        StorageError: checkpoints cannot be written, several times in a row.
    """
    snapshot, segment = group.snapshot(), 1
    round_, started = snapshot.round, perf_counter() - history.train_s
    listener(evaluator.progress(round_, snapshot, history, group.workers()))
    while round_ < recipe.num_rounds:
        epoch_end = recipe.plan.rounds_per_epoch * (len(history.epochs) + 1)
        until, began = min(round_ + segment, epoch_end), perf_counter()
        group.advance(until)
        seconds = max(perf_counter() - began, 1e-6)
        segment, round_ = max(1, round((until - round_) * _SEGMENT_S / seconds)), until
        history.train_s = perf_counter() - started
        history.fingerprints = list(dict.fromkeys([*history.fingerprints, *group.fingerprints()]))
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
