"""Checkpoints: atomic, checksummed, on a local disk or in an object store.

One safetensors file each, `round-<next round>-<16 hex digits of its SHA-256>.safetensors`: the
name says what the bytes must be, so a file that was cut short or changed is noticed and the one
before it is used.
"""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from nanograd.errors import DataError
from nanograd.runtime import storage
from nanograd.training.server import Progress, Snapshot

NUM_KEPT = 3

_NAME = re.compile(r"round-(\d{9})-([0-9a-f]{16})\.safetensors")


@dataclass(kw_only=True)
class History:
    """What a run has behind it.

    Args:
        epochs: a row of figures for each finished epoch, as in metrics.jsonl.
        train_s: seconds since training began, evaluations and checkpoints included, pauses not.
    """

    epochs: list[dict[str, Any]] = field(default_factory=list)
    train_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A run, set down so that it can go on elsewhere and later.

    Args:
        identity: the settings and data that determine the run's bits.
        snapshot: where training stands.
        history: what is behind it.
    """

    identity: dict[str, Any]
    snapshot: Snapshot
    history: History


def save(place: str, checkpoint: Checkpoint) -> None:
    """Commit a checkpoint and remove the oldest ones beyond NUM_KEPT, the best one aside.

    Args:
        place: the folder or URI of the run's checkpoints.
        checkpoint: what to keep.

    Raises:
        StorageError: it cannot be written; the earlier ones are still there.
    """
    data = _encode(checkpoint)
    name = f"round-{checkpoint.snapshot.round:09d}-{storage.checksum(data)[:16]}.safetensors"
    storage.commit(storage.join(place, name), data)
    rows = [row for row in checkpoint.history.epochs if row["val_accuracy"] is not None]
    best = max(rows, key=lambda row: row["val_accuracy"], default={"round": -1})
    for old in _names(place)[NUM_KEPT:]:
        if _round(old) != best["round"]:
            storage.remove(storage.join(place, old))


def newest(place: str, say: Callable[[str], None]) -> Checkpoint | None:
    """The newest checkpoint that is whole, or None.

    Args:
        place: the folder or URI of the run's checkpoints.
        say: told of each checkpoint that is passed over because it is damaged.
    """
    return next(_readable(place, say), None)


def _readable(place: str, say: Callable[[str], None]) -> Iterator[Checkpoint]:
    for name in _names(place):
        file = storage.join(place, name)
        try:
            yield _decode(name, storage.read(file))
        except DataError as error:
            say(f"{file} {error}; the checkpoint before it is used")


def _names(place: str) -> list[str]:
    """Checkpoints, newest first."""
    return sorted((name for name in storage.names(place) if _NAME.fullmatch(name)), reverse=True)


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
        "epochs": history.epochs,
        "loss": snapshot.progress.loss,
        "num_images": snapshot.progress.num_images,
        "train_s": history.train_s,
    }
    return bytes(save_tensors(tensors, metadata={"nanograd": json.dumps(facts)}))


def _decode(name: str, data: bytes) -> Checkpoint:
    if storage.checksum(data)[:16] != name.split("-")[2].split(".", maxsplit=1)[0]:
        raise DataError("is damaged: its SHA-256 is not the one in its name")
    try:
        tensors = load_tensors(data)
        facts = _metadata(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise DataError(f"is no checkpoint of this program: {error}") from error
    state = {n.removeprefix("state."): t for n, t in tensors.items() if n.startswith("state.")}
    snapshot = Snapshot(
        round=facts["round"],
        vector=tensors["vector"],
        state=state,
        average=tensors.get("average"),
        progress=Progress(loss=facts["loss"], num_images=facts["num_images"]),
    )
    history = History(epochs=facts["epochs"], train_s=facts["train_s"])
    return Checkpoint(identity=facts["identity"], snapshot=snapshot, history=history)


def _metadata(data: bytes) -> dict[str, Any]:
    # A safetensors file begins with the length of a JSON header as 8 bytes, little-endian.
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return dict(json.loads(header["__metadata__"]["nanograd"]))
