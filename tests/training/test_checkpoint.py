from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from nanograd.errors import StorageError
from nanograd.nn.optimizers import State
from nanograd.runtime import storage
from nanograd.runtime.events import EpochMetrics, Event
from nanograd.training.checkpoint import Checkpoint, History, newest, save
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
    state: State = {"mean": mean, "square": square} if adam else {}
    epochs = [
        EpochMetrics(
            epoch=i + 1,
            round=10 * (i + 1),
            loss=0.1,
            val_accuracy=accuracy,
            learning_rate=0.3,
            train_s=i / 3,
            images_per_s=193,
        )
        for i, accuracy in enumerate(accuracies or [])
    ]
    return Checkpoint(
        identity=IDENTITY,
        snapshot=Snapshot(
            round=round_,
            vector=vector,
            state=state,
            average=vector + 1 if adam else None,
            progress=LossSum(loss=0.1, num_images=193),
        ),
        history=History(epochs=epochs, train_s=1 / 3),
    )


def vector_bits(checkpoint: Checkpoint | None) -> bytes:
    assert checkpoint is not None
    assert checkpoint.snapshot.vector.dtype == np.float32
    return checkpoint.snapshot.vector.tobytes()


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    """A folder with two checkpoints, of rounds 1 and 2, and the file of the newer one."""
    for round_ in (1, 2):
        save(str(tmp_path), some_checkpoint(round_))
    return tmp_path, tmp_path / storage.names(str(tmp_path))[-1]


@pytest.mark.parametrize("adam", [False, True])
def test_checkpoint_survives_a_round_trip_bit_by_bit(tmp_path: Path, adam: bool) -> None:
    checkpoint, events = some_checkpoint(7, [0.5, None], adam), Events()

    save(str(tmp_path), checkpoint)
    again = newest(str(tmp_path), events.append)

    assert events == []
    assert again is not None
    assert bits(again.snapshot) == bits(checkpoint.snapshot)
    assert again.identity == IDENTITY
    assert again.history == checkpoint.history


def test_no_folder_and_an_empty_folder_have_no_checkpoint(tmp_path: Path) -> None:
    events = Events()

    assert newest(str(tmp_path), events.append) is None
    assert newest(str(tmp_path / "missing"), events.append) is None
    assert events == []


def test_newest_is_the_one_of_the_latest_round(tmp_path: Path) -> None:
    for round_ in (9, 100, 10):
        save(str(tmp_path), some_checkpoint(round_))

    found = newest(str(tmp_path), Events().append)

    assert vector_bits(found) == vector_bits(some_checkpoint(100))


DAMAGES: dict[str, Callable[[bytes, int], bytes]] = {
    "truncated": lambda data, position: data[:position],
    "lowest bit flipped": lambda data, position: flipped(data, position, 1),
    "highest bit flipped": lambda data, position: flipped(data, position, 128),
}


def flipped(data: bytes, position: int, bits: int) -> bytes:
    return data[:position] + bytes([data[position] ^ bits]) + data[position + 1 :]


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_damage_at_every_byte_is_detected_and_the_checkpoint_before_is_used(
    two: tuple[Path, Path], damage: Callable[[bytes, int], bytes]
) -> None:
    folder, file = two
    whole, expected = file.read_bytes(), vector_bits(some_checkpoint(1))

    for position in range(len(whole)):
        file.write_bytes(damage(whole, position))
        events = Events()

        assert vector_bits(newest(str(folder), events.append)) == expected
        [event] = events
        assert str(file) in str(event)
        assert "damaged" in str(event)
        assert "before it is used" in str(event)


def test_all_damaged_checkpoints_are_named_and_none_is_used(two: tuple[Path, Path]) -> None:
    folder, _ = two
    names = storage.names(str(folder))
    for name in names:
        (folder / name).write_bytes(b"")
    events = Events()

    found = newest(str(folder), events.append)

    assert found is None
    assert all(name in str(event) for name, event in zip(names[::-1], events, strict=True))


def test_file_that_fits_its_name_but_is_no_checkpoint_is_skipped(
    two: tuple[Path, Path],
) -> None:
    folder, _ = two
    data = b"something else"
    name = f"round-000000003-{storage.checksum(data)[:16]}.safetensors"
    storage.commit(str(folder / name), data)
    events = Events()

    found = newest(str(folder), events.append)

    assert vector_bits(found) == vector_bits(some_checkpoint(2))
    assert len(events) == 1
    assert name in str(events[0])


def test_foreign_files_are_ignored(two: tuple[Path, Path]) -> None:
    folder, _ = two
    for name in ("zzz.safetensors", ".round-000000009.tmp", "round-9.safetensors", "README"):
        storage.commit(str(folder / name), b"mine")
    events = Events()

    found = newest(str(folder), events.append)

    assert vector_bits(found) == vector_bits(some_checkpoint(2))
    assert events == []


KEPT: dict[str, tuple[list[float | None], list[int]]] = {
    "no epoch": ([], [70, 80, 90]),
    "no validation": ([None] * 9, [70, 80, 90]),
    "the first of two": ([0.5, 0.9, 0.8, 0.7, 0.9, 0.6, 0.6, 0.6, 0.6], [20, 70, 80, 90]),
    "a later one": ([0.8, 0.7, 0.7, 0.7, 0.9, 0.6, 0.6, 0.6, 0.6], [50, 70, 80, 90]),
}


@pytest.mark.parametrize(("accuracies", "kept"), KEPT.values(), ids=KEPT.keys())
def test_three_newest_and_the_best_epoch_are_kept(
    tmp_path: Path, accuracies: list[float | None], kept: list[int]
) -> None:
    for number in range(1, 10):
        save(str(tmp_path), some_checkpoint(10 * number, accuracies[:number]))

    assert [int(name.split("-")[1]) for name in storage.names(str(tmp_path))] == kept


def test_save_that_fails_leaves_the_earlier_ones(two: tuple[Path, Path]) -> None:
    folder, file = two
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    blocked = folder / file.name.replace("safetensors", "safetensors/below")

    with pytest.raises(StorageError, match="cannot write"):
        save(str(blocked.parent), some_checkpoint(3))

    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
