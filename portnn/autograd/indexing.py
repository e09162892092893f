"""Derivatives of indexing: by ints, slices, None and dots, by a mask, by integers; of ``take``.

What comes back from a part of an array is put into zeros by concatenation, since arrays need not be writable; what
comes back from gathered rows is added up by a product with a matrix of zeros and ones, the only sum over equal indices
that the standard has. Its memory is the number of rows times the number of indices, and a NaN in one row shows in all.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Sequence
from typing import Any

from portnn.autograd.elementwise import Rule
from portnn.autograd.graph import Back, Lazy
from portnn.backends import Array, device

Key = Any
BASIC = (int, slice, type(None), type(Ellipsis))


def is_basic(keys: tuple[Key, ...]) -> bool:
    """Whether an index consists of ints, slices, None and dots alone.

    Examples
    --------
    >>> is_basic((0, slice(1, 3), None, ...)), is_basic(([0, 1],))
    (True, False)

    """
    return all(type(k) in BASIC for k in keys)


def number(k: Key) -> Key:
    """Return an integer, or an array of one without axes, as an int; anything else as it is.

    Examples
    --------
    >>> import numpy as np
    >>> number(np.int32(3)), number(np.asarray(True))
    (3, array(True))

    """
    dtype, shape = str(getattr(k, "dtype", type(k).__name__)), getattr(k, "shape", None)
    if "bool" in dtype or shape or not hasattr(k, "__index__"):
        return k
    return operator.index(k)


class Part(Lazy):
    """The cotangent of an array of which a part was used, by a basic index: zeros elsewhere."""

    __slots__ = ("keys", "shape", "value", "xp")

    def __init__(self, xp: Any, value: Array, keys: tuple[Key, ...], shape: tuple[int, ...]) -> None:
        self.xp, self.value, self.keys, self.shape = xp, value, keys, shape

    @classmethod
    def joined(cls, parts: list[Part]) -> Array:
        """Return the sum; parts that follow one another along an axis are laid out together, in one concatenation."""
        first = parts[0]
        if len(parts) == 1:
            return place(first.xp, first.value, first.keys, first.shape)
        runs = [(_run(_selections(p.keys, p.shape), p.shape), p) for p in parts]
        axis = next((run[0] for run, _ in runs if run), None)
        along = sorted((run[1:], i) for i, (run, _) in enumerate(runs) if run and run[0] == axis)
        pieces, stop, laid = [], 0, set()
        for (start, end), i in along:
            if start >= stop and axis is not None:
                shape, xp = first.shape, first.xp
                piece = xp.reshape(parts[i].value, (*shape[:axis], end - start, *shape[axis + 1 :]))
                pieces += [_zeros(xp, piece, axis, start - stop), piece] if start > stop else [piece]
                stop = end
                laid.add(i)
        rest = [place(p.xp, p.value, p.keys, p.shape) for i, p in enumerate(parts) if i not in laid]
        if pieces and axis is not None:
            if stop < first.shape[axis]:
                pieces.append(_zeros(first.xp, pieces[0], axis, first.shape[axis] - stop))
            rest.append(first.xp.concat(pieces, axis=axis))
        return functools.reduce(operator.add, rest)


def _run(selections: list[range], shape: tuple[int, ...]) -> tuple[int, int, int] | None:
    """Return (axis, start, stop) if entries in a row are chosen along one axis and all along the others, else None."""
    partial = [i for i, (chosen, n) in enumerate(zip(selections, shape, strict=True)) if chosen != range(n)]
    if len(partial) != 1 or selections[partial[0]].step != 1 or not len(selections[partial[0]]):
        return None
    chosen = selections[partial[0]]
    return partial[0], chosen.start, chosen.stop


def part(xp: Any, keys: tuple[Key, ...], shape: tuple[int, ...]) -> Back:
    """Return the pullback of ``x[keys]`` for a basic index of an array of this shape."""
    return lambda dy: Part(xp, dy, keys, shape)


def place(xp: Any, part: Array, keys: tuple[Key, ...], shape: tuple[int, ...]) -> Array:
    """Return zeros of this shape with ``part`` at a basic index.

    Examples
    --------
    >>> import numpy as np
    >>> place(np, np.asarray([5.0, 6.0]), (slice(1, None, 2),), (4,))
    array([0., 5., 0., 6.])

    """
    selections = _selections(keys, shape)
    whole = xp.reshape(part, tuple(len(s) for s in selections))  # without new axes, with those of the ints
    for axis, (chosen, n) in enumerate(zip(selections, shape, strict=True)):
        if chosen != range(n):
            whole = _spaced(xp, whole, axis, chosen, n)
    return whole


def _selections(keys: tuple[Key, ...], shape: tuple[int, ...]) -> list[range]:
    """Return for each axis which of its entries are chosen."""
    named = [k for k in keys if k is not None]
    dots = named.index(Ellipsis) if Ellipsis in named else len(named)
    left = len(shape) - (len(named) - (dots < len(named)))
    named[dots : dots + 1] = [slice(None)] * left
    chosen = []
    for k, n in zip(named, shape, strict=True):
        start = k if isinstance(k, slice) else operator.index(k) % n
        chosen.append(range(*start.indices(n)) if isinstance(start, slice) else range(start, start + 1))
    return chosen


def _spaced(xp: Any, x: Array, axis: int, chosen: range, n: int) -> Array:
    """Return ``x`` along an axis of n with its entries where they were chosen, zeros elsewhere."""
    if len(chosen) == 0:
        return _zeros(xp, x, axis, n)
    if chosen.step < 0:
        x, chosen = xp.flip(x, axis=axis), chosen[::-1]
    step, count = chosen.step, len(chosen)
    if step > 1 and count > 1:  # zeros behind each entry
        apart = xp.expand_dims(x, axis=axis + 1)
        apart = xp.concat([apart, _zeros(xp, apart, axis + 1, step - 1)], axis=axis + 1)
        x = xp.reshape(apart, (*x.shape[:axis], count * step, *x.shape[axis + 1 :]))
        if count * step > chosen[-1] + 1 - chosen.start:
            x = x[(*(slice(None),) * axis, slice(0, chosen[-1] + 1 - chosen.start), ...)]
    pieces = [x]
    if chosen.start:
        pieces.insert(0, _zeros(xp, x, axis, chosen.start))
    if chosen[-1] + 1 < n:
        pieces.append(_zeros(xp, x, axis, n - chosen[-1] - 1))
    return xp.concat(pieces, axis=axis) if len(pieces) > 1 else x


def _zeros(xp: Any, like: Array, axis: int, n: int) -> Array:
    return xp.zeros((*like.shape[:axis], n, *like.shape[axis + 1 :]), dtype=like.dtype, device=device(like))


def masked(xp: Any, mask: Array, shape: tuple[int, ...]) -> Back:
    """Return the pullback of ``x[mask]``: the entries back where the mask is true, in its order."""

    def back(dy: Array) -> Array:
        if not math.prod(dy.shape):
            return xp.zeros(shape, dtype=dy.dtype, device=device(dy))
        flat = xp.reshape(mask, (-1,))
        number = xp.cumulative_sum(xp.astype(flat, xp.int32), axis=0) - 1
        number = xp.maximum(number, xp.zeros_like(number))
        rest = shape[mask.ndim :]
        rows = xp.reshape(xp.take(dy, number, axis=0), shape)
        here = xp.reshape(mask, (*mask.shape, *(1 for _ in rest)))
        return xp.where(here, rows, xp.zeros_like(rows))

    return back


def linear_index(xp: Any, keys: Sequence[Any], shape: tuple[int, ...]) -> Array:
    """Return the numbers, row by row, of the entries at integer arrays and ints, one for each axis of this shape.

    An index that is out of range along its axis becomes one past the last of all, which the library then refuses, or
    treats as it treats any (JAX): nothing is read here, so that it can be compiled.

    Examples
    --------
    >>> import numpy as np
    >>> linear_index(np, [np.asarray([0, -1, 0]), np.asarray([0, 2, 3])], (2, 3))
    array([0, 5, 6])

    """
    total: Any = 0
    outside: Any = False
    for axis, (key, n) in enumerate(zip(keys, shape, strict=True)):
        if hasattr(key, "dtype"):
            key = xp.astype(key, xp.int32) if xp.iinfo(key.dtype).max < math.prod(shape) else key
            outside = outside | (key < -n) | (key >= n)
            key = xp.where(key < 0, key + n, key)
        elif not -n <= (key := operator.index(key)) < n:
            raise IndexError(f"autograd: index {key} is out of range for axis {axis}, which has {n} entries")
        else:
            key = key % n
        total = total * n + key
    return xp.where(outside, xp.full_like(total, math.prod(shape)), total)


def added_up(xp: Any, dy: Array, indices: Array, n: int) -> Array:
    """Return ``(n, ...)``: for each number the sum of the rows ``dy``, ``(k, ...)``, that ``indices``, ``(k,)``, sends
    to it.

    Examples
    --------
    >>> import numpy as np
    >>> added_up(np, np.asarray([1.0, 2.0, 4.0]), np.asarray([2, 0, -1]), 3)
    array([2., 0., 5.])

    """
    k, rest = dy.shape[0], tuple(dy.shape[1:])
    if not k or not n:
        return xp.zeros((n, *rest), dtype=dy.dtype, device=device(dy))
    table = xp.astype(_targets(xp, indices, n), dy.dtype)
    return xp.reshape(xp.matmul(table, xp.reshape(dy, (k, math.prod(rest)))), (n, *rest))


def _targets(xp: Any, indices: Array, n: int) -> Array:
    """Return ``(..., n, k)``: whether an index, ``(..., k)``, is the number of the row."""
    if xp.iinfo(indices.dtype).max < n:
        indices = xp.astype(indices, xp.int32)
    indices = xp.where(indices < 0, indices + n, indices)
    numbers = xp.arange(n, dtype=indices.dtype, device=device(indices))
    return numbers[:, None] == indices[..., None, :]


def _take(xp: Any, y: Array, x: Array, indices: Array, axis: int | None = None) -> Back:
    axis = 0 if axis is None else axis % x.ndim
    n = x.shape[axis]

    def back(dy: Array) -> Array:
        return xp.moveaxis(added_up(xp, xp.moveaxis(dy, axis, 0), indices, n), 0, axis)

    return back


def _take_along_axis(xp: Any, y: Array, x: Array, indices: Array, axis: int = -1) -> Back:
    n = x.shape[axis]

    def back(dy: Array) -> Array:
        last, targets = xp.moveaxis(dy, axis, -1), _targets(xp, xp.moveaxis(indices, axis, -1), n)
        if not last.shape[-1]:
            return xp.moveaxis(xp.zeros((*last.shape[:-1], n), dtype=dy.dtype, device=device(dy)), -1, axis)
        product = xp.matmul(xp.astype(targets, dy.dtype), xp.expand_dims(last, axis=-1))
        return xp.moveaxis(product[..., 0], -1, axis)

    return back


def _repeat(xp: Any, y: Array, x: Array, repeats: Any, axis: int | None = None) -> Back:
    shape = tuple(x.shape)

    def back(dy: Array) -> Array:
        along = 0 if axis is None else axis % len(shape)
        lengths = (math.prod(shape),) if axis is None else shape
        n = lengths[along]
        if isinstance(repeats, int):
            apart = xp.reshape(dy, (*lengths[:along], n, repeats, *lengths[along + 1 :]))
            return xp.reshape(xp.sum(apart, axis=along + 1), shape)
        numbers = xp.arange(n, dtype=repeats.dtype, device=device(repeats))
        rows = added_up(xp, xp.moveaxis(dy, along, 0), xp.repeat(numbers, repeats), n)
        return xp.reshape(xp.moveaxis(rows, 0, along), shape)

    return back


RULES: dict[str, tuple[Rule | None, ...]] = {
    "repeat": (_repeat, None),
    "take": (_take, None),
    "take_along_axis": (_take_along_axis, None),
}
