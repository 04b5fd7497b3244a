from functools import partial

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from nanograd.commands import make_recipe
from nanograd.config.train_config import TrainConfig
from nanograd.training.server import ParameterServer, first_snapshot
from nanograd.training.tree import TreeNode, children, cover, tree_sum
from nanograd.training.worker import Contribution, add

SHARDS = st.integers(1, 40).flatmap(
    lambda num_shards: st.tuples(st.just(num_shards), st.frozensets(st.integers(0, num_shards - 1)))
)
OWNERS = st.integers(1, 16).flatmap(
    lambda num_shards: st.lists(st.integers(0, 4), min_size=num_shards, max_size=num_shards)
)


def parent_of(node: TreeNode, root: TreeNode) -> TreeNode:
    while node not in children(root):
        left, right = children(root)
        root = left if node[1] <= left[1] else right
    return root


@given(SHARDS)
def test_cover_is_a_partition_of_exactly_the_held_shards(
    held: tuple[int, frozenset[int]],
) -> None:
    num_shards, shards = held

    nodes = cover((0, num_shards), shards)

    assert [shard for node in nodes for shard in range(*node)] == sorted(shards)


@given(SHARDS)
def test_cover_is_maximal(held: tuple[int, frozenset[int]]) -> None:
    num_shards, shards = held
    root = (0, num_shards)

    nodes = cover(root, shards)

    for node in nodes:
        if node != root:
            assert not shards.issuperset(range(*parent_of(node, root)))


@given(SHARDS)
def test_cover_of_a_node_of_the_cover_is_that_node(held: tuple[int, frozenset[int]]) -> None:
    num_shards, shards = held

    nodes = cover((0, num_shards), shards)

    assert all(cover((0, num_shards), frozenset(range(*node))) == [node] for node in nodes)


@given(OWNERS, st.integers(0, 2**32 - 1))
def test_tree_sum_has_the_same_bits_for_any_decomposition(owners: list[int], seed: int) -> None:
    root = (0, len(owners))
    scales = 10.0 ** np.random.default_rng(seed).uniform(-6, 6, (len(owners), 1))
    leaves = (np.random.default_rng(seed).normal(size=(len(owners), 7)) * scales).astype(np.float32)

    def leaf(node: TreeNode) -> np.ndarray | None:
        return leaves[node[0]] if node[1] - node[0] == 1 else None

    sums = {
        node: tree_sum(node, leaf, np.add)
        for owner in set(owners)
        for node in cover(root, frozenset(s for s, o in enumerate(owners) if o == owner))
    }
    total = tree_sum(root, sums.get, np.add)

    assert total.dtype == np.float32
    assert total.tobytes() == tree_sum(root, leaf, np.add).tobytes()


@settings(max_examples=50)
@given(OWNERS, st.data())
def test_server_gives_the_same_bits_for_any_owners_order_and_repetition(
    owners: list[int], data: st.DataObject
) -> None:
    num_shards = len(owners)
    config = TrainConfig.resolve({"hidden": 1, "shards": num_shards, "batch_size": 64})
    recipe = make_recipe(config, 193)
    generator = np.random.default_rng(num_shards)

    def leaf(node: TreeNode) -> Contribution | None:
        return leaves[node[0]] if node[1] - node[0] == 1 else None

    leaves = [
        Contribution(
            round=0,
            node=(shard, shard + 1),
            gradient=generator.normal(size=805).astype(np.float32),
            loss=float(generator.uniform()),
            num_images=_num_images(recipe.plan.micro_batch(0, shard)),
        )
        for shard in range(num_shards)
    ]
    held = [frozenset(s for s, o in enumerate(owners) if o == w) for w in set(owners)]
    nodes = [node for shards in held for node in cover((0, num_shards), shards)]
    make = partial(tree_sum, known=leaf, add=add)
    messages = [make(node) for node in data.draw(st.permutations(nodes + nodes[::2]))]

    server = ParameterServer(recipe, first_snapshot(recipe))
    for message in messages:
        server.submit(message)

    alone = ParameterServer(recipe, first_snapshot(recipe))
    alone.submit(make((0, num_shards)))
    assert server.round == alone.round == 1
    assert server.snapshot().vector.dtype == np.float32
    assert server.snapshot().vector.tobytes() == alone.snapshot().vector.tobytes()
    assert server.snapshot().progress == alone.snapshot().progress


def _num_images(part: slice) -> int:
    return int(part.stop - part.start)
