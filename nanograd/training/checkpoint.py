"""Checkpoints: atomic and checksummed, on a local disk or in an object store.

Each is a safetensors file, `round-<next round>-<16 hex digits of its SHA-256>.safetensors`. The
name says which bytes the file must have: one that was cut short or changed is detected, and the
checkpoint before it is used.
"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from time import monotonic, sleep
from typing import Any

from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from nanograd.errors import DataError, StorageError
from nanograd.runtime import storage
from nanograd.runtime.events import EpochMetrics, Listener, warning
from nanograd.training.server import LossSum, Snapshot

NUM_KEPT = 3
# Checkpoints are this far apart, in seconds of training: the work that a kill costs. On a slow disk
# they are so far apart that saving takes no more than this share of the time.
INTERVAL_S, _SAVE_SHARE = 2.0, 0.1
_MAX_FAILED_SAVES = 3
# A stopped run tries for this long to save its last round. Kubernetes kills 30 s after SIGTERM.
_GRACE_S = 20.0
_RETRY_S = 0.5
_AND = " and "

_NAME = re.compile(r"round-(\d{9})-([0-9a-f]{16})\.safetensors")


@dataclass(kw_only=True)
class History:
    """The finished part of a run."""

    epochs: list[EpochMetrics] = field(default_factory=list)  # metrics of each finished epoch
    # Seconds since training began, evaluation and checkpoints included, pauses not.
    train_s: float = 0.0
    # Of the arithmetic that computed it, see `process.fingerprint`; of each kind if several did.
    fingerprint: str = ""

    def add_arithmetic(self, fingerprints: Sequence[str]) -> None:
        """Record what computed the newest rounds."""
        known = self.fingerprint.split(_AND) if self.fingerprint else []
        self.fingerprint = _AND.join(dict.fromkeys([*known, *fingerprints]))


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A run as it is stored, so that another process can continue it."""

    identity: dict[str, Any]  # the settings and data that determine the run's bits
    snapshot: Snapshot  # the state of training
    history: History  # the finished part


class CheckpointSaver:
    """Writer of a net's checkpoints, which tolerates a few failures in a row.

    Args:
        folder: folder or URI of the checkpoints.
        identity: of the run.
        listener: receives a warning for each tolerated failure.
        round_: the next round to compute at the newest checkpoint; 0 without one.
        train_s: seconds of training at the newest checkpoint.
        check: raises if the run no longer belongs to this process.
    """

    def __init__(
        self,
        folder: str,
        identity: dict[str, Any],
        listener: Listener,
        *,
        round_: int = 0,
        train_s: float = 0.0,
        check: Callable[[], None] | None = None,
    ) -> None:
        self._check = check
        self._folder, self._identity, self._listener = folder, identity, listener
        self._saved_round, self._tried_s, self._num_failures = round_, train_s, 0
        self._interval_s = INTERVAL_S

    @property
    def is_slow(self) -> bool:
        """Whether saving takes so long that not every epoch ends with it."""
        return self._interval_s > INTERVAL_S

    def is_due(self, history: History) -> bool:
        """Return whether the newest checkpoint is too old."""
        return history.train_s - self._tried_s > self._interval_s

    def save(self, snapshot: Snapshot, history: History) -> None:
        """Save a checkpoint.

        Raises:
            StorageError: this was one failure too many in a row.
        """
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
        """Save the round at which a run stops; try again for the grace period.

        Raises:
            StorageError: it cannot be saved.
        """
        deadline, warned = monotonic() + _GRACE_S, False
        while snapshot.round != self._saved_round:
            try:
                self._save(snapshot, history)
            except StorageError as error:
                if monotonic() >= deadline:
                    raise self._final(error) from error
                if not warned:
                    self._listener(warning(f"{error}; trying again for {_GRACE_S:.0f} s"))
                warned = True
                sleep(_RETRY_S)  # no event tells that a disk has space or a store responds again

    def _save(self, snapshot: Snapshot, history: History) -> None:
        if self._check is not None:
            self._check()
        began = monotonic()
        now = Checkpoint(identity=self._identity, snapshot=snapshot, history=history)
        name = save(self._folder, now)
        self._saved_round = snapshot.round
        self._pace(monotonic() - began)
        try:
            prune(self._folder, name, history)
        except StorageError as error:
            self._listener(warning(f"{error}; older checkpoints than needed are left"))

    def _pace(self, save_s: float) -> None:
        """Set the interval after a save; warn when a save first takes longer than INTERVAL_S."""
        if save_s > INTERVAL_S >= self._interval_s:
            apart = (
                f"the next ones are {save_s / _SAVE_SHARE:.0f} s apart, so that training goes on"
            )
            text = f"a checkpoint took {save_s:.1f} s to write to {self._folder}: {apart}"
            self._listener(warning(text))
        self._interval_s = max(INTERVAL_S, save_s / _SAVE_SHARE)

    def _final(self, error: StorageError) -> StorageError:
        saved = f"of round {self._saved_round - 1}" if self._saved_round else "none"
        hint = "repair the storage, then the same command continues"
        return StorageError(f"{error}; the newest checkpoint is {saved}; {hint}")


