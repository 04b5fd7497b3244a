from pathlib import Path

import numpy as np
import pytest

from nanograd.errors import StorageError
from nanograd.runtime import storage
from nanograd.runtime.events import EpochMetrics, Event, ignore
from nanograd.training import run_directory as checkpoints
from nanograd.training.run_directory import Checkpoint, CheckpointSaver, History, newest, save
from nanograd.training.server import LossSum, Snapshot
from tests.helpers.runs import bits

IDENTITY = {"seed": 2**63 - 1, "ema": 0.1 + 0.2, "loss": "mse", "momentum": None}
Events = list[Event]


def some_checkpoint(
    round_: int, accuracies: list[float | None] | None = None, adam: bool = False
) -> Checkpoint:
    """Return a checkpoint of seven parameters, with an epoch of ten rounds for each accuracy."""
    generator = np.random.default_rng(round_)
    vector, mean, square = generator.normal(size=(3, 7)).astype(np.float32)
    others = {"state.mean": mean, "state.square": square, "average": vector + 1}
    epochs = [
        EpochMetrics(
            epoch=i + 1, round=10 * (i + 1), loss=0.1, val_accuracy=accuracy, learning_rate=0.3,
            train_s=i / 3, images_per_s=193,
        )
        for i, accuracy in enumerate(accuracies or [])
    ]  # fmt: skip
    snapshot = Snapshot(
        round=round_,
        arrays={"vector": vector} | (others if adam else {}),
        progress=LossSum(loss=0.1, num_images=193),
    )
    history = History(epochs=epochs, train_s=1 / 3)
    return Checkpoint(identity=IDENTITY, snapshot=snapshot, history=history)


def vector_bits(checkpoint: Checkpoint) -> bytes:
    assert checkpoint.snapshot.vector.dtype == np.float32
    return checkpoint.snapshot.vector.tobytes()


def newest_of(folder: Path) -> tuple[bytes | None, list[str]]:
    events = Events()
    found = newest(str(folder), events.append)
    return found and vector_bits(found), [str(event) for event in events]


def rounds_in(folder: Path) -> list[int]:
    return [int(name.split("-")[1]) for name in storage.names(str(folder))]


@pytest.mark.parametrize("adam", [False, True])
def test_checkpoint_survives_a_round_trip_bit_by_bit(tmp_path, adam):
    checkpoint, events = some_checkpoint(7, [0.5, None], adam), Events()

    save(str(tmp_path), checkpoint)
    again = newest(str(tmp_path), events.append)

    assert events == []
    assert again is not None
    assert bits(again.snapshot) == bits(checkpoint.snapshot)
    assert (again.identity, again.history) == (IDENTITY, checkpoint.history)


def test_newest_is_the_one_of_the_latest_round_whatever_else_is_there(tmp_path):
    none, empty = newest_of(tmp_path / "missing"), newest_of(tmp_path)
    for round_ in (9, 100, 10):
        save(str(tmp_path), some_checkpoint(round_))
    for name in ("zzz.safetensors", ".round-000000109.tmp", "round-109.safetensors", "README"):
        storage.commit(str(tmp_path / name), b"mine")

    assert none == empty == (None, [])
    assert newest_of(tmp_path) == (vector_bits(some_checkpoint(100)), [])


def test_damage_at_every_byte_is_detected_and_the_checkpoint_before_is_used(tmp_path):
    older, newer = (tmp_path / save(str(tmp_path), some_checkpoint(round_)) for round_ in (1, 2))
    whole, expected = newer.read_bytes(), vector_bits(some_checkpoint(1))

    for position in range(len(whole)):
        flipped = bytes([whole[position] ^ 1 << position % 8])
        for rest in (b"", flipped + whole[position + 1 :]):
            newer.write_bytes(whole[:position] + rest)
            found, [message] = newest_of(tmp_path)
            assert found == expected
            assert newer.name in message
    older.write_bytes(b"")
    assert newest_of(tmp_path)[0] is None
    # One that fits its name, but is no checkpoint.
    data = b"something else"
    name = f"round-000000003-{storage.checksum(data)[:16]}.safetensors"
    storage.commit(str(tmp_path / name), data)
    assert name in newest_of(tmp_path)[1][0]


