"""Checkpoints: atomic and checksummed, on a local disk or in an object store.

Each is a safetensors file, `round-<next round>-<16 hex digits of its SHA-256>.safetensors`. The
name says which bytes the file must have: one that was cut short or changed is detected, and the
checkpoint before it is used.
"""

import json
import re
from dataclasses import asdict, dataclass, field
from typing import Any

from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from nanograd.errors import DataError, StorageError
from nanograd.runtime import storage
from nanograd.runtime.events import EpochMetrics, Listener, warning
from nanograd.training.server import LossSum, Snapshot

NUM_KEPT = 3
# The most work that a kill costs, in seconds of training.
INTERVAL_S = 2.0
_MAX_FAILED_SAVES = 3

_NAME = re.compile(r"round-(\d{9})-([0-9a-f]{16})\.safetensors")


@dataclass(kw_only=True)
class History:
    """The finished part of a run."""

    epochs: list[EpochMetrics] = field(default_factory=list)  # metrics of each finished epoch
    # Seconds since training began, evaluation and checkpoints included, pauses not.
    train_s: float = 0.0


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
        train_s: seconds of training at the newest checkpoint.
    """

    def __init__(
        self, folder: str, identity: dict[str, Any], listener: Listener, train_s: float = 0.0
    ) -> None:
        self._folder, self._identity, self._listener = folder, identity, listener
        self._saved_s, self._num_failures = train_s, 0

    def is_due(self, history: History) -> bool:
        """Return whether the newest checkpoint is too old."""
        return history.train_s - self._saved_s > INTERVAL_S

    def save(self, snapshot: Snapshot, history: History) -> None:
        """Save a checkpoint.

        Raises:
            StorageError: this was one failure too many in a row.
        """
        self._saved_s = history.train_s
        now = Checkpoint(identity=self._identity, snapshot=snapshot, history=history)
        try:
            save(self._folder, now)
            self._num_failures = 0
        except StorageError as error:
            self._num_failures += 1
            if self._num_failures > _MAX_FAILED_SAVES:
                raise
            text = f"{error}; training continues and the next checkpoint tries again"
            self._listener(warning(text))


def save(folder: str, checkpoint: Checkpoint) -> None:
    """Commit a checkpoint and remove the oldest ones beyond NUM_KEPT, except the best one.

    Args:
        folder: folder or URI of the run's checkpoints.
        checkpoint: what to store.

    Raises:
        StorageError: it cannot be written; the earlier ones still exist.
    """
    data = _encode(checkpoint)
    name = f"round-{checkpoint.snapshot.round:09d}-{storage.checksum(data)[:16]}.safetensors"
    storage.commit(storage.join(folder, name), data)
    accuracies = {
        epoch.round: epoch.val_accuracy
        for epoch in checkpoint.history.epochs
        if epoch.val_accuracy is not None
    }
    best = max(accuracies, key=accuracies.__getitem__, default=-1)
    for old in _names(folder)[NUM_KEPT:]:
        if int(old.split("-")[1]) != best:
            storage.remove(storage.join(folder, old))


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
        history = History(epochs=epochs, train_s=facts["train_s"])
        return Checkpoint(identity=facts["identity"], snapshot=snapshot, history=history)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"is not a checkpoint of this program: {error}") from error


def _metadata(data: bytes) -> dict[str, Any]:
    # A safetensors file begins with the length of a JSON header as 8 bytes, little-endian.
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return dict(json.loads(header["__metadata__"]["nanograd"]))
