"""Checkpoints, in a folder or an object store.

A checkpoint is a safetensors file `round-<next round>-<16 hex digits of its SHA-256>.safetensors`.
If its content does not match its name, it is damaged, and the previous checkpoint is used.
"""

import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from time import monotonic, sleep

from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from nanograd.errors import DataError, StorageError
from nanograd.runtime import storage
from nanograd.runtime.events import EpochMetrics, Listener, warning
from nanograd.runtime.json_files import JsonObject
from nanograd.training.server import LossSum, Snapshot

NUM_KEPT = 3
# Seconds of training between two checkpoints; a killed run loses at most this work. If saving is
# slow, the interval grows so that saving takes at most this share of the time.
INTERVAL_S, _SAVE_SHARE = 2.0, 0.1
_MAX_FAILED_SAVES = 3
# Seconds for which a stopped run tries to save. Kubernetes kills a process 30 s after SIGTERM.
GRACE_S = 20.0
RETRY_S = 0.5

_NAME = re.compile(r"round-\d{9}-[0-9a-f]{16}\.safetensors")


@dataclass(kw_only=True)
class History:
    """The finished part of the training of a net."""

    epochs: list[EpochMetrics] = field(default_factory=list)  # finished epochs
    train_s: float = 0.0  # seconds, including evaluation and checkpoints, without pauses
    fingerprints: list[str] = field(default_factory=list)  # distinct fingerprints of workers


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Everything that another process needs to continue the training of a net."""

    identity: JsonObject  # settings and data that determine the bits of the run
    snapshot: Snapshot
    history: History


class CheckpointSaver:
    """Writer of the checkpoints of a net, which only warns of the first two failures in a row.

    Args:
        folder: folder or URI of the checkpoints.
        start: the newest checkpoint, or the first state; it has the identity of the run.
        listener: receives the warnings.
        check: called before each save; raises if another process has taken over the run.
    """

    def __init__(
        self,
        folder: str,
        start: Checkpoint,
        listener: Listener,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self._folder, self._identity, self._listener = folder, start.identity, listener
        self._check = check
        self._saved_round, self._tried_s = start.snapshot.round, start.history.train_s
        self._interval_s, self._num_failures = INTERVAL_S, 0

    @property
    def is_slow(self) -> bool:
        """Whether saving is too slow for a checkpoint after each epoch."""
        return self._interval_s > INTERVAL_S

    def is_due(self, history: History) -> bool:
        """Return whether it is time for the next checkpoint."""
        return history.train_s - self._tried_s > self._interval_s

    def save(self, snapshot: Snapshot, history: History) -> None:
        """Save a checkpoint; warn of a failure, or raise StorageError at the third in a row."""
        self._tried_s = history.train_s
        try:
            self._save(snapshot, history)
            self._num_failures = 0
        except StorageError as error:
            self._num_failures += 1
            if self._num_failures >= _MAX_FAILED_SAVES:
                raise self._final(error) from error
            text = f"{error}; training continues and the next checkpoint tries again"
            self._listener(warning(text))

    def save_last(self, snapshot: Snapshot, history: History) -> None:
        """Save the last round of a stopped run; raise StorageError if that fails for 20 seconds."""
        deadline, warned = monotonic() + GRACE_S, False
        while snapshot.round != self._saved_round:
            try:
                self._save(snapshot, history)
            except StorageError as error:
                if monotonic() >= deadline:
                    raise self._final(error) from error
                if not warned:
                    self._listener(warning(f"{error}; trying again for {GRACE_S:.0f} s"))
                warned = True
                sleep(RETRY_S)  # no event reports that the disk or the store works again

    def _save(self, snapshot: Snapshot, history: History) -> None:
        self._check()
        began = monotonic()
        now = Checkpoint(identity=self._identity, snapshot=snapshot, history=history)
        name = save(self._folder, now)
        self._saved_round, save_s = snapshot.round, monotonic() - began
        if save_s > INTERVAL_S >= self._interval_s:
            text = f"a checkpoint took {save_s:.1f} s to write to {self._folder}; the next ones are"
            self._listener(warning(f"{text} {save_s / _SAVE_SHARE:.0f} s apart"))
        self._interval_s = max(INTERVAL_S, save_s / _SAVE_SHARE)
        try:
            prune(self._folder, name)
        except StorageError as error:
            self._listener(warning(f"{error}; some old checkpoints are not removed"))

    def _final(self, error: StorageError) -> StorageError:
        newest = "no checkpoint exists"
        if self._saved_round:
            newest = f"the newest checkpoint is of round {self._saved_round - 1}"
        return StorageError(f"{error}; {newest}; repair the storage and repeat the command")


def save(folder: str, checkpoint: Checkpoint) -> str:
    """Commit a checkpoint to a folder or URI; return its name."""
    snapshot, history = checkpoint.snapshot, checkpoint.history
    facts = {
        "identity": checkpoint.identity,
        "round": snapshot.round,
        "epochs": [asdict(epoch) for epoch in history.epochs],
        "loss": snapshot.progress.loss,
        "num_images": snapshot.progress.num_images,
        "train_s": history.train_s,
        "fingerprints": history.fingerprints,
    }
    data = bytes(save_tensors(dict(snapshot.arrays), metadata={"nanograd": json.dumps(facts)}))
    name = f"round-{snapshot.round:09d}-{storage.checksum(data)[:16]}.safetensors"
    storage.commit(storage.join(folder, name), data)
    return name


def prune(folder: str, saved: str) -> None:
    """Remove all checkpoints except the newest NUM_KEPT.

    Checkpoints of later rounds than the saved one are removed, too. They are damaged, because
    otherwise the run would have continued from them.
    """
    names, end = _names(folder), saved.rpartition("-")[0]
    older = [name for name in names if name < end]
    for name in names:
        if name not in (saved, *older[: NUM_KEPT - 1]):
            storage.remove(storage.join(folder, name))


def newest(folder: str, listener: Listener) -> Checkpoint | None:
    """Return the newest undamaged checkpoint, or None; warn of each damaged one."""
    for name in _names(folder):
        file = storage.join(folder, name)
        try:
            data = storage.read(file)
            if name.split("-")[2][:16] != storage.checksum(data)[:16]:
                raise DataError(f"{file} is damaged: its SHA-256 is not the one in its name")
            # A safetensors file begins with the length of its JSON header, 8 bytes little-endian.
            header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
            facts = json.loads(header["__metadata__"]["nanograd"])
            snapshot = Snapshot(
                round=facts["round"],
                arrays=load_tensors(data),
                progress=LossSum(loss=facts["loss"], num_images=facts["num_images"]),
            )
            history = History(
                epochs=[EpochMetrics(**each) for each in facts["epochs"]],
                train_s=facts["train_s"],
                fingerprints=facts["fingerprints"],
            )
            return Checkpoint(identity=facts["identity"], snapshot=snapshot, history=history)
        except DataError as error:
            trouble = str(error)
        except (SafetensorError, ValueError, KeyError, TypeError) as error:
            trouble = f"{file} is not a checkpoint of nanograd: {error}"
        listener(warning(f"{trouble}; using the previous checkpoint"))
    return None


def _names(folder: str) -> list[str]:
    """Return the names of the checkpoints, the newest first."""
    return [name for name in reversed(storage.names(folder)) if _NAME.fullmatch(name)]