def save(folder: str, checkpoint: Checkpoint) -> str:
    """Commit a checkpoint; return its name.

    Args:
        folder: folder or URI of the run's checkpoints.
        checkpoint: what to store.

    Raises:
        StorageError: it cannot be written; the earlier ones still exist.
    """
    data = _encode(checkpoint)
    name = f"round-{checkpoint.snapshot.round:09d}-{storage.checksum(data)[:16]}.safetensors"
    storage.commit(storage.join(folder, name), data)
    return name


def prune(folder: str, saved: str, history: History) -> None:
    """Remove the oldest checkpoints beyond NUM_KEPT, except the best one.

    Those of later rounds go, too: the run did not continue from them, so they cannot be read.

    Args:
        folder: folder or URI of the run's checkpoints.
        saved: name of the one that was just saved, which stays.
        history: of the run; says which epoch was the best.

    Raises:
        StorageError: one cannot be removed.
    """
    accuracies = {
        epoch.round: epoch.val_accuracy
        for epoch in history.epochs
        if epoch.val_accuracy is not None
    }
    best = max(accuracies, key=accuracies.__getitem__, default=-1)
    found = _names(folder)
    older = [name for name in found if _round(name) < _round(saved)]
    kept = {saved, *older[: NUM_KEPT - 1], *(name for name in older if _round(name) == best)}
    for name in found:
        if name not in kept:
            storage.remove(storage.join(folder, name))


def newest(folder: str, listener: Listener) -> Checkpoint | None:
    """Return the newest undamaged checkpoint, or None.

    Args:
        folder: folder or URI of the run's checkpoints.
        listener: receives a warning for each damaged checkpoint.
    """
    for name in _names(folder):
        file = storage.join(folder, name)
        try:
            return _decode(name, storage.read(file))
        except DataError as error:
            listener(warning(f"{file} {error}; the checkpoint before it is used"))
    return None


def _names(folder: str) -> list[str]:
    """Return the names of checkpoints, newest first."""
    return sorted((name for name in storage.names(folder) if _NAME.fullmatch(name)), reverse=True)


def _round(name: str) -> int:
    return int(name.split("-")[1])


def _encode(checkpoint: Checkpoint) -> bytes:
    snapshot, history = checkpoint.snapshot, checkpoint.history
    tensors = {"vector": snapshot.vector}
    tensors |= {f"state.{name}": vector for name, vector in snapshot.state.items()}
    if snapshot.average is not None:
        tensors["average"] = snapshot.average
    facts = {
        "identity": checkpoint.identity,
        "round": snapshot.round,
        "epochs": [asdict(epoch) for epoch in history.epochs],
        "loss": snapshot.progress.loss,
        "num_images": snapshot.progress.num_images,
        "train_s": history.train_s,
        "fingerprint": history.fingerprint,
    }
    return bytes(save_tensors(tensors, metadata={"nanograd": json.dumps(facts)}))


def _decode(name: str, data: bytes) -> Checkpoint:
    if storage.checksum(data)[:16] != name.split("-")[2].split(".", maxsplit=1)[0]:
        raise DataError("is damaged: its SHA-256 is not the one in its name")
    try:
        tensors, facts = load_tensors(data), _metadata(data)
        state = {n.removeprefix("state."): t for n, t in tensors.items() if n.startswith("state.")}
        snapshot = Snapshot(
            round=facts["round"],
            vector=tensors["vector"],
            state=state,
            average=tensors.get("average"),
            progress=LossSum(loss=facts["loss"], num_images=facts["num_images"]),
        )
        epochs = [EpochMetrics(**each) for each in facts["epochs"]]
        history = History(
            epochs=epochs, train_s=facts["train_s"], fingerprint=facts.get("fingerprint", "")
        )
        return Checkpoint(identity=facts["identity"], snapshot=snapshot, history=history)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"is not a checkpoint of this program: {error}") from error


def _metadata(data: bytes) -> dict[str, Any]:
    # A safetensors file begins with the length of a JSON header as 8 bytes, little-endian.
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return dict(json.loads(header["__metadata__"]["nanograd"]))
