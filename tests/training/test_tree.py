import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nanograd.training.tree import TreeNode, children, cover, tree_sum

HELD = st.integers(1, 40).flatmap(
    lambda num_shards: st.tuples(st.just(num_shards), st.frozensets(st.integers(0, num_shards - 1)))
)


def is_leaf(node: TreeNode) -> bool:
    return node[1] - node[0] == 1


def nodes(node: TreeNode) -> list[TreeNode]:
    below = () if is_leaf(node) else children(node)
    return [node, *(each for child in below for each in nodes(child))]


def test_tree_is_the_documented_one():
    def sum_of(num_shards: int) -> str:
        return tree_sum(
            (0, num_shards),
            lambda node: str(node[0]) if is_leaf(node) else None,
            lambda left, right: f"({left}+{right})",
        )

    assert [sum_of(num_shards) for num_shards in (1, 2, 3)] == ["0", "(0+1)", "((0+1)+2)"]
    assert sum_of(6) == "(((0+1)+(2+3))+(4+5))"
    assert sum_of(8) == "(((0+1)+(2+3))+((4+5)+(6+7)))"


@given(HELD)
@example((193, frozenset(range(193))))
@example((193, frozenset()))
@example((8, frozenset({1, 2, 3, 4})))  # neighbours that are no tree node
def test_cover_divides_the_held_shards_into_their_largest_nodes(held):
    num_shards, shards = held
    tree = nodes((0, num_shards))

    covering = cover((0, num_shards), shards)

    assert [shard for node in covering for shard in range(*node)] == sorted(shards)
    whole = {node for node in tree if shards.issuperset(range(*node))}
    below = {child for node in whole if not is_leaf(node) for child in children(node)}
    assert set(covering) == whole - below
    assert len(set(tree)) == 2 * num_shards - 1


def test_sum_prefers_the_largest_known_node_even_if_it_is_zero():
    asked = []

    def known(node: TreeNode) -> int | None:
        asked.append(node)
        return {(0, 4): 0, (4, 5): 1, (5, 6): 2}.get(node)

    total = tree_sum((0, 6), known, lambda left, right: left + right)

    assert total == 3
    assert asked == [(0, 6), (0, 4), (4, 6), (4, 5), (5, 6)]
    with pytest.raises(KeyError, match=r"\(2, 3\)"):
        tree_sum((0, 3), {(0, 2): 1}.get, lambda left, right: left + right)
