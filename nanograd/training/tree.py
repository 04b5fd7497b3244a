"""The fixed binary tree in which shard gradients are added.

Floating-point addition is not associative, so the order of a sum is part of its result. Here it is
fixed by the shard ids alone: a node is a range of shards [first, end), its sum is left + right, and
the left child is the largest power of two that leaves something for the right. A worker that holds
all shards of a node may send the node's sum instead of its leaves: the bits are the same.
"""

from collections.abc import Callable
from typing import TypeAlias, TypeVar

Node: TypeAlias = tuple[int, int]
T = TypeVar("T")


def children(node: Node) -> tuple[Node, Node]:
    """The two nodes whose sums are added to give this node's, left first.

    >>> children((0, 8)), children((0, 6))
    (((0, 4), (4, 8)), ((0, 4), (4, 6)))
    """
    first, end = node
    middle = first + (1 << (end - first - 1).bit_length() - 1)
    return (first, middle), (middle, end)


def nodes(node: Node) -> list[Node]:
    """A node and all nodes below it.

    >>> nodes((0, 3))
    [(0, 3), (0, 2), (0, 1), (1, 2), (2, 3)]
    """
    if node[1] - node[0] == 1:
        return [node]
    left, right = children(node)
    return [node, *nodes(left), *nodes(right)]


def cover(node: Node, shards: frozenset[int]) -> list[Node]:
    """The largest nodes below (or at) a node that hold none but the given shards.

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


def tree_sum(node: Node, known: Callable[[Node], T | None], add: Callable[[T, T], T]) -> T:
    """The node's sum, from the sums that are known.

    Args:
        node: whose sum is wanted.
        known: the sum of a node, or None where it must come from its children; never None at a
            leaf.
        add: the sum of a left and a right value.

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
