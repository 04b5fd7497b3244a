"""The fixed binary tree in which the gradients of shards are added.

Floating-point addition is not associative, so the result of a sum depends on its order. Here only
the numbers of the shards determine the order. A tree node is a range of shards [first, end). Its
sum is left + right. The left child has the largest power of two of shards that leaves some for the
right child. A worker with all shards of a tree node may send their sum, because its bits are the
same as if the server added them.
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


def cover(node: TreeNode, shards: frozenset[int]) -> list[TreeNode]:
    """Return the largest tree nodes within `node` that contain only the given shards.

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
        known: returns the sum of a tree node, or None to add the sums of its children.
        add: adds a left and a right sum.

    Raises:
        KeyError: the sum of a shard, a leaf of the tree, is not known.
    """
    value = known(node)
    if value is not None:
        return value
    if node[1] - node[0] == 1:
        raise KeyError(node)
    left, right = children(node)
    left_sum = tree_sum(left, known, add)
    return add(left_sum, tree_sum(right, known, add))
