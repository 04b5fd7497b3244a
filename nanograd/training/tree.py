"""The fixed binary tree in which shard gradients are added.

Floating-point addition is not associative: the order of a sum is part of its result. Here the shard
ids alone determine it. A tree node is a range of shards [first, end); its sum is left + right, and
the left child is the largest power of two that leaves something for the right. A worker that holds
all shards of a tree node may send the node's sum instead of its leaves: the bits are the same.
"""

from collections.abc import Callable
from typing import TypeAlias, TypeVar

TreeNode: TypeAlias = tuple[int, int]
T = TypeVar("T")


def children(node: TreeNode) -> tuple[TreeNode, TreeNode]:
    """Return the two children of a tree node, left first.

    >>> children((0, 8)), children((0, 6))
    (((0, 4), (4, 8)), ((0, 4), (4, 6)))
    """
    first, end = node
    middle = first + (1 << (end - first - 1).bit_length() - 1)
    return (first, middle), (middle, end)


def nodes(node: TreeNode) -> list[TreeNode]:
    """Return a tree node and all its descendants.

    >>> nodes((0, 3))
    [(0, 3), (0, 2), (0, 1), (1, 2), (2, 3)]
    """
    if node[1] - node[0] == 1:
        return [node]
    left, right = children(node)
    return [node, *nodes(left), *nodes(right)]


def cover(node: TreeNode, shards: frozenset[int]) -> list[TreeNode]:
    """Return the largest tree nodes at or below `node` that hold no other than the given shards.

    >>> cover((0, 8), frozenset({0, 1, 2, 3, 6}))
    [(0, 4), (6, 7)]
    """
    first, end = node
    if shards.issuperset(range(first, end)):
        return [node]
    if end - first == 1:
        return []
    left, right = children(node)
    return cover(left, shards) + cover(right, shards)


def tree_sum(node: TreeNode, known: Callable[[TreeNode], T | None], add: Callable[[T, T], T]) -> T:
    """Compute the sum of a tree node from known sums.

    Args:
        node: the tree node.
        known: returns the sum of a tree node, or None to compute it from the children; never None
            at a leaf.
        add: adds a left and a right value.

    Raises:
        KeyError: a leaf is not known.
    """
    value = known(node)
    if value is not None:
        return value
    if node[1] - node[0] == 1:
        raise KeyError(node)
    left, right = children(node)
    left_sum = tree_sum(left, known, add)
    return add(left_sum, tree_sum(right, known, add))
