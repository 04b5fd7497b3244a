import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nanograd.training.tree import TreeNode, children, cover, nodes, tree_sum

HELD = st.integers(1, 40).flatmap(
    lambda num_shards: st.tuples(st.just(num_shards), st.frozensets(st.integers(0, num_shards - 1)))
)
OWNERS = st.integers(1, 16).flatmap(
    lambda num_shards: st.lists(st.integers(0, 4), min_size=num_shards, max_size=num_shards)
)


def is_leaf(node: TreeNode) -> bool:
    return node[1] - node[0] == 1


def test_tree_is_the_documented_one() -> None:
    def sum_of(num_shards: int) -> str:
        return tree_sum(
            (0, num_shards),
            lambda node: str(node[0]) if is_leaf(node) else None,
            lambda left, right: f"({left}+{right})",
        )

    sums = [sum_of(num_shards) for num_shards in (1, 2, 3, 6, 8)]

    assert sums == [
        "0",
        "(0+1)",
        "((0+1)+2)",
        "(((0+1)+(2+3))+(4+5))",
        "(((0+1)+(2+3))+((4+5)+(6+7)))",
    ]


@given(HELD)
@example((193, frozenset(range(193))))
@example((193, frozenset()))
@example((8, frozenset({1, 2, 3, 4})))  # neighbours that are no tree node
def test_cover_divides_the_held_shards_into_their_largest_nodes(
    held: tuple[int, frozenset[int]],
) -> None:
    num_shards, shards = held
    tree = nodes((0, num_shards))

    covering = cover((0, num_shards), shards)

    assert [shard for node in covering for shard in range(*node)] == sorted(shards)
    whole = {node for node in tree if shards.issuperset(range(*node))}
    below = {child for node in whole if not is_leaf(node) for child in children(node)}
    assert set(covering) == whole - below
    assert len(set(tree)) == 2 * num_shards - 1


def test_sum_prefers_the_largest_known_node_even_if_it_is_zero() -> None:
    asked = []

    def known(node: TreeNode) -> int | None:
        asked.append(node)
        return {(0, 4): 0, (4, 5): 1, (5, 6): 2}.get(node)

    total = tree_sum((0, 6), known, lambda left, right: left + right)

    assert total == 3
    assert asked == [(0, 6), (0, 4), (4, 6), (4, 5), (5, 6)]
    with pytest.raises(KeyError, match=r"\(2, 3\)"):
        tree_sum((0, 3), {(0, 2): 1}.get, lambda left, right: left + right)


@given(OWNERS, st.integers(0, 2**32 - 1))
def test_sum_has_the_same_bits_for_any_decomposition(owners: list[int], seed: int) -> None:
    root = (0, len(owners))
    scales = 10.0 ** np.random.default_rng(seed).uniform(-6, 6, (len(owners), 1))
    leaves = (np.random.default_rng(seed).normal(size=(len(owners), 7)) * scales).astype(np.float32)

    def leaf(node: TreeNode) -> np.ndarray | None:
        return leaves[node[0]] if is_leaf(node) else None

    sums = {
        node: tree_sum(node, leaf, np.add)
        for owner in set(owners)
        for node in cover(root, frozenset(s for s, o in enumerate(owners) if o == owner))
    }
    total = tree_sum(root, sums.get, np.add)

    assert total.dtype == np.float32
    assert total.tobytes() == tree_sum(root, leaf, np.add).tobytes()
