"""The graph that a computation leaves, and the way back through it.

A node is what remains of a recorded operation: its number, the shape and dtype of its value, and one edge for each
argument that was recorded, with the pullback to it. A node knows those that it was computed from and nothing knows a
node but the arrays and nodes computed from it, so there are no cycles: the graph goes when the last of them goes.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterable
from typing import Any

from portnn.backends import Array, namespace
from portnn.primitives import sum_rows

Back = Callable[[Array], Array]  # from the cotangent of a value to that of one argument
Edge = tuple["Node", Back]

_number = itertools.count().__next__


class Node:
    """One recorded value; a leaf, which is what is differentiated with respect to, has no edges."""

    __slots__ = ("__weakref__", "dtype", "edges", "name", "number", "shape")

    def __init__(self, edges: tuple[Edge, ...], shape: tuple[int, ...], dtype: Any, name: str) -> None:
        self.edges, self.shape, self.dtype, self.name = edges, shape, dtype, name
        self.number = _number()  # larger than those of all nodes that it was computed from


class Lazy:
    """A cotangent that waits for the others of its array, to be put together with them."""

    __slots__ = ()

    @classmethod
    def joined(cls, parts: list[Any]) -> Array:
        """Return the sum of some of one kind."""
        raise NotImplementedError


def backward(roots: Iterable[tuple[Node, Array]], *, everywhere: bool = False) -> dict[int, Array]:
    """Return the cotangents of the leaves, or of all nodes, by their numbers, given those of the values.

    The nodes are met from the largest number down, which is a topological order: when the turn of a node comes, all
    that was computed from it has added its part. There is no recursion, whatever the depth, and the graph is not
    changed, so that it can be walked again.
    """
    found: dict[int, Array] = {}
    waiting: dict[int, Node] = {}
    cotangents: dict[int, Array] = {}
    lazy: dict[int, list[Lazy]] = {}
    heap: list[int] = []

    def add(node: Node, cotangent: Array | Lazy) -> None:
        number = node.number
        if number not in waiting:
            waiting[number] = node
            heapq.heappush(heap, -number)
        if isinstance(cotangent, Lazy):
            lazy.setdefault(number, []).append(cotangent)
            return
        cotangent = fitted(cotangent, node.shape, node.dtype)
        cotangents[number] = cotangents[number] + cotangent if number in cotangents else cotangent

    for node, cotangent in roots:
        add(node, cotangent)
    while heap:
        number = -heapq.heappop(heap)
        node = waiting[number]
        if number in lazy:
            parts = lazy.pop(number)
            add(node, type(parts[0]).joined(parts))
        del waiting[number]
        cotangent = cotangents.pop(number)
        if everywhere or not node.edges:
            found[number] = cotangent
        for parent, back in node.edges:
            add(parent, back(cotangent))
    return found


def fitted(cotangent: Array, shape: tuple[int, ...], dtype: Any) -> Array:
    """Return a cotangent in the shape and dtype of its argument: summed where that was broadcast, cast where promoted.

    Examples
    --------
    >>> import numpy as np
    >>> fitted(np.ones((4, 3)), (3,), np.float32)
    array([4., 4., 4.], dtype=float32)

    """
    if cotangent.shape != shape:
        cotangent = _summed(cotangent, shape)
    if cotangent.dtype != dtype:
        xp = namespace(cotangent)
        if xp.isdtype(cotangent.dtype, "complex floating"):
            raise TypeError(
                f"autograd: a cotangent is {cotangent.dtype}, expected {dtype}; keep complex numbers out of f"
            )
        cotangent = xp.astype(cotangent, dtype)
    return cotangent


def _summed(cotangent: Array, shape: tuple[int, ...]) -> Array:
    """Return the sum over the axes along which an argument of this shape was broadcast.

    Numerical stability: over the batch, as of a bias, blockwise; see :func:`portnn.primitives.sum_rows`.
    """
    extra = cotangent.ndim - len(shape)
    axes = tuple(i for i, n in enumerate(cotangent.shape) if i < extra or (shape[i - extra] == 1 and n != 1))
    xp = namespace(cotangent)
    if cotangent.ndim > 1 and axes == (cotangent.ndim - 2,):
        cotangent = sum_rows(cotangent)
    else:
        cotangent = xp.sum(cotangent, axis=axes)
    return cotangent if cotangent.shape == shape else xp.reshape(cotangent, tuple(shape))
