import numpy as np
import pytest

from nanograd.training.tree import TreeNode, children, cover, tree_sum

NUM_SHARDS = [1, 2, 3, 5, 7, 8, 193]


def leaves(node: TreeNode) -> str:
    """How the sum of a node is bracketed."""
    first, end = node
    if end - first == 1:
        return str(first)
    left, right = children(node)
    return f"({leaves(left)}+{leaves(right)})"


def test_tree_is_the_documented_one() -> None:
    brackets = [leaves((0, num_shards)) for num_shards in (1, 2, 3, 6, 8)]

    assert brackets == [
        "0",
        "(0+1)",
        "((0+1)+2)",
        "(((0+1)+(2+3))+(4+5))",
        "(((0+1)+(2+3))+((4+5)+(6+7)))",
    ]


@pytest.mark.parametrize("num_shards", NUM_SHARDS)
def test_children_split_every_node_without_gap_or_overlap(num_shards: int) -> None:
    def check(node: TreeNode) -> int:
        first, end = node
        if end - first == 1:
            return 1
        (left_first, middle), (again, right_end) = children(node)
        assert first == left_first < middle == again < right_end == end
        return check((first, middle)) + check((middle, end))

    assert check((0, num_shards)) == num_shards


@pytest.mark.parametrize("num_shards", NUM_SHARDS)
def test_cover_of_all_shards_is_the_root_and_of_none_is_nothing(num_shards: int) -> None:
    whole = (0, num_shards)

    assert cover(whole, frozenset(range(num_shards))) == [whole]
    assert cover(whole, frozenset()) == []


def test_cover_does_not_join_neighbours_that_are_no_node() -> None:
    assert cover((0, 8), frozenset({1, 2, 3, 4})) == [(1, 2), (2, 4), (4, 5)]


@pytest.mark.parametrize("num_shards", NUM_SHARDS)
def test_sum_adds_in_the_order_of_the_tree(num_shards: int) -> None:
    total = tree_sum(
        (0, num_shards),
        lambda node: str(node[0]) if node[1] - node[0] == 1 else None,
        lambda left, right: f"({left}+{right})",
    )

    assert total == leaves((0, num_shards))


def test_sum_prefers_the_largest_known_node() -> None:
    asked = []

    def known(node: TreeNode) -> int | None:
        asked.append(node)
        return {(0, 4): 10, (4, 5): 1, (5, 6): 2}.get(node)

    total = tree_sum((0, 6), known, lambda left, right: left + right)

    assert total == 13
    assert asked == [(0, 6), (0, 4), (4, 6), (4, 5), (5, 6)]


def test_sum_takes_a_known_zero_as_known() -> None:
    total = tree_sum((0, 2), lambda node: 0 if node == (0, 2) else None, lambda a, b: a + b)

    assert total == 0


def test_sum_without_a_leaf_names_the_leaf() -> None:
    with pytest.raises(KeyError, match=r"\(2, 3\)"):
        tree_sum((0, 3), {(0, 2): 1}.get, lambda left, right: left + right)


def test_order_of_a_float32_sum_matters_so_the_tree_is_needed() -> None:
    vectors = [np.float32([1e8]), np.float32([-1e8]), np.float32([1.0])]

    total = tree_sum((0, 3), lambda n: vectors[n[0]] if n[1] - n[0] == 1 else None, np.add)

    assert total.dtype == np.float32
    assert total.tolist() == [1.0]
    assert (vectors[0] + (vectors[1] + vectors[2])).tolist() == [0.0]