def save_with(writer: CheckpointSaver, round_: int, train_s: float = 1.0) -> None:
    writer.save(some_checkpoint(round_).snapshot, History(train_s=train_s))


@pytest.mark.parametrize(("first_damaged", "num_damaged"), [(5, 1), (4, 7)])
def test_damaged_checkpoints_of_later_rounds_displace_no_saved_one(
    tmp_path, num_damaged, first_damaged
):
    for round_ in range(first_damaged, first_damaged + num_damaged):
        name = save(str(tmp_path), some_checkpoint(round_))
        (tmp_path / name).write_bytes(b"damaged")

    for round_ in (1, 2, 3, 4, 5):
        save_with(CheckpointSaver(str(tmp_path), some_checkpoint(0), ignore), round_)
        assert newest_of(tmp_path) == (vector_bits(some_checkpoint(round_)), [])
    assert rounds_in(tmp_path) == [3, 4, 5]


def test_third_failure_in_a_row_ends_the_run_and_names_the_newest_checkpoint(tmp_path):
    events, folder = Events(), tmp_path / "checkpoints"
    writer = CheckpointSaver(str(folder), some_checkpoint(0), events.append)
    save_with(writer, 7)
    folder.rename(tmp_path / "kept")
    folder.write_bytes(b"")  # no folder can be made here

    for round_ in (8, 9):
        save_with(writer, round_)
    with pytest.raises(StorageError, match="has 7 rounds"):
        save_with(writer, 10)

    assert len(events) == 2


def test_slow_saves_are_further_apart_and_a_warning_says_so_once(tmp_path, monkeypatch):
    clock, commit = [0.0], storage.commit

    def commit_slowly(place: str, data: bytes) -> None:
        commit(place, data)
        clock[0] += 3.0  # as with a disk whose fsync takes so long

    monkeypatch.setattr(storage, "commit", commit_slowly)
    monkeypatch.setattr(checkpoints, "monotonic", lambda: clock[0])
    events = Events()
    writer = CheckpointSaver(str(tmp_path), some_checkpoint(0), events.append)

    due = []
    for number in (0, 1):
        save_with(writer, 1 + number, 10 + 31 * number)
        due += [writer.is_due(History(train_s=s + 31 * number)) for s in (39, 41)]

    assert due == [False, True, False, True]
    [event] = events
    assert "30 s apart" in str(event)


@pytest.mark.parametrize("round_", [0, 7])
def test_last_round_that_cannot_be_saved_is_never_called_saved(tmp_path, monkeypatch, round_):
    monkeypatch.setattr(checkpoints, "GRACE_S", 0.3)
    monkeypatch.setattr(checkpoints, "RETRY_S", 0.1)
    (tmp_path / "checkpoints").write_bytes(b"")
    events, some = Events(), some_checkpoint(8)
    folder, start = str(tmp_path / "checkpoints"), some_checkpoint(round_)
    writer = CheckpointSaver(folder, start, events.append)

    named = f"has {round_} rounds" if round_ else "no checkpoint exists"
    with pytest.raises(StorageError, match=named):
        writer.save_last(some.snapshot, some.history)

    assert len(events) == 1


def test_last_round_is_saved_once_as_soon_as_the_disk_has_space(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "RETRY_S", 0.01)
    folder, some = tmp_path / "checkpoints", some_checkpoint(8)
    folder.write_bytes(b"")

    writer = CheckpointSaver(str(folder), some_checkpoint(0), lambda event: folder.unlink())
    writer.save_last(some.snapshot, some.history)

    assert newest_of(folder) == (vector_bits(some), [])
    [name] = storage.names(str(folder))
    storage.remove(str(folder / name))
    writer.save_last(some.snapshot, some.history)  # it is saved already
    assert storage.names(str(folder)) == []
