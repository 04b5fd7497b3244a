import pickle

import numpy as np
import pytest
from numpy.typing import NDArray

from nanograd.digits.dataset import BatchPlan, Dataset, split

SIZES = [1, 7, 193]


def numbered(num_images: int) -> Dataset:
    """Return images whose first two pixels encode their number."""
    images = np.zeros((num_images, 784), np.uint8)
    images[:, 0], images[:, 1] = np.divmod(np.arange(num_images), 256)
    return Dataset(images, (np.arange(num_images) % 10).astype(np.uint8))


def numbers(dataset: Dataset) -> list[int]:
    return [256 * int(high) + int(low) for high, low in dataset.images[:, :2]]


def plan(
    num_images: int = 193, num_shards: int = 8, batch_size: int = 64, seed: int = 5
) -> BatchPlan:
    return BatchPlan(num_images=num_images, num_shards=num_shards, batch_size=batch_size, seed=seed)


def used_in_round(batches: BatchPlan, round_: int, shard: int) -> NDArray[np.int64]:
    order = batches.order(round_ // batches.rounds_per_epoch, shard)
    start = batches.shard_slice(shard).start
    images: NDArray[np.int64] = order[batches.micro_batch(round_, shard)] + start
    return images


@pytest.mark.parametrize("num_images", [*SIZES, 401])
@pytest.mark.parametrize(("num_shards", "batch_size"), [(1, 7), (3, 193), (8, 1), (8, 64)])
def test_every_image_is_used_once_an_epoch_in_rounds_of_full_batches(
    num_images, num_shards, batch_size
):
    batches = plan(num_images, num_shards, batch_size)
    shards = [range(num_images)[batches.shard_slice(shard)] for shard in range(num_shards)]
    assert [image for shard in shards for image in shard] == list(range(num_images))
    for epoch in (0, 2):
        first = epoch * batches.rounds_per_epoch
        used = [
            [used_in_round(batches, round_, shard) for shard in range(num_shards)]
            for round_ in range(first, first + batches.rounds_per_epoch)
        ]
        sizes = [list(map(len, round_)) for round_ in used]
        rounds = range(first, first + batches.rounds_per_epoch)
        assert [batches.round_size(round_) for round_ in rounds] == list(map(sum, sizes))
        assert sorted(np.concatenate([*map(np.concatenate, used)])) == list(range(num_images))
        assert all(size == sizes[0] and sum(size) == batch_size for size in sizes[:-1])
        assert all(size <= whole for size, whole in zip(sizes[-1], sizes[0], strict=True))


def test_order_and_split_of_a_fixed_seed_are_pinned():
    # Runs stored with older numpy must stay repeatable: if this fails, numpy changed its bits.
    order = plan(num_images=96, seed=7).order(epoch=3, shard=5)
    held_out = [numbers(split(numbered(97), 0.1, seed)[1]) for seed in (7, 8)]

    assert order.tolist() == [4, 1, 7, 9, 5, 2, 0, 10, 6, 3, 8, 11]
    assert held_out[0] == [6, 9, 17, 34, 44, 49, 50, 60, 66, 75] != held_out[1]


@pytest.mark.parametrize("num_images", SIZES)
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5])
def test_split_is_disjoint_and_complete_and_keeps_the_order(num_images, share):
    rest, held_out = split(numbered(num_images), share, 2**63 - 1)

    assert len(held_out) == round(share * num_images)
    assert sorted(numbers(rest) + numbers(held_out)) == list(range(num_images))
    for part in (rest, held_out):
        assert numbers(part) == sorted(numbers(part))
        assert part.labels.tolist() == [number % 10 for number in numbers(part)]


def test_dataset_holds_read_only_views_of_arrays_that_stay_writeable():
    images, labels = np.zeros((7, 784), np.uint8), np.zeros(7, np.uint8)
    dataset = Dataset(images, labels)

    images[0, 0] = labels[0] = 1

    assert dataset.images[0, 0] == dataset.labels[0] == 1  # no copies
    for view in (dataset.images, dataset.labels):
        with pytest.raises(ValueError, match="read-only"):
            view[0] = 2


def test_dataset_survives_pickling_without_copies():
    dataset, buffers = numbered(193), list[pickle.PickleBuffer]()

    pickled = pickle.dumps(dataset, protocol=5, buffer_callback=buffers.append)
    again = pickle.loads(pickled, buffers=buffers)  # noqa: S301 - our own

    assert again.sha256() == dataset.sha256()
    assert Dataset(255 - dataset.images, dataset.labels).sha256() != dataset.sha256()
    assert Dataset(dataset.images, 9 - dataset.labels).sha256() != dataset.sha256()
    assert np.shares_memory(again.images, dataset.images)
    with pytest.raises(ValueError, match="read-only"):
        again.images[0, 0] = 1


@pytest.mark.parametrize(
    ("images", "labels"), [((7, 783), (7,)), ((7, 784), (6,)), ((7, 784), (7, 1))]
)
def test_dataset_refuses_shapes_that_do_not_match(images, labels):
    with pytest.raises(ValueError, match="do not fit"):
        Dataset(np.zeros(images, np.uint8), np.zeros(labels, np.uint8))
