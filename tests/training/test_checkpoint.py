from pathlib import Path

import numpy as np
import pytest

from nanograd.errors import StorageError
from nanograd.nn.optimizers import State
from nanograd.runtime import storage
from nanograd.runtime.events import EpochMetrics, Event
from nanograd.training.checkpoint import Checkpoint, History, newest, save
from nanograd.training.server import LossSum, Snapshot

IDENTITY = {"seed": 2**63 - 1, "ema": 0.1 + 0.2, "loss": "mse", "momentum": None}
Events = list[Event]


def some_checkpoint(
    round_: int, accuracies: list[float | None] | None = None, adam: bool = False
) -> Checkpoint:
    """Seven parameters after some rounds; an epoch for each accuracy, of ten rounds each."""
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


def rounds(folder: Path) -> list[int]:
    return [int(name.split("-")[1]) for name in storage.names(str(folder))]


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

    assert again is not None
    assert events == []
    assert vector_bits(again) == vector_bits(checkpoint)
    assert again.snapshot.round == 7
    assert sorted(again.snapshot.state) == sorted(checkpoint.snapshot.state)
    for name, vector in checkpoint.snapshot.state.items():
        assert again.snapshot.state[name].dtype == np.float32
        assert again.snapshot.state[name].tobytes() == vector.tobytes()
    assert (again.snapshot.average is None) == (not adam)
    if again.snapshot.average is not None:
        np.testing.assert_array_equal(again.snapshot.average, checkpoint.snapshot.average)
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


def test_every_truncation_is_detected_and_the_one_before_is_used(two: tuple[Path, Path]) -> None:
    folder, file = two
    whole, expected = file.read_bytes(), vector_bits(some_checkpoint(1))

    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        events = Events()

        assert vector_bits(newest(str(folder), events.append)) == expected
        assert len(events) == 1
        assert str(file) in str(events[0])
        assert "damaged" in str(events[0])
        assert "before it is used" in str(events[0])


@pytest.mark.parametrize("bit", [0, 7])
def test_every_flipped_byte_is_detected_and_the_one_before_is_used(
    two: tuple[Path, Path], bit: int
) -> None:
    folder, file = two
    whole, expected = file.read_bytes(), vector_bits(some_checkpoint(1))

    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << bit
        file.write_bytes(damaged)
        events = Events()

        assert vector_bits(newest(str(folder), events.append)) == expected
        assert len(events) == 1
        assert file.name in str(events[0])


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


def test_three_newest_are_kept(tmp_path: Path) -> None:
    for round_ in range(1, 8):
        save(str(tmp_path), some_checkpoint(round_))

    assert rounds(tmp_path) == [5, 6, 7]


def test_best_epoch_is_kept_beside_the_three_newest(tmp_path: Path) -> None:
    accuracies: list[float | None] = [0.5, 0.9, 0.8, 0.7, 0.9, 0.6, 0.6]
    for epoch in range(1, 8):
        save(str(tmp_path), some_checkpoint(10 * epoch, accuracies[:epoch]))

    assert rounds(tmp_path) == [20, 50, 60, 70]


def test_best_epoch_gives_way_to_a_better_one(tmp_path: Path) -> None:
    accuracies: list[float | None] = [0.8, 0.7, 0.7, 0.7, 0.9, 0.6, 0.6, 0.6, 0.6]
    for epoch in range(1, 10):
        save(str(tmp_path), some_checkpoint(10 * epoch, accuracies[:epoch]))

    assert rounds(tmp_path) == [50, 70, 80, 90]


def test_run_without_validation_keeps_the_three_newest_alone(tmp_path: Path) -> None:
    for epoch in range(1, 8):
        save(str(tmp_path), some_checkpoint(10 * epoch, [None] * epoch))

    assert rounds(tmp_path) == [50, 60, 70]


def test_save_that_fails_leaves_the_earlier_ones(two: tuple[Path, Path]) -> None:
    folder, file = two
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    blocked = folder / file.name.replace("safetensors", "safetensors/below")

    with pytest.raises(StorageError, match="cannot write"):
        save(str(blocked.parent), some_checkpoint(3))

    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
